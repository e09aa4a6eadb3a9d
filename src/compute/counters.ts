/**
 * What is counted from the beginning of the program to its end, by the names of `/metrics`
 * (docs/reference/compute_ctl.md#metrics). Others count; what is counted from their own numbers is not here.
 *
 * All of it is there with 0 before anything can happen: of a series that appears with its first event, Prometheus's
 * `increase()` misses that event. Where labels are not known beforehand, the family is there without any.
 */
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"

const counter = (name: string, description: string) => Metric.counter(name, { description, incremental: true })

export const counters = {
  controlPlaneRequests: counter("compute_ctl_cplane_requests_total", "Requests to the control plane"),
  staleSpecReports: counter(
    "pg_cctl_pagestream_request_errors_total",
    "How often Postgres suspected that its spec is stale"
  ),
  statementTimeouts: counter(
    "pg_cctl_configure_statement_timeout_errors_total",
    "Operations of an apply that Postgres ended by a statement timeout, or that somebody cancelled (SQLSTATE 57014)"
  ),
  migrationFailures: counter(
    "compute_ctl_db_migration_failed_total",
    "Attempts at a migration of the catalog that failed; 0 is the table that remembers which are done"
  ),
  extensionRequests: counter("compute_ctl_remote_ext_requests_total", "Requests to the store of extensions"),
  prewarms: counter("compute_ctl_lfc_prewarms_total", "Prewarms of the local file cache"),
  prewarmErrors: counter("compute_ctl_lfc_prewarm_errors_total", "Prewarms that failed"),
  offloads: counter("compute_ctl_lfc_offloads_total", "Offloads of the local file cache's map"),
  offloadErrors: counter("compute_ctl_lfc_offload_errors_total", "Offloads that failed"),
  basePublicationFailures: counter(
    "compute_ctl_base_publication_failures_total",
    "Attempts at a new base of the local storage that failed"
  ),
  actorRestarts: counter("compute_ctl_actor_restarts_total", "How often an actor failed and was started again")
} as const

/** Migrations that do something, and 0 for the table that remembers them. */
export const migrationIds = [0, 1, 2, 3, 4, 10, 11, 12] as const

export const controlPlaneRequest = (httpStatus: string) =>
  Metric.withAttributes(counters.controlPlaneRequests, { rpc: "GetConfig", http_status: httpStatus })

export const migrationFailure = (id: number) =>
  Metric.withAttributes(counters.migrationFailures, { migration_id: String(id) })

export const actorRestart = (actor: string) => Metric.withAttributes(counters.actorRestarts, { actor })

/** Asking for a value is what makes a series appear. */
export const countFromZero: Effect.Effect<void> = Effect.suspend(() => {
  const { actorRestarts: _a, controlPlaneRequests: _c, migrationFailures: _m, ...plain } = counters
  const labelled = [...["200 OK", "unknown"].map(controlPlaneRequest), ...migrationIds.map(migrationFailure)]
  return Effect.forEach([...Object.values(plain), ...labelled], Metric.value, { discard: true })
})
