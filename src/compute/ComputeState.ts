/**
 * The one shared truth: the status, and whatever the actors have learned.
 *
 * Actors never see the reference. They `send` a trigger, `note` a fact, and read snapshots. Only `send` changes
 * the status, and only along a row of `lifecycle/table.ts`.
 */
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { PendingRestart } from "../postgres/configurationCheck.ts"
import type { Lsn } from "../spec/identifiers.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { notPromoted, type Promotion } from "./promotion.ts"
import { displayStatus, type IllegalTransition, type Status, step, type Trigger } from "./transitions.ts"

// ---------------------------------------------------------------------------------------------------------------------
// How long each part of the start took (reference section 4.10): what `/metrics.json` answers.
//
// Milliseconds, unless the name says otherwise; 0 when the step was not reached.
// ---------------------------------------------------------------------------------------------------------------------

export interface ComputeMetrics {
  readonly wait_for_spec_ms: number
  readonly sync_sk_check_ms: number
  readonly sync_safekeepers_ms: number
  readonly pageserver_connect_micros: number
  readonly basebackup_ms: number
  readonly basebackup_bytes: number
  readonly start_postgres_ms: number
  readonly config_ms: number
  readonly total_startup_ms: number
  readonly load_ext_ms: number
  readonly num_ext_downloaded: number
  readonly largest_ext_size: number
  readonly total_ext_download_size: number
}

export const zeroMetrics: ComputeMetrics = {
  wait_for_spec_ms: 0,
  sync_sk_check_ms: 0,
  sync_safekeepers_ms: 0,
  pageserver_connect_micros: 0,
  basebackup_ms: 0,
  basebackup_bytes: 0,
  start_postgres_ms: 0,
  config_ms: 0,
  total_startup_ms: 0,
  load_ext_ms: 0,
  num_ext_downloaded: 0,
  largest_ext_size: 0,
  total_ext_download_size: 0
}

// ---------------------------------------------------------------------------------------------------------------------
// What is not as it should be while the compute serves all the same: said once in the log, and shown until it is over.
// ---------------------------------------------------------------------------------------------------------------------

export interface Condition {
  /** Stable, for clients. */
  readonly code: "lsn_lease_refused" | "last_good_spec"
  readonly message: string
}

/** The latest word on each code counts. */
export const withCondition = (conditions: ReadonlyArray<Condition>, condition: Condition): ReadonlyArray<Condition> => [
  ...withoutCondition(conditions, condition.code),
  condition
]

export const withoutCondition = (
  conditions: ReadonlyArray<Condition>,
  code: Condition["code"]
): ReadonlyArray<Condition> =>
  conditions.some((one) => one.code === code) ? conditions.filter((one) => one.code !== code) : conditions

// ---------------------------------------------------------------------------------------------------------------------
// What one apply did, operation by operation: for `/apply`, for the log, and for the stored error. Holds no secret.
// ---------------------------------------------------------------------------------------------------------------------

export interface OperationReport {
  readonly phase: string
  readonly database: string | null
  /** Such as `role "web"` or `database "app"`. */
  readonly object: string
  /** Such as `create`, `alter password`, `drop`. */
  readonly action: string
  readonly outcome: "done" | "skipped" | "failed"
  /** Why it was skipped, or what went wrong. */
  readonly reason: string | null
  readonly sqlState: string | null
  readonly hint: string | null
  readonly attempts: number
  readonly millis: number
}

export interface PhaseReport {
  readonly phase: string
  readonly done: number
  readonly skipped: number
  readonly failed: number
  readonly millis: number
}

export interface ApplyReport {
  readonly kind: "start" | "reconfigure"
  /** ISO 8601, UTC. */
  readonly startedAt: string
  readonly millis: number
  readonly outcome: "done" | "failed"
  readonly phases: ReadonlyArray<PhaseReport>
  readonly operations: ReadonlyArray<OperationReport>
  readonly roundTrips: number
  readonly statements: number
}

// ---------------------------------------------------------------------------------------------------------------------

/** What can keep a compute awake. Our own sessions are no kind: they are never counted. */
export const activityKinds = ["client", "walsender", "subscription", "autovacuum", "statistics"] as const
export type ActivityKind = (typeof activityKinds)[number]

/** What the last look saw, and when each kind was last seen. */
export interface Activity {
  /** By Postgres's clock. */
  readonly at: number
  readonly sessions: {
    readonly client: number
    readonly walsender: number
    readonly subscription: number
    readonly autovacuum: number
  }
  /** Did the sums of statistics move since the look before? Only with the experimental feature. */
  readonly statisticsMoved: boolean
  readonly last: Readonly<Record<ActivityKind, number | null>>
}

/** Somebody's word that the compute is needed, for a while. Times are milliseconds since the epoch by our clock. */
export interface Hold {
  readonly id: string
  readonly reason: string
  readonly createdAt: number
  readonly expiresAt: number
}

/** One step of the start, as it passed. Times are milliseconds since the process (or the waited-for spec) began. */
export interface Step {
  readonly name: string
  readonly startedAt: number
  readonly millis: number
}

/** One change of status, and why it came about. */
export interface Change {
  readonly from: Status
  readonly to: Status
  readonly at: DateTime.Utc
  readonly because: string
  /** What had gone wrong, when the change is a failure's. */
  readonly error: string | null
}

/** A compute that is healed and broken for weeks remembers its latest changes, not all of them. */
export const maxHistory = 64

