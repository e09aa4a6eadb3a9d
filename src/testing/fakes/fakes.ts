/**
 * What is loaded when a fake is started, and not before: of the bundle a file of its own, with its own Effect. So
 * nothing but plain values and promises goes in and out here.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { FakeAddress, FakeFaults, FakeOptions, FakeScript, FakeSeen } from "./script.ts"
import { makeFake } from "./startFake.ts"

export { fakeCommand, fakeSchemaText } from "./command.ts"

export interface StartedFake {
  readonly address: FakeAddress
  readonly seen: () => FakeSeen
  readonly fault: (faults: FakeFaults) => Promise<void>
  readonly reset: () => Promise<void>
  readonly stop: () => Promise<void>
}

/** Rejects with what is wrong with the script, by its path. */
export const startedFake = async (script: FakeScript, options: FakeOptions): Promise<StartedFake> => {
  const scope = Effect.runSync(Scope.make())
  const stop = () => Effect.runPromise(Scope.close(scope, Exit.void))
  const made = await Effect.runPromiseExit(Effect.provideService(makeFake(script, options), Scope.Scope, scope))
  if (Exit.isFailure(made)) {
    await stop()
    throw Cause.squash(made.cause)
  }
  const { address, fault, reset, seen } = made.value
  return {
    address,
    seen: () => Effect.runSync(seen),
    fault: (faults) => Effect.runPromise(fault(faults)),
    reset: () => Effect.runPromise(reset),
    stop
  }
}
