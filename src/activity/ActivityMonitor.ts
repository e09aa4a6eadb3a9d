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
import * as Stream from "effect/Stream"
import { templateDatabase } from "../catalog/Catalog.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { isTerminating, type Status } from "../compute/transitions.ts"
import { TimedOut, WireFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { Admin } from "../pgwire/Admin.ts"
import { quoteLiteral } from "../pgwire/quote.ts"
import type { Wire } from "../pgwire/Wire.ts"
import {
  answered,
  bornUp,
  explainSample,
  judge,
  livingHolds,
  nothingSeen,
  pauseMillis,
  type Sample,
  sawTheSame,
  type Seen,
  silent,
  type Statistics,
  type Uptime
} from "./activity.ts"

// ---------------------------------------------------------------------------------------------------------------------
// The one question the monitor asks, and how its answer is read. Sends nothing.
//
// Everything is counted in one statement, so that a look is one round trip and one snapshot. Times are fetched as
// numbers: a text would be in the time zone that `ALTER ROLE … SET timezone` chose.
// ---------------------------------------------------------------------------------------------------------------------

const millis = (at: string): string => `(pg_catalog.date_part('epoch', ${at}) * 1000)::pg_catalog.int8`

const notTheirs = ["postgres", "template0", "template1", templateDatabase].map(quoteLiteral).join(", ")

/** Sums may go back when Postgres crashes; without user databases they are 0. */
const statistics = `
  (SELECT COALESCE(pg_catalog.sum(d.active_time), 0)::pg_catalog.float8
   FROM pg_catalog.pg_stat_database d WHERE d.datname NOT IN (${notTheirs})),
  (SELECT COALESCE(pg_catalog.sum(d.sessions), 0)::pg_catalog.int8
   FROM pg_catalog.pg_stat_database d WHERE d.datname NOT IN (${notTheirs}))`

/**
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
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_subscription s WHERE s.pid IS NOT NULL)${experimental ? `,${statistics}` : ""}
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
    rested = NaN,
    autovacuum = NaN,
    followers = NaN,
    subscriptions = NaN,
    active = NaN,
    sessions = NaN
  ] = row.map((text) => (text === null ? NaN : Number(text)))
  if (![at, busy, autovacuum, followers, subscriptions].every(Number.isFinite)) return Option.none()
  return Option.some({
    at,
    busy,
    rested: Number.isFinite(rested) ? rested : null,
    autovacuum,
    followers,
    subscriptions,
    statistics: statisticsOf(active, sessions)
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Holds: somebody's word that the compute is needed for a while, which keeps `last_active` fresh until it expires.
//
// A hold ends with its time, when it is released, or with the compute. They are few, and none lasts longer than a day.
// ---------------------------------------------------------------------------------------------------------------------

/** As often as the activity monitor looks. */
const every = Duration.millis(500)

const tick = Effect.gen(function* () {
  const state = yield* ComputeState
  const now = yield* Clock.currentTimeMillis
  const { holds } = yield* state.now
  const living = livingHolds(holds, now)
  // It held until the moment it expired, which may be before this look.
  const until = living.length > 0 ? now : Math.min(now, Math.max(...holds.map(({ expiresAt }) => expiresAt)))
  if (holds.length > 0) yield* state.active(DateTime.makeUnsafe(until))
  if (living.length < holds.length) yield* state.note((old) => ({ holds: livingHolds(old.holds, now) }))
})

/** Works in every status, also while Postgres does not answer. */
export const holdActor: Actor<ComputeState> = {
  name: "hold keeper",
  policy: "permanent",
  run: Effect.gen(function* () {
    const state = yield* ComputeState
    const somebodyHolds = state.changes.pipe(
      Stream.filter(({ holds }) => holds.length > 0),
      Stream.runHead
    )
    while (true) {
      yield* somebodyHolds
      yield* tick
      yield* Effect.sleep(every)
    }
  })
}

// ---------------------------------------------------------------------------------------------------------------------

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

const ending = [
  "termination_pending_fast",
  "termination_pending_immediate",
  "terminated"
] as const satisfies ReadonlyArray<Status>

interface Memory {
  readonly seen: Seen
  readonly uptime: Uptime
  readonly failures: number
  /** When a failure was last told. */
  readonly toldAt: number
}

const nobody = { client: 0, walsender: 0, subscription: 0, autovacuum: 0 } as const

type Remember = Ref.Ref<Memory>

const inTime =
  (what: string, limit: Duration.Duration) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.timeoutOrElse(effect, {
      duration: limit,
      orElse: () => Effect.fail(new TimedOut({ what, millis: Duration.toMillis(limit) }))
    })

const downtimeInfo = ({ current, lastUp, total }: Uptime): string =>
  `total_ms: ${total}, current_ms: ${current}, last_up: ${DateTime.formatIso(DateTime.makeUnsafe(lastUp))}`

/** One look. What it proves goes to the shared state. */
const look = Effect.fnUntraced(function* (wire: Wire, memory: Remember, { within }: MonitorOptions) {
  const state = yield* ComputeState
  const admin = yield* Admin
  const { activity, spec } = yield* state.now
  const experimental = spec?.features.has(experimentalFeature) ?? false
  const rows = yield* wire.rows(sampleSql(admin.superuser, experimental), within)
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
const session = Effect.fnUntraced(function* (memory: Remember, options: MonitorOptions) {
  const admin = yield* Admin
  const wire = yield* admin.connect("compute_monitor").pipe(inTime("the activity monitor's connection", options.within))
  while (true) {
    yield* look(wire, memory, options)
    yield* Effect.sleep(options.every)
  }
}, Effect.scoped)

const miss = Effect.fnUntraced(function* (memory: Remember, error: WireFailed | TimedOut) {
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

const watch = Effect.fnUntraced(function* (memory: Remember, options: MonitorOptions) {
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
  run: Effect.gen(function* () {
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
