/**
 * The whole program in a fiber of the test's own process, where its commands, its state and its deadlines can be had.
 */
import { assert } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import * as os from "node:os"
import { parseArguments } from "../../src/cli/arguments.ts"
import { prepare } from "../../src/cli/run.ts"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { Promotions } from "../../src/compute/Promotions.ts"
import { program } from "../../src/lifecycle/Program.ts"

/** Returns when it is running; `end` asks for its end and waits for it. */
export const startInProcess = Effect.fnUntraced(function* (args: ReadonlyArray<string>) {
  const command = Result.getOrThrow(parseArguments(args, {}))
  if (command._tag !== "Run") return assert.fail("these arguments run nothing")
  const around = {
    path: process.env["PATH"],
    home: os.tmpdir(),
    stateHome: undefined,
    pgbouncerPassword: null,
    auditEndpoints: { plain: null, tls: null },
    isRoot: process.getuid?.() === 0,
    programFolder: import.meta.dirname
  }
  const options = yield* prepare(command.settings, around)
  const listening = yield* Deferred.make<Context.Context<ComputeState | Commands | Promotions>>()
  const fiber = yield* program(
    { ...options, exitDelay: false },
    {
      onListening: () =>
        Effect.flatMap(Effect.context<ComputeState | Commands | Promotions>(), (context) =>
          Effect.asVoid(Deferred.succeed(listening, context))
        )
    }
  ).pipe(Effect.forkChild)
  const context = yield* Deferred.await(listening)
  const state = Context.get(context, ComputeState)
  const commands = Context.get(context, Commands)
  const reached = yield* state.until("running", "failed")
  assert.strictEqual(reached.status, "running", reached.error ?? "")
  return {
    state,
    commands,
    promotions: Context.get(context, Promotions),
    end: Effect.andThen(commands.terminate("immediate"), Fiber.join(fiber))
  }
})
