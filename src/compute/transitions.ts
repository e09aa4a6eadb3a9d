/**
 * The life of a compute, as a table.
 *
 * Every status change in this program is a row below, and a change that is not a row is refused. The README
 * diagram is printed from this table and the tests walk it, so a new row needs no third edit.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

// ---------------------------------------------------------------------------------------------------------------------
// Where a compute is in its life.
//
// The names are the control plane's wire names and may not be changed here. Two versions of the API exist: the 2024 one
// knows a single `termination_pending`; see `printStatus`.
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The statuses as the control plane knows them.
 *
 * @example
 * ```ts
 * const names: ReadonlyArray<string> = Status.literals
 * ```
 */
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

// ---------------------------------------------------------------------------------------------------------------------

export const Trigger = Schema.Literals([
  "SpecArrived",
  "StartBegan",
  "PostgresReady",
  "ConfigureBegan",
  "ConfigureDone",
  "RefreshAsked",
  "RefreshBegan",
  "RefreshRetry",
  "Broke",
  "TerminateFastAsked",
  "TerminateImmediateAsked",
  "FoundIdle",
  "PostgresGone"
])
export type Trigger = typeof Trigger.Type

export interface Row {
  readonly from: Status
  readonly on: Trigger
  readonly to: Status
  /** Shown in the log line and on the diagram's edge. */
  readonly because: string
}

/** Why a compute ends by itself (`--exit-when-idle`). */
export const idleTooLong = "nobody has used Postgres for as long as the spec allows"

/** Every status in which nobody has asked for the end yet can be asked for it, in two ways. */
const endable = [
  "empty",
  "configuration_pending",
  "init",
  "running",
  "configuration",
  "refresh_configuration_pending",
  "refresh_configuration",
  "failed"
] as const satisfies ReadonlyArray<Status>

export const table: ReadonlyArray<Row> = [
  // -- start ---------------------------------------------------------------------------------------------------
  { from: "empty", on: "SpecArrived", to: "configuration_pending", because: "the control plane sent a spec" },
  { from: "empty", on: "StartBegan", to: "init", because: "the spec was there at once" },
  { from: "configuration_pending", on: "StartBegan", to: "init", because: "first start with the spec that was sent" },
  { from: "init", on: "PostgresReady", to: "running", because: "Postgres accepts connections and the spec is applied" },
  // -- reconfiguration -----------------------------------------------------------------------------------------
  { from: "running", on: "SpecArrived", to: "configuration_pending", because: "a new spec arrived" },
  {
    from: "failed",
    on: "SpecArrived",
    to: "configuration_pending",
    because: "a new spec may heal what the last one broke"
  },
  {
    from: "configuration_pending",
    on: "ConfigureBegan",
    to: "configuration",
    because: "Postgres runs, so the spec is applied to it"
  },
  { from: "configuration", on: "ConfigureDone", to: "running", because: "the new spec is applied" },
  // -- refresh -------------------------------------------------------------------------------------------------
  {
    from: "running",
    on: "RefreshAsked",
    to: "refresh_configuration_pending",
    because: "Postgres suspects that its spec is stale"
  },
  {
    from: "failed",
    on: "RefreshAsked",
    to: "refresh_configuration_pending",
    because: "a fresh spec may cure the failure"
  },
  {
    from: "refresh_configuration_pending",
    on: "RefreshBegan",
    to: "refresh_configuration",
    because: "the spec is being fetched again"
  },
  { from: "refresh_configuration", on: "ConfigureDone", to: "running", because: "the fetched spec is applied" },
  {
    from: "refresh_configuration",
    on: "RefreshRetry",
    to: "refresh_configuration_pending",
    because: "the spec could not be fetched or applied"
  },
  // -- failure -------------------------------------------------------------------------------------------------
  { from: "empty", on: "Broke", to: "failed", because: "the compute cannot take a spec" },
  { from: "init", on: "Broke", to: "failed", because: "the start failed" },
  { from: "running", on: "Broke", to: "failed", because: "Postgres died unasked, or the compute cannot go on" },
  { from: "configuration_pending", on: "Broke", to: "failed", because: "Postgres died before the spec was applied" },
  { from: "configuration", on: "Broke", to: "failed", because: "the new spec could not be applied" },
  {
    from: "refresh_configuration_pending",
    on: "Broke",
    to: "failed",
    because: "Postgres died before the spec was fetched"
  },
  { from: "refresh_configuration", on: "Broke", to: "failed", because: "Postgres died while the spec was fetched" },
  // -- end -----------------------------------------------------------------------------------------------------
  ...endable.flatMap((from): ReadonlyArray<Row> => [
    { from, on: "TerminateFastAsked", to: "termination_pending_fast", because: "asked to terminate" },
    {
      from,
      on: "TerminateImmediateAsked",
      to: "termination_pending_immediate",
      because: "asked to terminate without an exit delay"
    }
  ]),
  {
    from: "running",
    on: "FoundIdle",
    to: "termination_pending_immediate",
    because: idleTooLong
  },
  {
    from: "termination_pending_fast",
    on: "TerminateImmediateAsked",
    to: "termination_pending_immediate",
    because: "asked again, in a hurry"
  },
  { from: "termination_pending_fast", on: "PostgresGone", to: "terminated", because: "Postgres is gone" },
  { from: "termination_pending_immediate", on: "PostgresGone", to: "terminated", because: "Postgres is gone" }
]

/** Statuses in which the process may exit. */
export const finals = ["failed", "terminated"] as const satisfies ReadonlyArray<Status>

export class IllegalTransition extends Schema.TaggedError<IllegalTransition>()("IllegalTransition", {
  from: Status,
  on: Trigger
}) {
  override get message(): string {
    return `invalid compute status: ${displayStatus(this.from)} (it cannot take ${this.on})`
  }
}

const index: ReadonlyMap<string, Row> = new Map(table.map((row) => [`${row.from} ${row.on}`, row]))

export const step = (from: Status, on: Trigger): Result.Result<Row, IllegalTransition> => {
  const row = index.get(`${from} ${on}`)
  return row === undefined ? Result.fail(new IllegalTransition({ from, on })) : Result.succeed(row)
}

// ---------------------------------------------------------------------------------------------------------------------
// The table as a mermaid state diagram, for the README and for people.
// ---------------------------------------------------------------------------------------------------------------------

const pascal = (status: string): string =>
  status
    .split("_")
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join("")

/**
 * The table of changes as a state diagram.
 *
 * @example
 * ```ts
 * const diagram = toMermaid().startsWith("stateDiagram-v2")
 * ```
 */
export const toMermaid = (): string =>
  [
    "stateDiagram-v2",
    "  [*] --> Empty : the process started",
    ...table.map((row) => `  ${pascal(row.from)} --> ${pascal(row.to)} : ${row.because}`),
    ...finals.map((status) => `  ${pascal(status)} --> [*] : the process exits`)
  ].join("\n")