export interface Snapshot {
  readonly status: Status
  readonly since: DateTime.Utc
  /** Process start, or the arrival of the spec that was waited for. */
  readonly startTime: DateTime.Utc
  /** Monotonic: never goes back. */
  readonly lastActive: DateTime.Utc | null
  /** The explained failure, with its causes; cleared when the compute is running again. */
  readonly error: string | null
  readonly spec: ParsedSpec | null
  /** Does Postgres run right now? A failed compute with a live Postgres can be healed by a new spec. */
  readonly postgresAlive: boolean
  /** The LSN after the last commitLsn at the end; `null` for a non-primary. */
  readonly flushLsn: Lsn | null
  readonly metrics: ComputeMetrics
  readonly steps: ReadonlyArray<Step>
  /** What the last apply did. */
  readonly applyReport: ApplyReport | null
  /** Total and current time without an answer from Postgres while it should run, milliseconds (monitor). */
  readonly downtime: { readonly current: number; readonly total: number }
  /** The latest changes of status, oldest first, at most `maxHistory`. */
  readonly history: ReadonlyArray<Change>
  /** What the monitor saw; `null` until it has looked. */
  readonly activity: Activity | null
  /** Reasons to count as active that somebody gave us. */
  readonly holds: ReadonlyArray<Hold>
  /** Settings in the files that only a restart of Postgres takes up. */
  readonly pendingRestart: ReadonlyArray<PendingRestart>
  /** It serves, but not as it should; one condition per code. */
  readonly degraded: ReadonlyArray<Condition>
  /** How far a replica has come on its way to a primary. */
  readonly promotion: Promotion
}

/** What an actor may learn; the status is not among it. */
export type Fact = Partial<Omit<Snapshot, "status" | "since" | "lastActive" | "history">>

export class ComputeState extends Context.Service<
  ComputeState,
  {
    readonly now: Effect.Effect<Snapshot>
    /** The current snapshot, then every later one. */
    readonly changes: Stream.Stream<Snapshot>
    readonly send: (on: Trigger, fact?: Fact) => Effect.Effect<Snapshot, IllegalTransition>
    readonly note: (fact: Fact | ((old: Snapshot) => Fact)) => Effect.Effect<void>
    /** Keeps the later of the known and the given moment. */
    readonly active: (at: DateTime.Utc) => Effect.Effect<void>
    readonly until: (...wanted: ReadonlyArray<Status>) => Effect.Effect<Snapshot>
    /** Runs an effect as a named step of the start: its time is kept, logged and shown in `/timeline`. */
    readonly timed: <A, E, R>(name: string, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  }
>()("compute/ComputeState") {
  static readonly layer = Layer.effect(
    ComputeState,
    Effect.gen(function* () {
      const born = yield* DateTime.now
      const ref = yield* SubscriptionRef.make<Snapshot>({
        status: "empty",
        since: born,
        startTime: born,
        lastActive: null,
        error: null,
        spec: null,
        postgresAlive: false,
        flushLsn: null,
        metrics: zeroMetrics,
        steps: [],
        applyReport: null,
        downtime: { current: 0, total: 0 },
        history: [],
        activity: null,
        holds: [],
        pendingRestart: [],
        degraded: [],
        promotion: notPromoted
      })
      const changes = SubscriptionRef.changes(ref)

      const send = Effect.fn("ComputeState.send")(function* (on: Trigger, fact: Fact = {}) {
        const since = yield* DateTime.now
        return yield* SubscriptionRef.updateAndGetEffect(ref, (old) =>
          Effect.fromResult(step(old.status, on)).pipe(
            Effect.tap((row) =>
              Effect.logInfo(
                `Changing compute status from ${displayStatus(row.from)} to ${displayStatus(row.to)}: ${row.because}`
              )
            ),
            Effect.map((row) => ({
              ...old,
              ...(row.to === "running" ? { error: null } : {}),
              ...fact,
              status: row.to,
              since,
              history: [
                ...old.history.slice(1 - maxHistory),
                { from: row.from, to: row.to, at: since, because: row.because, error: fact.error ?? null }
              ]
            }))
          )
        )
      })

      const until = (...wanted: ReadonlyArray<Status>): Effect.Effect<Snapshot> =>
        changes.pipe(
          Stream.filter((snapshot) => wanted.includes(snapshot.status)),
          Stream.runHead,
          Effect.flatMap(Effect.fromOption),
          Effect.orDie
        )

      const note = (fact: Fact | ((old: Snapshot) => Fact)): Effect.Effect<void> =>
        SubscriptionRef.update(ref, (old) => ({ ...old, ...(typeof fact === "function" ? fact(old) : fact) }))

      const active = (at: DateTime.Utc): Effect.Effect<void> =>
        SubscriptionRef.update(ref, (old) =>
          old.lastActive !== null && old.lastActive.epochMilliseconds >= at.epochMilliseconds
            ? old
            : { ...old, lastActive: at }
        )

      const timed = <A, E, R>(name: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
        Effect.gen(function* () {
          const from = yield* DateTime.now
          const value = yield* effect
          const to = yield* DateTime.now
          const millis = to.epochMilliseconds - from.epochMilliseconds
          yield* note((old) => ({
            steps: [
              ...old.steps,
              {
                name,
                startedAt: from.epochMilliseconds - old.startTime.epochMilliseconds,
                millis
              }
            ]
          }))
          yield* Effect.logInfo(`${name}: ${millis} ms`)
          return value
        }).pipe(Effect.withSpan(name))

      return ComputeState.of({ now: SubscriptionRef.get(ref), changes, send, note, active, until, timed })
    })
  )
}
