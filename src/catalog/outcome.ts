/**
 * How each operation of an apply went, and the apply report that is made of all of them.
 *
 * No text here holds a verifier: what Postgres says is scrubbed before it becomes an outcome (`sqlErrors.ts`).
 */
import type { ApplyReport, OperationReport, PhaseReport } from "../compute/snapshot.ts"
import { type ApplyPlan, databaseObject, type Operation, type Phase, phases } from "./operations.ts"

export interface Outcome {
  readonly operation: Operation
  readonly outcome: "done" | "skipped" | "failed"
  readonly reason: string | null
  readonly sqlState: string | null
  readonly hint: string | null
  readonly attempts: number
  /** Its share, where many went in one message. */
  readonly millis: number
  /** Milliseconds on one clock; only differences mean anything. */
  readonly from: number
  readonly to: number
}

/** Of the operations that are refused or left alone: they need no server. */
export const outcomesWithoutServer = (plan: ApplyPlan): ReadonlyArray<Outcome> =>
  plan.operations.flatMap((operation): ReadonlyArray<Outcome> => {
    const nothing = { operation, sqlState: null, attempts: 0, millis: 0, from: 0, to: 0 }
    switch (operation.decision._tag) {
      case "Do":
        return []
      case "Skip":
        return [{ ...nothing, outcome: "skipped", reason: operation.decision.reason, hint: null }]
      case "Refuse":
        return [{ ...nothing, outcome: "failed", reason: operation.decision.reason, hint: operation.decision.hint }]
    }
  })

/** Of an operation that rests on `missing`. */
export const skippedOutcome = (operation: Operation, missing: Outcome, now: number): Outcome => {
  const { action, object } = missing.operation
  return {
    operation,
    outcome: "skipped",
    reason: `${action} ${object} ${missing.outcome === "failed" ? "failed" : "was skipped"}`,
    sqlState: null,
    hint: null,
    attempts: 0,
    millis: 0,
    from: now,
    to: now
  }
}

const round = (millis: number): number => Math.round(millis * 100) / 100

const reportOfOperation = (one: Outcome): OperationReport => ({
  phase: one.operation.phase,
  database: one.operation.database,
  object: one.operation.object,
  action: one.operation.action,
  outcome: one.outcome,
  reason: one.reason,
  sqlState: one.sqlState,
  hint: one.hint,
  attempts: one.attempts,
  millis: round(one.millis)
})

/** In the order of the phases; a phase lasts from its first operation to its last. */
const reportOfPhases = (outcomes: ReadonlyArray<Outcome>): ReadonlyArray<PhaseReport> => {
  const byPhase = Map.groupBy(outcomes, (one) => one.operation.phase)
  return phases.flatMap((phase) => {
    const inPhase = byPhase.get(phase)
    if (inPhase === undefined) return []
    const count = (outcome: Outcome["outcome"]) => inPhase.filter((one) => one.outcome === outcome).length
    const ran = inPhase.filter((one) => one.attempts > 0)
    const from = ran.reduce((least, one) => Math.min(least, one.from), Infinity)
    const to = ran.reduce((most, one) => Math.max(most, one.to), -Infinity)
    const millis = ran.length === 0 ? 0 : round(to - from)
    return [{ phase, done: count("done"), skipped: count("skipped"), failed: count("failed"), millis }]
  })
}

export const applyReportOf = (
  plan: ApplyPlan,
  outcomes: ReadonlyArray<Outcome>,
  cost: Pick<ApplyReport, "startedAt" | "millis" | "connections" | "roundTrips" | "statements">
): ApplyReport => {
  const order = new Map(plan.operations.map((operation, index) => [operation, index]))
  const sorted = outcomes.toSorted((a, b) => (order.get(a.operation) ?? 0) - (order.get(b.operation) ?? 0))
  return {
    kind: plan.kind,
    startedAt: cost.startedAt,
    millis: round(cost.millis),
    outcome: outcomes.some((one) => one.outcome === "failed") ? "failed" : "done",
    phases: reportOfPhases(sorted),
    operations: sorted.map(reportOfOperation),
    connections: cost.connections,
    roundTrips: cost.roundTrips,
    statements: cost.statements
  }
}

/** One line about a failed operation: where, what, why, and what Postgres advises. */
const printFailure = (one: OperationReport): string => {
  const where = one.database === null ? "" : ` in database ${JSON.stringify(one.database)}`
  const state = one.sqlState === null ? "" : ` (SQLSTATE ${one.sqlState})`
  const hint = one.hint === null ? "" : `; ${one.hint}`
  return `${one.action} ${one.object}${where}: ${one.reason ?? "failed"}${state}${hint}`
}

export const failuresOf = (applyReport: ApplyReport): ReadonlyArray<string> =>
  applyReport.operations.filter(({ outcome }) => outcome === "failed").map(printFailure)

/** Whose operations without a database are about the cluster: its roles, and which databases it has. */
const clusterWide: ReadonlySet<string> = new Set<Phase>([
  "CreatePrivilegedRole",
  "DropInvalidDatabases",
  "RenameRoles",
  "CreateAndAlterRoles",
  "CreateAndAlterDatabases",
  "DropRoles"
])

/** The database that an operation is about, as an object; `null`: it is about the cluster. */
const databaseOf = (one: OperationReport, systemDatabase: string): string | null => {
  if (one.database !== null) return databaseObject(one.database)
  if (one.phase === "RenameAndDeleteDatabases") return one.object
  return clusterWide.has(one.phase) ? null : databaseObject(systemDatabase)
}

/**
 * What failed, told apart. `broken`: in a database, by what is in it or who holds it, as lines of each. That is its
 * owner's to mend, and no reason to keep the other databases from their users. A database that this apply has made has
 * no such excuse, nor has what was refused before it was tried.
 */
export const sortFailures = (
  { operations }: Pick<ApplyReport, "operations">,
  systemDatabase: string
): { readonly broken: ReadonlyMap<string, ReadonlyArray<string>>; readonly others: ReadonlyArray<string> } => {
  const made = new Set(
    operations.filter(({ action, outcome }) => action === "create" && outcome === "done").map(({ object }) => object)
  )
  const broken = new Map<string, ReadonlyArray<string>>()
  const others: Array<string> = []
  for (const one of operations.filter(({ outcome }) => outcome === "failed")) {
    const about = one.attempts === 0 ? null : databaseOf(one, systemDatabase)
    if (about === null || made.has(about)) others.push(printFailure(one))
    else broken.set(about, [...(broken.get(about) ?? []), printFailure(one)])
  }
  return { broken, others }
}

export const printApplyReport = (applyReport: ApplyReport): string => {
  const count = (outcome: OperationReport["outcome"]) =>
    applyReport.operations.filter((one) => one.outcome === outcome).length
  return (
    `applied the catalog in ${applyReport.millis} ms: ${count("done")} done, ${count("skipped")} skipped, ` +
    `${count("failed")} failed (${applyReport.connections} connections, ${applyReport.roundTrips} round trips, ` +
    `${applyReport.statements} statements)`
  )
}
