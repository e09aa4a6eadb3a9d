/**
 * What a snapshot looks like to HTTP callers: status, vitals, history, activity, requests, metrics. Reads only.
 */
import * as DateTime from "effect/DateTime"
import * as Result from "effect/Result"
import { idleTimeoutOf, reasonsAwake } from "../activity/activity.ts"
import type { Minute } from "../activity/lastHour.ts"
import type { ConfigureRequest } from "../compute/Requests.ts"
import { type ActivityKind, activityKinds, type Hold, type Snapshot } from "../compute/snapshot.ts"
import { idleTooLong, isTerminating, type Status } from "../compute/transitions.ts"
import { printLsn } from "../spec/identifiers.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { familiesOf, printFamilies } from "../telemetry/prometheus.ts"
import { bodyOf, configureRefusal, wireStatus } from "./refusals.ts"

/** RFC 3339 with no or three fractional digits, as the original's clock library prints them. */
const printTime = (at: DateTime.Utc, zone: "Z" | "+00:00"): string =>
  DateTime.formatIso(at)
    .replace(/\.000Z$/, "Z")
    .replace(/Z$/, zone)

export const startTimeText = (at: DateTime.Utc): string => printTime(at, "Z")
export const lastActiveText = (at: DateTime.Utc | null): string | null => (at === null ? null : printTime(at, "+00:00"))

export const statusBody = (apiVersion: ApiVersion, snapshot: Snapshot) => ({
  start_time: startTimeText(snapshot.startTime),
  tenant: snapshot.spec?.tenant ?? null,
  timeline: snapshot.spec?.timeline ?? null,
  status: wireStatus(apiVersion, snapshot.status),
  last_active: lastActiveText(snapshot.lastActive),
  error: snapshot.error,
  ...(snapshot.waitingFor === null ? {} : { waiting_for: snapshot.waitingFor })
})

/** What a probe looks at. */
export interface Vitals {
  readonly status: Status
  readonly postgresAlive: boolean
  /** Has the first start ever succeeded? */
  readonly everRan: boolean
  /** Why Postgres takes no new sessions. */
  readonly notAccepting: string | null
  /** Why a replica shows users too old a state. */
  readonly notFollowing: string | null
}

/** The first start is over and succeeded. */
export const isStarted = ({ everRan, status }: Vitals): boolean => everRan || status === "running"

/** Are users' connections worth sending here? After a failed reconfiguration they are: Postgres still serves. */
export const isReady = (vitals: Vitals): boolean =>
  isStarted(vitals) &&
  vitals.postgresAlive &&
  vitals.notAccepting === null &&
  vitals.notFollowing === null &&
  !isTerminating(vitals.status)

export const vitalsOf = ({ metrics, notAccepting, postgresAlive, replica, status }: Snapshot): Vitals => ({
  status,
  postgresAlive,
  notAccepting,
  notFollowing: replica?.notFollowing ?? null,
  everRan: metrics.total_startup_ms > 0
})

export const verboseVitals = (apiVersion: ApiVersion, snapshot: Snapshot) => ({
  status: wireStatus(apiVersion, snapshot.status),
  since: startTimeText(snapshot.since),
  alive: true,
  started: isStarted(vitalsOf(snapshot)),
  ready: isReady(vitalsOf(snapshot)),
  postgres_alive: snapshot.postgresAlive,
  error: snapshot.error
})

export const historyBody = (apiVersion: ApiVersion, snapshot: Snapshot) => ({
  status: wireStatus(apiVersion, snapshot.status),
  since: startTimeText(snapshot.since),
  changes: snapshot.history.map(({ at, because, error, from, to }) => ({
    at: startTimeText(at),
    from: wireStatus(apiVersion, from),
    to: wireStatus(apiVersion, to),
    because,
    error
  }))
})

/** `null`: nothing was applied yet. */
export const applyBody = ({ applyReport, sidecarReports }: Snapshot) =>
  applyReport === null ? null : { ...applyReport, sidecars: sidecarReports }

const stepsBody = (steps: Snapshot["steps"]) =>
  steps.map(({ millis, name, startedAt }) => ({ name, started_at_ms: startedAt, ms: millis }))

export const timelineBody = (apiVersion: ApiVersion, snapshot: Snapshot) => ({
  start_time: startTimeText(snapshot.startTime),
  status: wireStatus(apiVersion, snapshot.status),
  steps: stepsBody(snapshot.steps),
  total_ms: snapshot.metrics.total_startup_ms === 0 ? null : snapshot.metrics.total_startup_ms,
  earlier: snapshot.earlierStarts.map(({ millis, startedAt, steps }) => ({
    start_time: startedAt,
    total_ms: millis,
    steps: stepsBody(steps)
  }))
})

