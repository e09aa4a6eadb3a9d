/**
 * The outcomes of one execution, as they come in. Gone with it.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { Operation } from "./operations.ts"
import type { Outcome } from "./outcome.ts"

/** The outcomes so far, by operation. Mutable: one execution. */
export interface Ledger {
  readonly outcomes: Map<string, Outcome>
}

export const millisNow: Effect.Effect<number> = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

/** Notes an operation as skipped when something it rests on did not happen. */
export const excuse = (operation: Operation, ledger: Ledger, now: number): boolean => {
  const missing = operation.after.map((id) => ledger.outcomes.get(id)).find((one) => one !== undefined && one.outcome !== "done")
  if (missing === undefined) return false
  const { action, object } = missing.operation
  ledger.outcomes.set(operation.id, {
    operation,
    outcome: "skipped",
    reason: `${action} ${object} ${missing.outcome === "failed" ? "failed" : "was skipped"}`,
    sqlState: null,
    hint: null,
    attempts: 0,
    millis: 0,
    from: now,
    to: now
  })
  return true
}
