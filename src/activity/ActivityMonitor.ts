/**
 * The activity monitor: learns when Postgres was last used, and how long it does not answer
 * (docs/reference/compute_ctl.md#activity-monitor). And the actor that keeps `last_active` fresh while somebody holds
 * the compute awake.
 *
 * A sample that fails is logged, counted as downtime and tried again over a new connection; it never stops the compute.
 * The monitor waits while the compute does not run and is done when the compute is ending.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import * as Stream from "effect/Stream"
import { systemDatabases } from "../pgwire/ownSessions.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { type Actor, turn } from "../compute/Supervisor.ts"
import { isTerminating, type Status } from "../compute/transitions.ts"
import { type TimedOut, WireFailed } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { within } from "../errors/within.ts"
import { Admin } from "../pgwire/Admin.ts"
import { quoteLiteral } from "../pgwire/quote.ts"
import type { Wire } from "../pgwire/Wire.ts"
import {
  answered,
  upSince,
  explainSample,
  decideActivity,
  livingHolds,
  noBaseline,
  pauseMillis,
  type Sample,
  sawTheSame,
  type Baseline,
  unanswered,
  type Statistics,
  type Uptime
} from "./activity.ts"

// -- the sample

const millis = (at: string): string => `(pg_catalog.date_part('epoch', ${at}) * 1000)::pg_catalog.int8`

const notTheirs = systemDatabases.map(quoteLiteral).join(", ")

/** Sums may go back when Postgres crashes; without user databases they are 0. */
const statistics = `
  (SELECT COALESCE(pg_catalog.sum(d.active_time), 0)::pg_catalog.float8
   FROM pg_catalog.pg_stat_database d WHERE d.datname NOT IN (${notTheirs})),
  (SELECT COALESCE(pg_catalog.sum(d.sessions), 0)::pg_catalog.int8
   FROM pg_catalog.pg_stat_database d WHERE d.datname NOT IN (${notTheirs}))`

/**
 * Everything is counted in one statement, so that a sample is one round trip and one snapshot. Times are numbers: a
 * text would be in the time zone that `ALTER ROLE … SET timezone` chose.
 *
 * `superuser` is who we, the VM's monitor and the metric exporters connect as: none of its sessions counts, and no
 * `application_name` makes a tenant's session not count. A walproposer is the way to storage, not a follower.
 */
export const sampleSql = (superuser: string, experimental: boolean): string => `
SELECT
  ${millis("pg_catalog.clock_timestamp()")},
  pg_catalog.count(*) FILTER (WHERE theirs AND a.state <> 'idle'),
  ${millis("pg_catalog.max(a.state_change) FILTER (WHERE theirs AND a.state = 'idle')")},
  pg_catalog.count(*) FILTER (WHERE a.backend_type = 'autovacuum worker'),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication r WHERE r.application_name <> 'walproposer'),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_subscription s WHERE s.pid IS NOT NULL)
  ${experimental ? `,${statistics}` : ""}
FROM (
  SELECT *, backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
    AND usename IS DISTINCT FROM ${quoteLiteral(superuser)} AS theirs
  FROM pg_catalog.pg_stat_activity
) a`

const statisticsOf = (active: number, sessions: number): Statistics | null =>
  Number.isFinite(active) && Number.isFinite(sessions) ? { activeMillis: active, sessions } : null

/** `None`: the answer has not the shape of an answer. */
export const readSample = (row: ReadonlyArray<string | null> | undefined): Option.Option<Sample> => {
  if (row === undefined || row.length < 6) return Option.none()
  const [
    at = NaN,
    busy = NaN,
    idleSince = NaN,
    autovacuum = NaN,
    walsenders = NaN,
    subscriptions = NaN,
    active = NaN,
    sessions = NaN
  ] = row.map((text) => (text === null ? NaN : Number(text)))
  if (![at, busy, autovacuum, walsenders, subscriptions].every(Number.isFinite)) return Option.none()
  return Option.some({
    at,
    busy,
    idleSince: Number.isFinite(idleSince) ? idleSince : null,
    autovacuum,
    walsenders,
    subscriptions,
    statistics: statisticsOf(active, sessions)
  })
}

// -- holds

/** As often as the activity monitor takes a sample. */
const holdsEvery = Duration.millis(500)

const refreshLastActive = Effect.gen(function* () {
  const state = yield* ComputeState
  const now = yield* Clock.currentTimeMillis
  const { holds } = yield* state.now
  const living = livingHolds(holds, now)
  // It held until the moment it expired, which may be before now.
  const until = living.length > 0 ? now : Math.min(now, Math.max(...holds.map(({ expiresAt }) => expiresAt)))
  if (holds.length > 0) yield* state.active(DateTime.makeUnsafe(until))
  if (living.length < holds.length) yield* state.note((old) => ({ holds: livingHolds(old.holds, now) }))
})

/**
 * Keeps `last_active` fresh while there are holds: requests that the compute stays awake for a while. A hold ends with
 * its time, when it is released, or with the compute. Works in every status, also while Postgres does not answer.
 */
export const holdActor: Actor<ComputeState> = {
  name: "activity holds",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    const state = yield* ComputeState
    const firstHold = state.changes.pipe(
      Stream.filter(({ holds }) => holds.length > 0),
      Stream.runHead
    )
    while (true) {
      yield* firstHold
      yield* refreshLastActive
      yield* Effect.sleep(holdsEvery)
    }
  })
}

// -- monitor

