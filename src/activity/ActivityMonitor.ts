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
import { type OwnSessionCounts, systemDatabases } from "../pgwire/ownSessions.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { type Actor, turn } from "../compute/Supervisor.ts"
import { isTerminating, type Status } from "../compute/transitions.ts"
import { type TimedOut, WireFailed } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { within } from "../errors/within.ts"
import { Admin, ourApplications } from "../pgwire/Admin.ts"
import { quoteLiteral } from "../pgwire/quote.ts"
import type { Wire } from "../pgwire/Wire.ts"
import {
  answered,
  upSince,
  explainSample,
  decideActivity,
  type IdleClock,
  idleClock,
  idleTimeoutOf,
  noBaseline,
  pauseMillis,
  type Sample,
  sawTheSame,
  type Baseline,
  unanswered,
  type Uptime
} from "./activity.ts"

// -- the sample

const millis = (at: string): string => `(pg_catalog.date_part('epoch', ${at}) * 1000)::pg_catalog.int8`

const notUsers = systemDatabases.map(quoteLiteral).join(", ")

/**
 * Everything is counted in one statement, so that a sample is one round trip and one snapshot. Times are numbers: a
 * text would be in the time zone that `ALTER ROLE … SET timezone` chose. Without user databases the sums are 0.
 *
 * `superuser` is who we, the VM's monitor and the metric exporters connect as: none of its sessions counts, and no
 * `application_name` makes a tenant's session not count, nor its follower: Neon's walproposer, which is the way to
 * storage, is no process of the kind `walsender`. Who has not logged in yet is nobody (`usesysid`; since Postgres 18
 * such connections are listed), while a session whose role was dropped is a tenant's (`usename`).
 *
 * An autovacuum worker looks into every database once a minute, used or not; it is active when it found work.
 *
 * With `track_activities` off nothing says since when a session rests; whether it is inside a transaction, its lock on
 * that does. What it does between two looks is not seen, but that it came is.
 */
export const sampleSql = (superuser: string): string => `
SELECT
  ${millis("pg_catalog.clock_timestamp()")},
  pg_catalog.count(*) FILTER (WHERE theirs AND busy),
  ${millis("pg_catalog.max(rests_since) FILTER (WHERE theirs AND NOT busy)")},
  pg_catalog.count(*) FILTER (WHERE backend_type = 'autovacuum worker' AND state IN ('active', 'disabled')),
  pg_catalog.count(*) FILTER (WHERE backend_type = 'walsender' AND usesysid IS NOT NULL),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_subscription s WHERE s.pid IS NOT NULL),
  (SELECT COALESCE(pg_catalog.sum(d.active_time), 0)::pg_catalog.float8
   FROM pg_catalog.pg_stat_database d WHERE d.datname NOT IN (${notUsers})),
  (SELECT COALESCE(pg_catalog.sum(d.sessions), 0)::pg_catalog.int8
   FROM pg_catalog.pg_stat_database d WHERE d.datname NOT IN (${notUsers})),
  pg_catalog.count(*) FILTER (WHERE usename = ${quoteLiteral(superuser)} AND datname NOT IN (${notUsers})
    AND pg_catalog.starts_with(application_name, ${quoteLiteral(ourApplications)}))
FROM (
  SELECT a.*,
    a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid()
      AND a.usesysid IS NOT NULL AND a.usename IS DISTINCT FROM ${quoteLiteral(superuser)} AS theirs,
    CASE a.state WHEN 'disabled' THEN
      EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.locktype = 'virtualxid')
      ELSE a.state <> 'idle' END AS busy,
    CASE a.state WHEN 'disabled' THEN a.backend_start ELSE a.state_change END AS rests_since
  FROM pg_catalog.pg_stat_activity a
) b`

/** How many sessions of ours there were in users' databases, before the question and after the answer. */
interface OwnSessionsAround {
  readonly before: OwnSessionCounts
  readonly after: OwnSessionCounts
}

/** `None`: the answer has not the shape of an answer. */
export const readSample = (
  row: ReadonlyArray<string | null> | undefined,
  { after, before }: OwnSessionsAround
): Option.Option<Sample> => {
  const [at, busy, idleSince, autovacuum, walsenders, subscriptions, activeMillis, sessions, left, ...more] = (
    row ?? []
  ).map((text) => (text === null ? null : Number(text)))
  const isNumber = (value: number | null | undefined): value is number => Number.isFinite(value)
  if (!isNumber(at) || !isNumber(busy) || !isNumber(autovacuum) || !isNumber(walsenders) || !isNumber(subscriptions))
    return Option.none()
  if (!isNumber(activeMillis) || !isNumber(sessions) || !isNumber(left) || more.length > 0) return Option.none()
  if (idleSince !== null && !isNumber(idleSince)) return Option.none()
  const quiet = left === 0 && before.open === 0 && after.open === 0 && before.begun === after.begun
  const statistics = { activeMillis, sessions, own: after, quiet }
  return Option.some({ at, busy, idleSince, autovacuum, walsenders, subscriptions, statistics })
}

// -- holds

/** As often as the activity monitor takes a sample. */
const holdsEvery = 500

/** Of a clock that nobody sets. */
export const monotonicMillis: Effect.Effect<number> = Effect.map(Clock.monotonicTimeNanos, (nanos) =>
  Number(nanos / 1_000_000n)
)

