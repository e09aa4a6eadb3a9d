/**
 * Steps along the table, as the corridor takes them, and how a failure is told where it is consumed.
 *
 * Refuses nothing that the table allows; the one thing that may come in between is an order to end.
 */
import * as Effect from "effect/Effect"
import { ComputeState, type Fact } from "../compute/ComputeState.ts"
import { Abandoned, type Failure } from "../errors/Failure.ts"
import { causesOf, explain, hintOf } from "../errors/explain.ts"
import { isTerminating } from "../compute/Status.ts"
import type { Trigger } from "../compute/transitions.ts"

/** Takes a row. The only thing that may have come in between is an order to end. */
export const advance = (on: Trigger, fact: Fact = {}) =>
  Effect.flatMap(ComputeState, (state) => state.send(on, fact)).pipe(
    Effect.catchTag("IllegalTransition", (refused) =>
      isTerminating(refused.from) ? Effect.fail(new Abandoned({ what: on })) : Effect.die(refused))
  )

/** Into `failed`, with the whole chain of causes; a compute that is failed or ending already keeps its status. */
export const breakWith = Effect.fnUntraced(function*(what: string, failure: Failure) {
  const state = yield* ComputeState
  const error = explain(failure)
  yield* report(what, failure)
  yield* state.send("Broke", { error }).pipe(Effect.catchTag("IllegalTransition", () => state.note({ error })))
})

/** Told once, where it is consumed: the sentence, its causes, and what to do. */
export const report = (what: string, failure: Failure) =>
  Effect.logError(`${what}: ${causesOf(failure).join(": ")} (hint: ${hintOf(failure)})`)
