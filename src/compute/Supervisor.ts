/**
 * Keeps the actors alive, and notices when one cannot be.
 *
 * A fiber forked into a scope dies without a sound. Every long-lived fiber in this program is therefore started
 * here and nowhere else.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { ActorGaveUp } from "../errors/Failure.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Whether an actor that stopped should be started again.
//
// The three policies and the intensity limit are Erlang's.
// ---------------------------------------------------------------------------------------------------------------------

/** `permanent`: always. `transient`: only if it failed. `temporary`: never. */
export type Policy = "permanent" | "transient" | "temporary"

export const intensity = { restarts: 5, withinMillis: 300_000 } as const

export type Decision = "restart" | "done" | "give-up"

export const decide = (policy: Policy, failed: boolean, restartedAt: ReadonlyArray<number>, now: number): Decision => {
  if (policy === "temporary" || (policy === "transient" && !failed)) return "done"
  const recent = restartedAt.filter((at) => now - at <= intensity.withinMillis)
  return recent.length < intensity.restarts ? "restart" : "give-up"
}

// ---------------------------------------------------------------------------------------------------------------------

export interface Actor<R = never> {
  readonly name: string
  readonly policy: Policy
  readonly run: Effect.Effect<void, unknown, R>
}

const attend = Effect.fnUntraced(function* <R>(actor: Actor<R>) {
  const restartedAt: Array<number> = []
  while (true) {
    const exit = yield* Effect.exit(actor.run)
    const failed = Exit.isFailure(exit)
    if (failed) yield* Effect.logError(`the ${actor.name} stopped`, exit.cause)
    const now = yield* Clock.currentTimeMillis
    const decision = decide(actor.policy, failed, restartedAt, now)
    if (decision === "done") return
    if (decision === "give-up") {
      return yield* new ActorGaveUp({ actor: actor.name, ...(failed ? { cause: Cause.squash(exit.cause) } : {}) })
    }
    restartedAt.push(now)
    while (restartedAt.length > 16) restartedAt.shift()
  }
})

/** Runs until an actor gives up (then stops the others), or until every actor is done. */
export const supervise = <R>(actors: ReadonlyArray<Actor<R>>): Effect.Effect<void, ActorGaveUp, R> =>
  Effect.forEach(actors, (actor) => Effect.annotateLogs(attend(actor), { actor: actor.name }), {
    concurrency: "unbounded",
    discard: true
  })
