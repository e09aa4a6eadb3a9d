/**
 * Makes a running Postgres match a spec: its files, then its catalog. The first start and every later spec take
 * this same path; they differ only in what they find.
 *
 * Restarts nothing: settings that only a restart can change wait for one.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { Applier } from "../catalog/Applier.ts"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { type ApplyReport, withoutCondition } from "../compute/snapshot.ts"
import { type Failure, SpecInvalid } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { ConfigurationCheck, printPending } from "../postgres/configurationCheck.ts"
import { Pgdata } from "../postgres/Pgdata.ts"
import { overrideFile } from "../postgres/postgresqlConf.ts"
import type { Running } from "../postgres/Postmaster.ts"
import { openFiles, type PgdataFile, type StartPlan } from "../postgres/startPlan.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

/**
 * Applies the catalog with the temporary override in place (it lifts limits that would refuse the work), and
 * takes the override away again however the apply ends.
 */
export const applyCatalog = Effect.fn("Reconfigure.applyCatalog")(function* (
  kind: ApplyReport["kind"],
  spec: ParsedSpec,
  plan: StartPlan,
  postgres: Running
) {
  const pgdata = yield* Pgdata
  const applier = yield* Applier
  if (!plan.applyCatalog) return
  const { override } = plan
  const setOverride = (content: string): Effect.Effect<void, Failure> =>
    override === null
      ? Effect.void
      : pgdata
          .rewrite([{ name: overrideFile, content }])
          .pipe(Effect.flatMap((before) => (before.length > 0 ? postgres.reload : Effect.void)))
  yield* setOverride(override ?? "")
  yield* applier.apply({ kind, spec }).pipe(Effect.onExit(() => Effect.ignore(setOverride(""))))
})

/**
 * Files in place, looked at by Postgres before it is told to take them up, and put back when it finds a mistake. A
 * reload only when something changed.
 *
 * When Postgres cannot be asked (its pageserver may be what the new files are to replace) the reload is done all the
 * same: of files with mistakes Postgres takes nothing up, and goes on with what it has.
 */
export const rewriteFiles = Effect.fn("Reconfigure.rewriteFiles")(function* (
  files: ReadonlyArray<PgdataFile>,
  postgres: Running
) {
  const state = yield* ComputeState
  const pgdata = yield* Pgdata
  const before = yield* pgdata.rewrite(files)
  if (before.length === 0) return before
  const judged = yield* Effect.result(yield* ConfigurationCheck)
  if (Result.isFailure(judged)) {
    yield* Effect.logWarning(`the configuration is reloaded without having been checked: ${explain(judged.failure)}`)
  } else {
    const { pending, problems } = judged.success
    if (problems.length > 0) {
      yield* pgdata.rewrite(before)
      return yield* new SpecInvalid({ source: "settings of Postgres", problems })
    }
    if (pending.length > 0) yield* Effect.logWarning(printPending(pending))
    yield* state.note({ pendingRestart: pending })
  }
  yield* postgres.reload
  return before
})

/** A later spec: files first, then the catalog. */
export const reconfigure = Effect.fn("Reconfigure.reconfigure")(function* (
  spec: ParsedSpec,
  plan: StartPlan,
  postgres: Running
) {
  const state = yield* ComputeState
  yield* (yield* ComputeHooks).onSpecChanged(spec)
  yield* rewriteFiles(openFiles(plan), postgres)
  // Whatever stood in for a spec that could not be had is replaced by this one.
  yield* state.note(({ degraded }) => ({ spec, degraded: withoutCondition(degraded, "last_good_spec") }))
  yield* applyCatalog("reconfigure", spec, plan, postgres)
  yield* Effect.logInfo(`finished reconfiguration of compute node for operation ${spec.operationId ?? "unknown"}`)
})
