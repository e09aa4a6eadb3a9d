/**
 * The activity monitor: learns when Postgres was last used, and how long it does not answer (reference section 8).
 *
 * It may miss: a look that fails is logged, counted as downtime and tried again over a new connection, and never
 * stops the compute. It rests while the compute does not run and is done when the compute is ending.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import { ComputeState } from "../compute/ComputeState.ts"
import { TimedOut, WireFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/explain.ts"
import { isTerminating, type Status } from "../compute/Status.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { Wire } from "../pgwire/Wire.ts"
import {
  answered,
  bornUp,
  explainSample,
  judge,
  nothingSeen,
  pauseMillis,
  sawTheSame,
  type Seen,
  silent,
  type Uptime
} from "./activity.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { readSample, sampleSql } from "./sampleSql.ts"

export interface MonitorOptions {
  readonly every: Duration.Duration
  /** For the connection, and for each look. */
  readonly within: Duration.Duration
}

export const defaults: MonitorOptions = { every: Duration.millis(500), within: Duration.seconds(5) }

/** Asks for the sums of pg_stat_database too. Looked up at every look, so a new spec takes effect at once. */
const experimentalFeature = "activity_monitor_experimental"

/** A Postgres that is away for an hour is told in minutes, not in lines. */
const tellEveryMillis = 30_000

const ending = ["termination_pending_fast", "termination_pending_immediate", "terminated"] as const satisfies ReadonlyArray<Status>

interface Memory {
  readonly seen: Seen
  readonly uptime: Uptime
  readonly failures: number
  /** When a failure was last told. */
  readonly toldAt: number
}

const nobody = { client: 0, walsender: 0, subscription: 0, autovacuum: 0 } as const

type Remember = Ref.Ref<Memory>

const inTime = (what: string, limit: Duration.Duration) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.timeoutOrElse(effect, {
    duration: limit,
    orElse: () => Effect.fail(new TimedOut({ what, millis: Duration.toMillis(limit) }))
  })

const downtimeInfo = ({ current, lastUp, total }: Uptime): string =>
  `total_ms: ${total}, current_ms: ${current}, last_up: ${DateTime.formatIso(DateTime.makeUnsafe(lastUp))}`

/** One look. What it proves goes to the shared state. */
const look = Effect.fnUntraced(function*(wire: Wire, memory: Remember, { within }: MonitorOptions) {
  const state = yield* ComputeState
  const admin = yield* Admin
  const { activity, spec } = yield* state.now
  const experimental = spec?.features.has(experimentalFeature) ?? false
  const rows = yield* wire.rows(sampleSql(admin.superuser, experimental), within)
  const sample = readSample(rows[0])
  if (Option.isNone(sample)) {
    return yield* new WireFailed({ operation: "query", peer: wire.peer, detail: "the activity sample has another shape" })
  }
  const before = yield* Ref.get(memory)
  const now = yield* Clock.currentTimeMillis
  const { active, seen } = judge(before.seen, sample.value)
  const uptime = answered(before.uptime, now)
  yield* Ref.set(memory, { seen, uptime, failures: 0, toldAt: 0 })
  if (before.failures > 0) {
    yield* Effect.logInfo(`Postgres answers the activity monitor again, downtime_info="${downtimeInfo(before.uptime)}"`)
  }
  if (before.uptime.current !== 0) yield* state.note({ downtime: { current: 0, total: uptime.total } })
  const explained = explainSample(activity, before.seen, sample.value)
  // A look that sees nothing new wakes nobody who watches the state.
  if (!sawTheSame(activity, explained)) yield* state.note({ activity: explained })
  if (active !== null) yield* state.active(DateTime.makeUnsafe(active))
})

/** Looks over one connection until one fails. */
const session = Effect.fnUntraced(function*(memory: Remember, options: MonitorOptions) {
  const admin = yield* Admin
  const wire = yield* admin.connect("compute_monitor").pipe(inTime("the activity monitor's connection", options.within))
  while (true) {
    yield* look(wire, memory, options)
    yield* Effect.sleep(options.every)
  }
}, Effect.scoped)

const miss = Effect.fnUntraced(function*(memory: Remember, error: WireFailed | TimedOut) {
  const state = yield* ComputeState
  const now = yield* Clock.currentTimeMillis
  const before = yield* Ref.get(memory)
  const uptime = silent(before.uptime, now)
  const tell = before.failures === 0 || now - before.toldAt >= tellEveryMillis
  yield* Ref.set(memory, { ...before, uptime, failures: before.failures + 1, toldAt: tell ? now : before.toldAt })
  yield* state.note({ downtime: { current: uptime.current, total: uptime.total } })
  if (tell) {
    yield* Effect.logWarning(
      `the activity monitor has no answer from Postgres: ${causesOf(error).join(": ")}, downtime_info="${downtimeInfo(uptime)}"`
    )
  }
  return pauseMillis(before.failures + 1)
})

const watch = Effect.fnUntraced(function*(memory: Remember, options: MonitorOptions) {
  const now = yield* Clock.currentTimeMillis
  // Time in which Postgres was not meant to run is not downtime.
  yield* Ref.update(memory, (old) => ({ ...old, failures: 0, uptime: { ...bornUp(now), total: old.uptime.total } }))
  while (true) {
    const pause = yield* Effect.catch(session(memory, options), (error) => miss(memory, error))
    yield* Effect.sleep(Duration.millis(Math.max(pause, Duration.toMillis(options.every))))
  }
})

export const monitor = (options: MonitorOptions = defaults): Actor<ComputeState | Admin> => ({
  name: "activity monitor",
  policy: "transient",
  run: Effect.gen(function*() {
    const state = yield* ComputeState
    const now = yield* Clock.currentTimeMillis
    const memory = yield* Ref.make<Memory>({ seen: nothingSeen, uptime: bornUp(now), failures: 0, toldAt: 0 })
    while (true) {
      const { status } = yield* state.until("running", ...ending)
      if (isTerminating(status)) return
      yield* Effect.raceFirst(watch(memory, options), state.until("failed", ...ending))
      yield* state.note(({ activity, downtime }) => ({
        downtime: { ...downtime, current: 0 },
        // Whoever was at work is gone with Postgres.
        activity: activity === null ? null : { ...activity, sessions: nobody, statisticsMoved: false }
      }))
    }
  })
})
