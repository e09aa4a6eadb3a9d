/**
 * Where a compute is in its life.
 *
 * The names are the control plane's wire names and may not be changed here. Two dialects exist: the 2024 one
 * knows a single `termination_pending`; see `printStatus`.
 */
import * as Schema from "effect/Schema"

export const Status = Schema.Literals([
  "empty",
  "configuration_pending",
  "init",
  "running",
  "configuration",
  "refresh_configuration_pending",
  "refresh_configuration",
  "failed",
  "termination_pending_fast",
  "termination_pending_immediate",
  "terminated"
])
export type Status = typeof Status.Type

export const statuses: ReadonlyArray<Status> = Status.literals

/** How logs, error texts and the metric label spell it: `configuration-pending`. */
export const displayStatus = (status: Status): string => status.replaceAll("_", "-")

/** Has somebody asked this compute to end? */
export const isTerminating = (status: Status): boolean =>
  status === "termination_pending_fast" || status === "termination_pending_immediate" || status === "terminated"
