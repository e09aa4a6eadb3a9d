/**
 * SIGHUP where no terminal can hang up: the spec is read again from where it came (`-S`, `-c`, or the control plane)
 * and applied as `POST /configure` would. What cannot be read, or is refused, changes nothing.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { Commands } from "../compute/Commands.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { type Failure } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { ServiceManager } from "./serviceManager.ts"

/** Looks for the spec where it came from; `null`: it cannot be looked for again. */
type Refetch = Effect.Effect<ParsedSpec | null, Failure> | null

const reload = Effect.fn("Lifecycle.reload")(function* (refetch: Refetch) {
  const commands = yield* Commands
  if (refetch === null) {
    return yield* Effect.logWarning(
      "received SIGHUP, and nothing is read again: the spec did not come from a file or a control plane; " +
        "send a new one to POST /configure"
    )
  }
  yield* Effect.logInfo("received SIGHUP: the spec is read again, and applied")
  const outcome = yield* refetch.pipe(
    Effect.flatMap((spec) =>
      spec === null
        ? Effect.logWarning("there is no spec where it came from, so the compute stays as it is")
        : Effect.flatMap(commands.submit({ spec, mayQueue: true, key: null }), ({ id }) =>
            // How it went is logged where it is applied.
            Effect.asVoid(commands.requests.settled(id))
          )
    ),
    Effect.result
  )
  if (Result.isFailure(outcome)) {
    const why = causesOf(outcome.failure).join(": ")
    yield* Effect.logError(
      `the spec was read again and is not applied, so the compute stays as it is: ${why} ` +
        "(hint: correct it, and send SIGHUP again)"
    )
  }
})

/** `hangUps`: the next one that nobody has taken. */
export const reloadActor = (
  hangUps: Effect.Effect<unknown>,
  refetch: Refetch,
  manager: ServiceManager | null
): Actor<Commands> => ({
  name: "reload",
  kind: "auxiliary",
  run: Effect.forever(
    Effect.andThen(
      hangUps,
      Effect.suspend(() => (manager === null ? reload(refetch) : manager.reload(reload(refetch))))
    )
  )
})
