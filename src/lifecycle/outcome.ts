/**
 * How the lifecycle moves along the table and says what went wrong: steps, failures, defects.
 *
 * A step is refused by the table only when the end was asked for in between; anything else would be a bug. A failure is
 * logged once, where it is consumed.
 */
import * as Effect from "effect/Effect"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Fact } from "../compute/snapshot.ts"
import { isTerminating, type Trigger } from "../compute/transitions.ts"
import { Abandoned, Defect, type ExitStatus, type Failure, PostmasterDied } from "../errors/Failure.ts"
import { causesOf, explain, hintOf } from "../errors/policy.ts"
import { crashReport } from "../postgres/crashReport.ts"
import type { Running } from "../postgres/Postmaster.ts"

/** Takes a row of the table. The only thing that may have come in between is a request to end. */
export const advance = (on: Trigger, fact: Fact = {}) =>
  Effect.flatMap(ComputeState, (state) => state.send(on, fact)).pipe(
    Effect.catchTag("IllegalTransition", (refused) =>
      isTerminating(refused.from) ? Effect.fail(new Abandoned({ what: on })) : Effect.die(refused)
    )
  )

/** Into `failed`, with the whole chain of causes; a compute that is failed or ending already keeps its status. */
export const failWith = Effect.fnUntraced(function* (what: string, failure: Failure) {
  const state = yield* ComputeState
  const error = explain(failure)
  yield* logFailure(what, failure)
  yield* state.send("Broke", { error }).pipe(Effect.catchTag("IllegalTransition", () => state.note({ error })))
})

/** The sentence, its causes, and what to do. */
export const logFailure = (what: string, failure: Failure) =>
  Effect.logError(`${what}: ${causesOf(failure).join(": ")} (hint: ${hintOf(failure)})`)

/** A bug in `effect` is a failure with a name, so that nobody hangs and the status says what happened. */
export const defectsAsFailures =
  (what: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | Defect, R> =>
    Effect.catchDefect(effect, (cause) => Effect.fail(new Defect({ what, cause })))

/** Returns once somebody asked for the end. */
export const terminationAsked = Effect.flatMap(ComputeState, (state) =>
  state.until("termination_pending_fast", "termination_pending_immediate")
)

/** Whatever is under way when the end is asked for is dropped; who waits for it is answered `Abandoned`. */
export const unlessAsked = <A, E, R>(what: string, effect: Effect.Effect<A, E, R>) =>
  Effect.raceFirst(
    effect,
    Effect.flatMap(terminationAsked, () => Effect.fail(new Abandoned({ what })))
  )

/** Whatever fails once the end was asked for, fails because of it: Postgres is being stopped. */
export const abandonedAtTheEnd =
  (what: string) =>
  <A, R>(effect: Effect.Effect<A, Failure, R>) =>
    Effect.catch(effect, (failure) =>
      Effect.flatMap(ComputeState, (state) => state.now).pipe(
        Effect.flatMap(({ status }) => Effect.fail(isTerminating(status) ? new Abandoned({ what }) : failure))
      )
    )

/** What Postgres's exit and its last records say of its end. */
export const postmasterDied = (postgres: Running, exit: ExitStatus) =>
  Effect.map(postgres.recentLog, (log) => new PostmasterDied({ exit, crashReport: crashReport(exit, log), log }))

/** What needs a Postgres fails as soon as there is none any more, however it waits. */
export const whileAlive = <A, E, R>(postgres: Running, effect: Effect.Effect<A, E, R>) =>
  Effect.raceFirst(
    effect,
    Effect.flatMap(postgres.exit, (exit) => Effect.flatMap(postmasterDied(postgres, exit), Effect.fail))
  )
