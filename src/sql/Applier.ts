/**
 * Makes the catalog agree with the spec: one apply at a time, from a bounded mailbox, each ending in a receipt.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { Failure } from "../domain/Failure.ts"
import type { ParsedSpec } from "../domain/ParsedSpec.ts"
import type { Receipt } from "../domain/Receipt.ts"
import type { Actor } from "../Supervisor.ts"

export interface ApplyRequest {
  readonly kind: Receipt["kind"]
  readonly spec: ParsedSpec
}

export class Applier extends Context.Service<Applier, {
  /** Fails with `ApplyFailed` when any operation failed; what did not depend on it was done all the same. */
  readonly apply: (request: ApplyRequest) => Effect.Effect<Receipt, Failure>
  readonly lastReceipt: Effect.Effect<Receipt | null>
  /** The loop that does the work; the supervisor runs it. */
  readonly actor: Actor
}>()("compute/sql/Applier") {}