export interface MonitorOptions {
  readonly every: Duration.Duration
  /** For the connection, and for each sample. */
  readonly within: Duration.Duration
}

const defaults: MonitorOptions = { every: Duration.millis(500), within: Duration.seconds(5) }

/** Asks for the sums of pg_stat_database too. Read before every sample, so a new spec takes effect at once. */
const experimentalFeature = "activity_monitor_experimental"

/** A Postgres that does not answer for an hour gets two lines a minute, not two a second. */
const logEveryMillis = 30_000

const terminating = [
  "termination_pending_fast",
  "termination_pending_immediate",
  "terminated"
] as const satisfies ReadonlyArray<Status>

interface MonitorState {
  readonly baseline: Baseline
  readonly uptime: Uptime
  readonly failures: number
  /** When a failure was last logged. */
  readonly loggedAt: number
}

const noSessions = { client: 0, walsender: 0, subscription: 0, autovacuum: 0 } as const

type StateRef = Ref.Ref<MonitorState>

const downtimeInfo = ({ current, lastUp, total }: Uptime): string =>
  `total_ms: ${total}, current_ms: ${current}, last_up: ${DateTime.formatIso(DateTime.makeUnsafe(lastUp))}`

/** One sample. What it proves goes to the shared state. */
const takeSample = Effect.fnUntraced(function* (wire: Wire, memory: StateRef, options: MonitorOptions) {
  const state = yield* ComputeState
  const admin = yield* Admin
  const { activity, spec } = yield* state.now
  const experimental = spec?.features.has(experimentalFeature) ?? false
  const rows = yield* wire.rows(sampleSql(admin.superuser, experimental), options.within)
  const sample = readSample(rows[0])
  if (Option.isNone(sample)) {
    return yield* new WireFailed({
      operation: "query",
      peer: wire.peer,
      detail: "the activity sample has another shape"
    })
  }
  const before = yield* Ref.get(memory)
  const now = yield* Clock.currentTimeMillis
  const { active, baseline } = decideActivity(before.baseline, sample.value)
  const uptime = answered(before.uptime, now)
  yield* Ref.set(memory, { baseline, uptime, failures: 0, loggedAt: 0 })
  if (before.failures > 0) {
    yield* Effect.logInfo(`Postgres answers the activity monitor again, downtime_info="${downtimeInfo(before.uptime)}"`)
  }
  if (before.uptime.current !== 0) yield* state.note({ downtime: { current: 0, total: uptime.total } })
  const explained = explainSample(activity, before.baseline, sample.value)
  // A sample without news wakes none of those who watch the state.
  if (!sawTheSame(activity, explained)) yield* state.note({ activity: explained })
  if (active !== null) yield* state.active(DateTime.makeUnsafe(active))
})

const longestSample = Duration.minutes(1)

/** Samples over one connection until one fails. */
const sampleSession = Effect.fnUntraced(function* (memory: StateRef, options: MonitorOptions) {
  const state = yield* ComputeState
  const admin = yield* Admin
  const wire = yield* admin.connect("compute_monitor").pipe(within("the activity monitor's connection", options.within))
  while (true) {
    yield* turn(state, longestSample)(takeSample(wire, memory, options))
    yield* Effect.sleep(options.every)
  }
}, Effect.scoped)

const recordFailure = Effect.fnUntraced(function* (memory: StateRef, error: WireFailed | TimedOut) {
  const state = yield* ComputeState
  const now = yield* Clock.currentTimeMillis
  const before = yield* Ref.get(memory)
  const uptime = unanswered(before.uptime, now)
  const log = before.failures === 0 || now - before.loggedAt >= logEveryMillis
  yield* Ref.set(memory, { ...before, uptime, failures: before.failures + 1, loggedAt: log ? now : before.loggedAt })
  yield* state.note({ downtime: { current: uptime.current, total: uptime.total } })
  if (log) {
    yield* Effect.logWarning(
      `the activity monitor has no answer from Postgres: ${explain(error)}, downtime_info="${downtimeInfo(uptime)}"`
    )
  }
  return pauseMillis(before.failures + 1)
})

const watchPostgres = Effect.fnUntraced(function* (memory: StateRef, options: MonitorOptions) {
  const now = yield* Clock.currentTimeMillis
  // Time in which Postgres was not meant to run is not downtime.
  yield* Ref.update(memory, (old) => ({ ...old, failures: 0, uptime: { ...upSince(now), total: old.uptime.total } }))
  while (true) {
    const pause = yield* Effect.catch(sampleSession(memory, options), (error) => recordFailure(memory, error))
    yield* Effect.sleep(Duration.millis(Math.max(pause, Duration.toMillis(options.every))))
  }
})

export const monitor = (options: MonitorOptions = defaults): Actor<ComputeState | Admin> => ({
  name: "activity monitor",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    const state = yield* ComputeState
    const now = yield* Clock.currentTimeMillis
    const memory = yield* Ref.make<MonitorState>({
      baseline: noBaseline,
      uptime: upSince(now),
      failures: 0,
      loggedAt: 0
    })
    while (true) {
      const { status } = yield* state.until("running", ...terminating)
      if (isTerminating(status)) return
      yield* Effect.raceFirst(watchPostgres(memory, options), state.until("failed", ...terminating))
      yield* state.note(({ activity, downtime }) => ({
        downtime: { ...downtime, current: 0 },
        // Whoever was at work is gone with Postgres.
        activity: activity === null ? null : { ...activity, sessions: noSessions, statisticsMoved: false }
      }))
    }
  })
})
