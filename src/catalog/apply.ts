/**
 * One apply: observe the catalog, plan, execute, report. Or only the plan of one, for `compute_ctl plan`.
 *
 * Nothing outlives the call: its connections are closed when it returns.
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import type { ApplyReport } from "../compute/snapshot.ts"
import type { Failure, TimedOut, WireFailed } from "../errors/Failure.ts"
import { Admin, type Purpose } from "../pgwire/Admin.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { ApplyOptions } from "./Catalog.ts"
import { execute, millisNow } from "./execute.ts"
import { observe } from "./observe.ts"
import type { ApplyPlan } from "./operations.ts"
import { applyReportOf } from "./outcome.ts"
import { planApply } from "./planApply.ts"
import { newSqlStatistics, openSession, openSystemSession } from "./sessions.ts"

export interface ApplyRequest {
  readonly kind: ApplyReport["kind"]
  readonly spec: ParsedSpec
}

export interface ApplierOptions {
  /** The almost-superuser given to users. */
  readonly privilegedRole: string
  /** `CREATE DATABASE` copies files: for storage where fsync is off while the spec is applied. */
  readonly fileCopy?: boolean
}

const purposeOf = (kind: ApplyReport["kind"]): Purpose => (kind === "start" ? "apply_config" : "reconfigure")

const completeOptions = (request: ApplyRequest, options: ApplierOptions, superuser: string): ApplyOptions => ({
  kind: request.kind,
  privilegedRole: options.privilegedRole,
  superuser,
  // On a live system fsync is on, and copying files would then be the slowest way.
  fileCopy: options.fileCopy === true && request.kind === "start"
})

/** Fails only when the catalog could not be read at all. */
export const applySpec: (request: ApplyRequest, options: ApplierOptions) => Effect.Effect<ApplyReport, Failure, Admin> =
  Effect.fn("Applier.applySpec")(function* (request, given) {
    const admin = yield* Admin
    const options = completeOptions(request, given, admin.superuser)
    const purpose = purposeOf(request.kind)
    const statistics = newSqlStatistics()
    const startedAt = DateTime.formatIso(yield* DateTime.now)
    const from = yield* millisNow
    return yield* Effect.scoped(
      Effect.gen(function* () {
        const session = yield* openSystemSession(statistics, purpose)
        const plan = planApply(request.spec, yield* observe(session, request.spec, options), options)
        const outcomes = yield* execute(plan, session, statistics, purpose)
        return applyReportOf(plan, outcomes, { startedAt, millis: (yield* millisNow) - from, ...statistics })
      })
    )
  })

/** Opens one connection, reads, and closes it. Changes nothing. */
export const observeAndPlan: (
  request: ApplyRequest,
  options: ApplierOptions
) => Effect.Effect<ApplyPlan, WireFailed | TimedOut, Admin> = Effect.fn("Applier.observeAndPlan")(
  function* (request, given) {
    const admin = yield* Admin
    const options = completeOptions(request, given, admin.superuser)
    return yield* Effect.scoped(
      Effect.gen(function* () {
        const session = yield* openSession(newSqlStatistics(), purposeOf(request.kind), null)
        return planApply(request.spec, yield* observe(session, request.spec, options), options)
      })
    )
  }
)
