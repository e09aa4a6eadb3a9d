/**
 * What is known of a compute at one moment, and the shapes it is made of. Pure.
 *
 * `ComputeState` holds the one snapshot; actors fill it, and whoever asks over HTTP is answered from it.
 */
import type * as DateTime from "effect/DateTime"
import type { PendingRestart } from "../postgres/configurationCheck.ts"
import type { Lsn } from "../spec/identifiers.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { notPromoted, type Promotion } from "./promotion.ts"
import type { ReplicaState } from "./replication.ts"
import type { Status } from "./transitions.ts"

// How long each part of the start took (docs/reference/compute_ctl.md#start-metrics): what `/metrics.json` answers.
//
// Milliseconds, unless the name says otherwise; 0 when the step was not reached.

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

// What is not as it should be while the compute serves all the same: said once in the log, and shown until it is over.

export interface Condition {
  /** Stable, for clients. */
  readonly code:
    | "lsn_lease_refused"
    | "last_good_spec"
    | "actor_failing"
    | "actor_hanging"
    | "recovering"
    | "postgres_not_accepting"
    | "replica_not_following"
    | "reconfigure_incomplete"
    | "override_not_reset"
    | "refresh_failed"
    | "migration_failed"
    | "database_broken"
    | "extension_unusable"
    | "base_publication_failed"
    | "disk_nearly_full"
    | "sidecar_unusable"
    | "log_dropped"
    | "logging_collector"
    | "api_unguarded"
    | "api_keys_unusable"
  /** What it is about, where one code can be true of several things: the name of an actor, of a sidecar. */
  readonly about?: string
  readonly message: string
}

const isSame = (one: Condition, code: Condition["code"], about: string | undefined): boolean =>
  one.code === code && one.about === about

export const isRaised = (conditions: ReadonlyArray<Condition>, code: Condition["code"], about?: string): boolean =>
  conditions.some((one) => isSame(one, code, about))

/** The latest message of each code (and what it is about) counts. */
export const withCondition = (conditions: ReadonlyArray<Condition>, condition: Condition): ReadonlyArray<Condition> => [
  ...withoutCondition(conditions, condition.code, condition.about),
  condition
]

export const withoutCondition = (
  conditions: ReadonlyArray<Condition>,
  code: Condition["code"],
  about?: string
): ReadonlyArray<Condition> =>
  isRaised(conditions, code, about) ? conditions.filter((one) => !isSame(one, code, about)) : conditions

// What one apply did, operation by operation: for `/apply`, for the log, and for the stored error. Holds no secret.

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
  /** Sessions opened. */
  readonly connections: number
  /** Messages, or pipelines of them, whose answer was waited for. */
  readonly roundTrips: number
  readonly statements: number
}

/** What the latest spec came to in a program beside Postgres. */
export interface SidecarReport {
  readonly sidecar: string
  /** ISO 8601, UTC. */
  readonly at: string
  readonly outcome: "done" | "failed"
  readonly reason: string | null
}

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
  /** Did the sums of statistics move since the look before, by others than us? */
  readonly statisticsMoved: boolean
  readonly last: Readonly<Record<ActivityKind, number | null>>
}

/** Somebody's word that the compute is needed, for a while. `createdAt` and `expiresAt`: milliseconds, for people. */
export interface Hold {
  readonly id: string
  readonly reason: string
  readonly createdAt: number
  readonly expiresAt: number
  /** Milliseconds by a clock that nobody sets: this one counts. */
  readonly endsAt: number
}

/** One step of the start, as it passed. Times are milliseconds since the process (or the waited-for spec) began. */
export interface Step {
  readonly name: string
  readonly startedAt: number
  readonly millis: number
}

/** A start of this timeline that succeeded, in this process or in an earlier one. */
export interface PastStart {
  /** ISO 8601, UTC. */
  readonly startedAt: string
  readonly millis: number
  readonly steps: ReadonlyArray<Step>
}

/** One change of status, and why it came about. */
interface Change {
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
  /** Goes back only when it is in the future, because the clock was set back: then it is now. */
  readonly lastActive: DateTime.Utc | null
  /** The explained failure, with its causes; cleared when the compute is running again. */
  readonly error: string | null
  /** What an empty compute waits for, as the end of a sentence; `null`: it is not empty, or nobody has said yet. */
  readonly waitingFor: string | null
  readonly spec: ParsedSpec | null
  /** Why Postgres, though it runs, takes no new sessions; `null`: it takes them, or nobody has tried yet. */
  readonly notAccepting: string | null
  /** How far a replica is behind; `null`: it is none, or nobody has looked yet. */
  readonly replica: ReplicaState | null
  /** Does Postgres run right now? A failed compute with a live Postgres can be healed by a new spec. */
  readonly postgresAlive: boolean
  /** The LSN after the last commitLsn at the end; `null` for a non-primary. */
  readonly flushLsn: Lsn | null
  readonly metrics: ComputeMetrics
  readonly steps: ReadonlyArray<Step>
  /** The latest first, without the present one; only of storage that can keep them. */
  readonly earlierStarts: ReadonlyArray<PastStart>
  /** What the last apply did. */
  readonly applyReport: ApplyReport | null
  /** Of those that the spec asks for; they are configured beside the apply, and may still be tried when it is done. */
  readonly sidecarReports: ReadonlyArray<SidecarReport>
  /** Total and current time without an answer from Postgres while it should run, milliseconds (monitor). */
  readonly downtime: { readonly current: number; readonly total: number }
  /** The latest changes of status, oldest first, at most `maxHistory`. */
  readonly history: ReadonlyArray<Change>
  /** What the monitor saw; `null` until it has looked. */
  readonly activity: Activity | null
  /** Reasons to count as active that somebody gave us, and whose time is not over. */
  readonly holds: ReadonlyArray<Hold>
  /** Does the compute end by itself when nobody has used it for as long as its spec allows? */
  readonly exitWhenIdle: boolean
  /** Settings in the files that only a restart of Postgres takes up. */
  readonly pendingRestart: ReadonlyArray<PendingRestart>
  /** It serves, but not as it should; one condition per code. */
  readonly degraded: ReadonlyArray<Condition>
  /** How far a replica has come on its way to a primary. */
  readonly promotion: Promotion
}

/** What an actor may learn; the status is not among it. */
export type Fact = Partial<Omit<Snapshot, "status" | "since" | "lastActive" | "history">>

/** Nothing has happened yet. */
export const firstSnapshot = (now: DateTime.Utc): Snapshot => ({
  status: "empty",
  since: now,
  startTime: now,
  lastActive: null,
  error: null,
  waitingFor: null,
  spec: null,
  notAccepting: null,
  replica: null,
  postgresAlive: false,
  flushLsn: null,
  metrics: zeroMetrics,
  steps: [],
  earlierStarts: [],
  applyReport: null,
  sidecarReports: [],
  downtime: { current: 0, total: 0 },
  history: [],
  activity: null,
  holds: [],
  exitWhenIdle: false,
  pendingRestart: [],
  degraded: [],
  promotion: notPromoted
})
