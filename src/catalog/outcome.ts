/**
 * How an operation went, which failures pass by themselves, and the applyReport that comes of it all.
 *
 * No text here holds a verifier: what Postgres says is scrubbed before it is kept.
 */
import type { OperationReport, PhaseReport, ApplyReport } from "../compute/ComputeState.ts"
import { type ApplyPlan, type Operation, phases } from "./operations.ts"

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

/** What a server, or our own wire, said about a statement that failed. */
export interface SqlError {
  readonly message: string
  readonly sqlState: string | null
  readonly hint: string | null
}

/** Deadlock, lock not available, object in use, serialisation: the same statement may well succeed a moment later. */
const passing = new Set(["40P01", "55P03", "55006", "40001"])

/** Postgres has no code of its own for two sessions at one catalog row (heapam's simple_heap_update, XX000). */
export const isPassing = ({ message, sqlState }: SqlError): boolean =>
  sqlState !== null &&
  (passing.has(sqlState) || (sqlState === "XX000" && /tuple concurrently (updated|deleted)/.test(message)))

export const mostAttempts = 6

/** Before attempt `n` (2, 3, ...), milliseconds. */
export const pauseBefore = (attempt: number): number => Math.min(1000, 20 * 2 ** attempt)

export const scrub = (text: string): string =>
  text.replace(/SCRAM-SHA-256\$[^\s'"]*/g, "<redacted>").replace(/\bmd5[0-9a-f]{8,}/g, "<redacted>")

/** Outcomes that need no server: refused and left alone. */
export const settledBeforehand = (plan: ApplyPlan): ReadonlyArray<Outcome> =>
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

const round = (millis: number): number => Math.round(millis * 100) / 100

const printOutcome = (one: Outcome): OperationReport => ({
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
const totals = (outcomes: ReadonlyArray<Outcome>): ReadonlyArray<PhaseReport> => {
  const byPhase = Map.groupBy(outcomes, (one) => one.operation.phase)
  return phases.flatMap((phase) => {
    const those = byPhase.get(phase)
    if (those === undefined) return []
    const count = (outcome: Outcome["outcome"]) => those.filter((one) => one.outcome === outcome).length
    const ran = those.filter((one) => one.attempts > 0)
    const from = ran.reduce((least, one) => Math.min(least, one.from), Infinity)
    const to = ran.reduce((most, one) => Math.max(most, one.to), -Infinity)
    const millis = ran.length === 0 ? 0 : round(to - from)
    return [{ phase, done: count("done"), skipped: count("skipped"), failed: count("failed"), millis }]
  })
}

export const applyReportOf = (
  plan: ApplyPlan,
  outcomes: ReadonlyArray<Outcome>,
  facts: Pick<ApplyReport, "startedAt" | "millis" | "roundTrips" | "statements">
): ApplyReport => {
  const order = new Map(plan.operations.map((operation, index) => [operation, index]))
  const sorted = outcomes.toSorted((a, b) => (order.get(a.operation) ?? 0) - (order.get(b.operation) ?? 0))
  return {
    kind: plan.kind,
    startedAt: facts.startedAt,
    millis: round(facts.millis),
    outcome: outcomes.some((one) => one.outcome === "failed") ? "failed" : "done",
    phases: totals(sorted),
    operations: sorted.map(printOutcome),
    roundTrips: facts.roundTrips,
    statements: facts.statements
  }
}

/** One line about a failed operation: where, what, why, and what Postgres advises. */
export const printFailure = (one: OperationReport): string => {
  const where = one.database === null ? "" : ` in database ${JSON.stringify(one.database)}`
  const state = one.sqlState === null ? "" : ` (SQLSTATE ${one.sqlState})`
  const hint = one.hint === null ? "" : `; ${one.hint}`
  return `${one.action} ${one.object}${where}: ${one.reason ?? "failed"}${state}${hint}`
}

export const failuresOf = (applyReport: ApplyReport): ReadonlyArray<string> =>
  applyReport.operations.filter(({ outcome }) => outcome === "failed").map(printFailure)

export const printApplyReport = (applyReport: ApplyReport): string => {
  const count = (outcome: OperationReport["outcome"]) =>
    applyReport.operations.filter((one) => one.outcome === outcome).length
  return (
    `applied the catalog in ${applyReport.millis} ms: ${count("done")} done, ${count("skipped")} skipped, ` +
    `${count("failed")} failed (${applyReport.roundTrips} round trips, ${applyReport.statements} statements)`
  )
}