const moment = (millis: number | null): string | null =>
  millis === null ? null : startTimeText(DateTime.makeUnsafe(millis))

/** `null`: it is none, or nobody has looked yet. */
export const replicaBody = (replica: Snapshot["replica"]) =>
  replica === null
    ? null
    : {
        receiver: replica.receiver,
        replayed_lsn: printLsn(replica.replayed),
        lag_bytes: replica.lagBytes,
        lag_seconds: replica.lagSeconds,
        last_heard: moment(replica.lastHeard),
        max_lag_seconds: replica.maxLagSeconds
      }

export const holdBody = ({ createdAt, expiresAt, id, reason }: Hold) => ({
  id,
  reason,
  created_at: startTimeText(DateTime.makeUnsafe(createdAt)),
  expires_at: startTimeText(DateTime.makeUnsafe(expiresAt))
})

const sessionsOf = ({ activity }: Snapshot, kind: ActivityKind): number | null =>
  kind === "statistics" ? null : (activity?.sessions[kind] ?? 0)

/** After how many seconds without use it ends by itself; `null`: it does not. */
const idleExitOf = ({ exitWhenIdle, spec }: Snapshot): number | null =>
  exitWhenIdle && spec !== null ? idleTimeoutOf(spec.suspendTimeoutSeconds) : null

export const activityBody = (
  apiVersion: ApiVersion,
  snapshot: Snapshot,
  minutes: ReadonlyArray<Minute>,
  monotonicNow: number
) => ({
  status: wireStatus(apiVersion, snapshot.status),
  last_active: lastActiveText(snapshot.lastActive),
  awake_because: reasonsAwake(snapshot.activity, snapshot.holds, monotonicNow),
  looked_at: moment(snapshot.activity?.at ?? null),
  kinds: Object.fromEntries(
    activityKinds.map((kind) => [
      kind,
      {
        sessions: sessionsOf(snapshot, kind),
        last_active: moment(snapshot.activity?.last[kind] ?? null)
      }
    ])
  ),
  suspend_timeout_seconds: snapshot.spec?.suspendTimeoutSeconds ?? null,
  exit_when_idle_seconds: idleExitOf(snapshot),
  holds: snapshot.holds.map(holdBody),
  last_hour: minutes.map(({ at, reasons, served }) => ({
    at: startTimeText(DateTime.makeUnsafe(at)),
    because: reasons,
    served
  })),
  downtime: { current_ms: snapshot.downtime.current, total_ms: snapshot.downtime.total }
})

const stateOf = ({ outcome, startedAt }: ConfigureRequest) => {
  if (outcome === null) return startedAt === null ? ("queued" as const) : ("applying" as const)
  if (Result.isSuccess(outcome)) return "done" as const
  const { _tag } = outcome.failure
  return _tag === "Superseded"
    ? ("superseded" as const)
    : _tag === "Abandoned"
      ? ("abandoned" as const)
      : ("failed" as const)
}

export const configureRequestBody = (request: ConfigureRequest) => ({
  id: request.id,
  operation_uuid: request.operationId,
  state: stateOf(request),
  accepted_at: startTimeText(request.acceptedAt),
  started_at: request.startedAt === null ? null : startTimeText(request.startedAt),
  ended_at: request.endedAt === null ? null : startTimeText(request.endedAt),
  error:
    request.outcome === null || Result.isSuccess(request.outcome)
      ? null
      : bodyOf(configureRefusal(request.outcome.failure))
})

export const metricsText = (snapshot: Snapshot, buildTag: string): string =>
  printFamilies(
    familiesOf(
      {
        status: snapshot.status,
        ready: isReady(vitalsOf(snapshot)),
        steps: snapshot.steps,
        downtime: snapshot.downtime,
        totalStartupMillis: snapshot.metrics.total_startup_ms,
        lastActive: snapshot.lastActive?.epochMilliseconds ?? null,
        idleExits: snapshot.exitWhenIdle
          ? {
              afterSeconds: idleExitOf(snapshot),
              count: snapshot.history.filter(({ because }) => because === idleTooLong).length
            }
          : null,
        replica: snapshot.replica,
        conditions: snapshot.degraded
      },
      buildTag
    )
  )
