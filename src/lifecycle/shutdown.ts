/**
 * The one end. Whatever the cause (asked, Postgres died, a failure, a bug, an interruption) a compute ends here and in
 * this order: no command is taken any more and whoever waits is answered, the cause into the status, Postgres and its
 * sidecars stopped, storage left, the last sync, its LSN recorded. Every stage has a deadline, and none is left out
 * because another failed.
 *
 * Not interruptible: who is in a hurry escalates, which takes the next shutdown stage and gives up the storage.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { Commands } from "../compute/Commands.ts"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { Promotions } from "../compute/Promotions.ts"
import type { Status } from "../compute/transitions.ts"
import {
  Defect,
  type ExitStatus,
  type Failure,
  PostmasterDied,
  PostmasterForced,
  PostmasterNotReady
} from "../errors/Failure.ts"
import { within } from "../errors/within.ts"
import { saysFull } from "../postgres/crashClues.ts"
import type { Running } from "../postgres/Postmaster.ts"
import type { Lsn } from "../spec/identifiers.ts"
import type { Timeline } from "../storage/Storage.ts"
import { defectsAsFailures, failWith, logFailure, postmasterDied } from "./outcome.ts"
import type { Ending } from "./serve.ts"
import type { Held } from "./start.ts"

/** How a compute ended. Postgres's own exit when it was running; a failure when something went wrong. */
export interface Ended {
  readonly exit: ExitStatus | null
  readonly failure: Failure | null
}

/** Sidecars and other hooks are given so long to leave. */
const hooksWithin = Duration.seconds(15)
/** A base may be written, of any size; who cannot wait escalates. */
const leaveWithin = Duration.minutes(10)
/** Safekeepers that do not agree by then will not. */
const syncWithin = Duration.minutes(2)

export const shutdown = Effect.fnUntraced(function* (held: Ref.Ref<Held>, exit: Exit.Exit<Ending, Failure>) {
  const { postgres, timeline } = yield* Ref.get(held)
  // First: a spec that is accepted from now on would move the status away from its last one.
  yield* (yield* Commands).close
  const cause = yield* recordCause(exit, timeline)
  const [spent, stopped] = yield* Effect.timed(stopPostgres(postgres, cause))
  const left = Result.getOrElse(stopped, () => null)
  const forced = postgres === null ? null : yield* reportForced(postgres, spent, cause)
  const failure = cause ?? (Result.isFailure(stopped) ? stopped.failure : forced)
  // Without Postgres's exit nothing can be said of its data; one that could not be stopped goes with the scope.
  const state = yield* ComputeState
  yield* state.note({ postgresAlive: false })
  const synced =
    timeline === null || left === null ? Result.succeed(null) : yield* leaveStorage(timeline, left, spent, failure)
  if (Result.isSuccess(synced)) yield* state.note({ flushLsn: synced.success })
  yield* (yield* Promotions).close
  return { exit: left, failure: failure ?? (Result.isFailure(synced) ? synced.failure : null) } satisfies Ended
}, Effect.uninterruptible)

/** Into the status at once, before the stages take their time. `null`: an end in order. */
const recordCause = Effect.fnUntraced(function* (exit: Exit.Exit<Ending, Failure>, timeline: Timeline | null) {
  const commands = yield* Commands
  if (Exit.isFailure(exit)) {
    const failure = failureOf(exit.cause)
    if (failure === null || failure._tag === "Abandoned") {
      yield* commands.terminate("immediate")
      return failure
    }
    return yield* recordFailure("the compute failed", failure, timeline)
  }
  const ending = exit.value
  if (ending._tag === "Exited" && !(ending.exit._tag === "Code" && ending.exit.code === 0)) {
    return yield* recordFailure("Postgres is gone", yield* postmasterDied(ending.postgres, ending.exit), timeline)
  }
  const { status } = yield* (yield* ComputeState).now
  if (status.startsWith("termination")) return null
  if (ending._tag !== "Asked") {
    yield* Effect.logWarning("Postgres was told to stop by somebody else, so the compute ends in order")
  }
  yield* commands.terminate("immediate")
  return null
})

/**
 * A Postgres that found no room on its disk has gone. What to do about it is the storage's to say, and what the storage
 * can spare makes room for the next one.
 */
const recordFailure = Effect.fnUntraced(function* (what: string, failure: Failure, timeline: Timeline | null) {
  const room = timeline?.room
  if (room === undefined || !wasFull(failure)) {
    yield* failWith(what, failure)
    return failure
  }
  const hint = yield* room.hint
  const hinted =
    failure._tag === "PostmasterDied"
      ? new PostmasterDied({ exit: failure.exit, crashReport: failure.crashReport, log: failure.log, hint })
      : new PostmasterNotReady({ reason: failure.reason, log: failure.log, hint })
  yield* failWith(what, hinted)
  yield* room.giveUp
  return hinted
})