/** It held until the moment it ended, which may be before now. */
const refreshLastActive = Effect.gen(function* () {
  const state = yield* ComputeState
  const now = yield* monotonicMillis
  const wall = yield* Clock.currentTimeMillis
  const { holds } = yield* state.now
  const over = Math.max(0, now - Math.max(...holds.map(({ endsAt }) => endsAt)))
  if (holds.length > 0) yield* state.active(DateTime.makeUnsafe(wall - over))
  if (holds.some(({ endsAt }) => endsAt <= now))
    yield* state.note((old) => ({ holds: old.holds.filter(({ endsAt }) => endsAt > now) }))
})

/**
 * Keeps `last_active` fresh while there are holds: requests that the compute stays awake for a while. A hold ends with
 * its time (by a clock that nobody sets, and then it is taken from the state), when it is released, or with the
 * compute. Works in every status, also while Postgres does not answer.
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
      const now = yield* monotonicMillis
      const next = Math.min(holdsEvery, ...(yield* state.now).holds.map(({ endsAt }) => endsAt - now))
      yield* Effect.sleep(Duration.millis(Math.max(1, next)))
    }
  })
}

// -- monitor

export interface MonitorOptions {
  readonly every: Duration.Duration
  /** For the connection, and for each sample. */
  readonly within: Duration.Duration
  /** End the compute when nobody has used it for as long as its spec allows. */
  readonly exitWhenIdle: boolean
}

const defaults: MonitorOptions = { every: Duration.millis(500), within: Duration.seconds(5), exitWhenIdle: false }

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
  readonly idle: IdleClock | null
  /** The status in which the last sample was taken. */
  readonly since: DateTime.Utc | null
}

const noSessions = { client: 0, walsender: 0, subscription: 0, autovacuum: 0 } as const

type StateRef = Ref.Ref<MonitorState>

const downtimeInfo = ({ current, lastUp, total }: Uptime): string =>
  `total_ms: ${total}, current_ms: ${current}, last_up: ${DateTime.formatIso(DateTime.makeUnsafe(lastUp))}`

/** One sample. What it proves goes to the shared state. */
const takeSample = Effect.fnUntraced(function* (wire: Wire, memory: StateRef, options: MonitorOptions) {
  const state = yield* ComputeState
  const admin = yield* Admin
  const { activity, lastActive } = yield* state.now
  const ownBefore = admin.sessions.counts()
  const rows = yield* wire.rows(sampleSql(admin.superuser), options.within)
  const sample = readSample(rows[0], { before: ownBefore, after: admin.sessions.counts() })
  if (Option.isNone(sample)) {
    return yield* new WireFailed({
      operation: "query",
      peer: wire.peer,
      detail: "the activity sample has another shape"
    })
  }
  const before = yield* Ref.get(memory)
  const now = yield* Clock.currentTimeMillis
  const { active, baseline, statisticsMoved, used } = decideActivity(before.baseline, sample.value)
  const uptime = answered(before.uptime, now)
  yield* Ref.set(memory, { ...before, baseline, uptime, failures: 0, loggedAt: 0 })
  if (before.failures > 0) {
    yield* Effect.logInfo(`Postgres answers the activity monitor again, downtime_info="${downtimeInfo(before.uptime)}"`)
  }
  if (before.uptime.current !== 0) yield* state.note({ downtime: { current: 0, total: uptime.total } })
  const explained = explainSample(activity, sample.value, statisticsMoved)
  // A sample without news wakes none of those who watch the state.
  if (!sawTheSame(activity, explained)) yield* state.note({ activity: explained })
  const known = lastActive?.epochMilliseconds ?? -Infinity
  // One in the future, by a clock that was set back, does not stay there.
  if ((active !== null && active > known) || known > now) yield* state.active(DateTime.makeUnsafe(active ?? now))
  if (options.exitWhenIdle) yield* endWhenIdle(memory, used)
})

/** A hold, and what changes the status (a new spec, say), count as use. */
const endWhenIdle = Effect.fnUntraced(function* (memory: StateRef, used: boolean) {
  const state = yield* ComputeState
  const now = yield* monotonicMillis
  const { holds, since, spec, status } = yield* state.now
  const { idle: before, since: sinceBefore } = yield* Ref.get(memory)
  const idle = idleClock(before, used || holds.length > 0 || status !== "running" || since !== sinceBefore, now)
  yield* Ref.update(memory, (old) => ({ ...old, idle, since }))
  const seconds = spec === null ? null : idleTimeoutOf(spec.suspendTimeoutSeconds)
  if (seconds === null || now - idle.usedAt < seconds * 1000) return
  yield* Effect.logInfo(
    `nobody has used Postgres for ${seconds} s and nobody holds the compute awake, so it ends (--exit-when-idle)`
  )
  // Who was faster with a spec, or with the end, has changed the status.
  yield* Effect.ignore(state.send("FoundIdle"))
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

export const monitor = (given: Partial<MonitorOptions> = {}): Actor<ComputeState | Admin> => ({
  name: "activity monitor",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    const options = { ...defaults, ...given }
    const state = yield* ComputeState
    const now = yield* Clock.currentTimeMillis
    const memory = yield* Ref.make<MonitorState>({
      baseline: noBaseline,
      uptime: upSince(now),
      failures: 0,
      loggedAt: 0,
      idle: null,
      since: null
    })
    if (options.exitWhenIdle) yield* state.note({ exitWhenIdle: true })
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
