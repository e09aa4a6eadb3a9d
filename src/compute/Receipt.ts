/**
 * What one apply did, operation by operation: for `/apply`, for the log, and for the stored error. Holds no secret.
 */
export interface OperationReceipt {
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

export interface PhaseReceipt {
  readonly phase: string
  readonly done: number
  readonly skipped: number
  readonly failed: number
  readonly millis: number
}

export interface Receipt {
  readonly kind: "start" | "reconfigure" | "promote"
  /** ISO 8601, UTC. */
  readonly startedAt: string
  readonly millis: number
  readonly outcome: "done" | "failed"
  readonly phases: ReadonlyArray<PhaseReceipt>
  readonly operations: ReadonlyArray<OperationReceipt>
  readonly roundTrips: number
  readonly statements: number
}