const wasFull = (failure: Failure): failure is PostmasterDied | PostmasterNotReady =>
  (failure._tag === "PostmasterDied" && saysFull(failure.crashReport)) ||
  (failure._tag === "PostmasterNotReady" && saysFull(failure.reason))

/** `null`: it was interrupted from outside, which is a request to end. */
const failureOf = (cause: Cause.Cause<Failure>): Failure | null => {
  const failure = Cause.findError(cause)
  if (Result.isSuccess(failure)) return failure.success
  return Cause.hasDies(cause) ? new Defect({ what: "the lifecycle", cause: Cause.squash(cause) }) : null
}

/** Sidecars leave beside Postgres: a pgbouncer in front of it must not go on taking clients in. */
const stopPostgres = Effect.fnUntraced(function* (postgres: Running | null, before: Failure | null) {
  const hooks = yield* ComputeHooks
  const hooksLeave = hooks.onStopped.pipe(
    defectsAsFailures("stopping the sidecars"),
    within("stopping the sidecars", hooksWithin),
    Effect.catch((failure) => logFailure("the sidecars were not stopped in order", failure))
  )
  const stop: Effect.Effect<ExitStatus | null> = postgres === null ? Effect.succeed(null) : postgres.stop
  const stopping = Effect.result(defectsAsFailures("stopping Postgres")(stop))
  const [stopped] = yield* Effect.all([stopping, hooksLeave], { concurrency: "unbounded" })
  if (Result.isFailure(stopped)) yield* reportFailure(before)("Postgres was not stopped in order", stopped.failure)
  return stopped
})

/** A stop that nobody hurried and that the first stage did not bring about is a failure. `null`: it was in order. */
const reportForced = Effect.fnUntraced(function* (postgres: Running, spent: Duration.Duration, before: Failure | null) {
  const forced = yield* postgres.forcedBy
  if (forced === null) return null
  const failure = new PostmasterForced({ signal: forced.signal, seconds: Math.round(Duration.toSeconds(spent)) })
  if (forced.asked) {
    yield* Effect.logWarning(
      `Postgres was made to leave with ${forced.signal}, as asked; the next start has to recover`
    )
    return null
  }
  yield* reportFailure(before)("Postgres was not stopped in order", failure)
  return failure
})

/** Into status and log. The first cause stays the one in the status. */
const reportFailure = (before: Failure | null) => (before === null ? failWith : logFailure)

/** What storage wants to know of the end, then the last sync. A failure of the first does not spare the second. */
const leaveStorage = Effect.fnUntraced(function* (
  timeline: Timeline,
  exit: ExitStatus,
  spent: Duration.Duration,
  before: Failure | null
) {
  const commands = yield* Commands
  const leaving = timeline
    .leave(exit, spent)
    .pipe(defectsAsFailures("leaving the storage"), within("leaving the storage", leaveWithin))
  const syncing = timeline
    .commitLsn("end")
    .pipe(defectsAsFailures("the last sync"), within("the last sync", syncWithin))
  const stage = <A>(effect: Effect.Effect<A, Failure>) =>
    Effect.result(Effect.raceFirst(Effect.interruptible(effect), Effect.as(commands.escalated, null)))
  const left = yield* stage(Effect.asVoid(leaving))
  if (Result.isFailure(left)) yield* logFailure("the storage was not left in order", left.failure)
  const synced: Result.Result<Lsn | null, Failure> = yield* stage(syncing)
  if (Result.isFailure(synced)) yield* reportFailure(before)("the last sync failed", synced.failure)
  return synced
})

/** Each escalation takes the next shutdown stage at once. Never ends by itself. */
export const escalating = (held: Ref.Ref<Held>) =>
  Effect.flatMap(Commands, (commands) =>
    Stream.runForEach(commands.escalations, () =>
      Effect.flatMap(Ref.get(held), ({ postgres }) => postgres?.escalate ?? Effect.void)
    )
  )

/** Long enough for a control plane that polls to see the end, or the error. */
export const longExitDelay = Duration.seconds(30)
/** Long enough for an answer that is on its way. */
export const shortExitDelay = Duration.millis(300)

/**
 * How long an ended compute stays up so that its control plane can read how it went
 * (docs/reference/compute_ctl.md#exit-delay).
 *
 * `ending` is the last status before the end was reached. A failed *start* stays up so that its error can be read; a
 * Postgres that died while running does not, so that its successor can start at once, nor does a compute that never had
 * a spec, of which there is nothing to read. "fast" and "immediate" are the control plane's words for this delay, not
 * Postgres's shutdown modes.
 */
export const exitDelay = (ending: Status, everRan: boolean, hadSpec: boolean): Duration.Duration =>
  (ending === "termination_pending_fast" && hadSpec) || (ending === "failed" && !everRan)
    ? longExitDelay
    : shortExitDelay
