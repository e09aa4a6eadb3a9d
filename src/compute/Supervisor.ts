/**
 * The supervision tree: keeps actors alive, and says when one cannot be.
 *
 * A fiber forked into a scope dies without a sound, so every long-lived fiber of a compute is an actor, started here.
 * An actor that fails, or dies of a bug, is started again after a pause that grows (with jitter, so that a fleet does
 * not retry in step). Until it has worked for a while it shows as the condition `actor_failing`. An auxiliary actor is
 * tried for ever and never ends the compute; an essential one gives up after a few attempts, and the compute fails
 * with its cause.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Metric from "effect/Metric"
import * as Schedule from "effect/Schedule"
import { ActorGaveUp } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { ComputeState } from "./ComputeState.ts"
import { actorRestart } from "./counters.ts"

/** `essential`: the compute is nothing without it. `auxiliary`: it serves all the same. */
export type ActorKind = "essential" | "auxiliary"

export interface Actor<R = never> {
  /** Unique among the actors of a compute; a label of metrics and log lines. */
  readonly name: string
  readonly kind: ActorKind
  /** An auxiliary actor that ends without failure is done, and not started again. An essential one never ends. */
  readonly run: Effect.Effect<void, unknown, R>
}

const firstPause = Duration.millis(100)
const longestPause = Duration.seconds(30)

/** One that has worked for so long since it was started again is well. */
export const healedAfter = Duration.seconds(15)

/** Attempts of an essential actor, the first included, that fail one after the other before it gives up. */
export const essentialAttempts = 6

const pauses = Schedule.exponential(firstPause).pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, longestPause))),
  Schedule.jittered
)

const scheduleOf = (kind: ActorKind) =>
  kind === "auxiliary" ? pauses : Schedule.upTo(pauses, { times: essentialAttempts - 1 })

const Name = Context.Reference<string>("compute/ActorName", { defaultValue: () => "actor" })

/**
 * One turn of an actor that works in turns. Longer than `longest` it shows as the condition `actor_hanging` until it
 * ends: what hangs in it may be a file system, which nobody can interrupt.
 */
export const turn =
  (state: ComputeState["Service"], longest: Duration.Duration) =>
  <A, E, R>(work: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.gen(function* () {
      const name = yield* Name
      const message = `the ${name} has been at one turn of its work for more than ${Duration.format(longest)}`
      let shown = false
      const show = Effect.suspend(() => {
        shown = true
        return state.raise({ code: "actor_hanging", about: name, message })
      })
      const watch = Effect.forkScoped(Effect.andThen(Effect.sleep(longest), show), { startImmediately: true })
      return yield* Effect.scoped(Effect.andThen(watch, work)).pipe(
        Effect.ensuring(Effect.suspend(() => (shown ? state.clear("actor_hanging", name) : Effect.void)))
      )
    })

/** It failed after it had been well: its pauses begin anew. */
class Relapse {
  readonly _tag = "Relapse"
  readonly cause: unknown
  constructor(cause: unknown) {
    this.cause = cause
  }
}

const ended = new Error("it ended, though it never should")
const interrupted = new Error("it was interrupted")

const causeOf = (cause: Cause.Cause<unknown>): unknown =>
  Cause.hasInterruptsOnly(cause) ? interrupted : Cause.squash(cause)

/** One attempt. Whatever goes wrong in it, bugs included, is its failure; how long it went well decides which. */
const attempt = <R>(actor: Actor<R>) =>
  Effect.gen(function* () {
    const state = yield* ComputeState
    const well = yield* Deferred.make<void>()
    const exit = yield* Effect.scoped(
      Effect.andThen(
        Effect.sleep(healedAfter).pipe(
          Effect.andThen(Deferred.succeed(well, undefined)),
          Effect.andThen(state.clear("actor_failing", actor.name)),
          Effect.forkScoped
        ),
        Effect.exit(actor.kind === "essential" ? Effect.andThen(actor.run, Effect.fail(ended)) : actor.run)
      )
    )
    if (Exit.isSuccess(exit)) return yield* state.clear("actor_failing", actor.name)
    // Who interrupts the supervisor ends this fiber here. An interruption that is found is the actor's own, such as a
    // join of a fiber that somebody else stopped: it may not take the whole tree with it.
    const why = causeOf(exit.cause)
    yield* Effect.logDebug(`the ${actor.name} failed`, exit.cause)
    yield* state.raise({
      code: "actor_failing",
      about: actor.name,
      message: `the ${actor.name} failed (${causesOf(why).join(": ")}) and is started again`
    })
    yield* Metric.update(actorRestart(actor.name), 1)
    const wasWell = yield* Deferred.isDone(well)
    return yield* Effect.fail(wasWell ? new Relapse(why) : why)
  })

const keep = <R>(actor: Actor<R>): Effect.Effect<void, ActorGaveUp, R | ComputeState> => {
  const untilRelapse = Effect.retry(attempt(actor), {
    schedule: scheduleOf(actor.kind),
    while: (failure) => !(failure instanceof Relapse)
  })
  return Metric.value(actorRestart(actor.name)).pipe(
    Effect.andThen(Effect.retry(untilRelapse, { while: (failure) => failure instanceof Relapse })),
    Effect.mapError(
      (failure) => new ActorGaveUp({ actor: actor.name, cause: failure instanceof Relapse ? failure.cause : failure })
    ),
    Effect.annotateLogs({ actor: actor.name }),
    Effect.provideService(Name, actor.name)
  )
}

/** Runs until an essential actor gives up (then the others are stopped), or until every actor is done. */
export const supervise = <R>(actors: ReadonlyArray<Actor<R>>): Effect.Effect<void, ActorGaveUp, R | ComputeState> =>
  Effect.forEach(actors, keep, { concurrency: "unbounded", discard: true })
