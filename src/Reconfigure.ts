/**
 * Makes a running Postgres match a spec: its files, then its catalog. The first start and every later spec take
 * this same path; they differ only in what they find.
 *
 * Restarts nothing: settings that only a restart can change wait for one.
 */
import * as Effect from "effect/Effect"
import { ComputeState } from "./ComputeState.ts"
import type { Failure } from "./domain/Failure.ts"
import type { ParsedSpec } from "./domain/ParsedSpec.ts"
import type { Receipt } from "./domain/Receipt.ts"
import { Pgdata } from "./pgdata/Pgdata.ts"
import { overrideFile } from "./plan/postgresConf.ts"
import { openFiles, type StartPlan } from "./plan/startPlan.ts"
import type { Running } from "./postmaster/Postmaster.ts"
import { Applier } from "./sql/Applier.ts"

/**
 * Applies the catalog with the temporary override in place (it lifts limits that would refuse the work), and
 * takes the override away again however the apply ends.
 */
export const applyCatalog = Effect.fn("Reconfigure.applyCatalog")(function*(
  kind: Receipt["kind"],
  spec: ParsedSpec,
  plan: StartPlan,
  postgres: Running
) {
  const pgdata = yield* Pgdata
  const applier = yield* Applier
  if (!plan.applyCatalog) return
  const { override } = plan
  const setOverride = (content: string): Effect.Effect<void, Failure> =>
    override === null ? Effect.void : pgdata.rewrite([{ name: overrideFile, content }]).pipe(
      Effect.flatMap((changed) => changed ? postgres.reload : Effect.void)
    )
  yield* setOverride(override ?? "")
  yield* applier.apply({ kind, spec }).pipe(
    Effect.onExit(() => Effect.ignore(setOverride("")))
  )
})

/** A later spec: files first, a reload only when they changed, then the catalog. */
export const reconfigure = Effect.fn("Reconfigure.reconfigure")(function*(
  spec: ParsedSpec,
  plan: StartPlan,
  postgres: Running
) {
  const state = yield* ComputeState
  const pgdata = yield* Pgdata
  const changed = yield* pgdata.rewrite(openFiles(plan))
  if (changed) yield* postgres.reload
  yield* state.note({ spec })
  yield* applyCatalog("reconfigure", spec, plan, postgres)
  yield* Effect.logInfo(`finished reconfiguration of compute node for operation ${spec.operationId ?? "unknown"}`)
})
