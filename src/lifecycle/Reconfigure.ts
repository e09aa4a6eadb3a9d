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
import type { ApplyReport } from "../compute/snapshot.ts"
import { type Failure, SpecInvalid } from "../errors/Failure.ts"
import { causesOf, explain } from "../errors/policy.ts"
import { ConfigurationCheck, type PendingRestart, printPending } from "../postgres/configurationCheck.ts"
import { defectsAsFailures } from "./outcome.ts"
import { NewSession } from "./postgresWatch.ts"
import { Pgdata } from "../postgres/Pgdata.ts"
import { overrideFile } from "../postgres/postgresqlConf.ts"
import type { Running } from "../postgres/Postmaster.ts"
import { openFiles, type PgdataFile, type StartPlan } from "../postgres/startPlan.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { storageWarnings } from "../spec/parseStorage.ts"

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
  yield* applier.apply({ kind, spec }).pipe(Effect.onExit(() => withdrawOverride(setOverride(""))))
})

/** An override that stays is no reason to fail: the next apply tries again to take it away. */
const withdrawOverride = Effect.fnUntraced(function* (withdraw: Effect.Effect<void, Failure>) {
  const state = yield* ComputeState
  const done = yield* Effect.result(withdraw)
  yield* Result.isSuccess(done)
    ? state.clear("override_not_reset")
    : state.raise({
        code: "override_not_reset",
        message: `${overrideFile} still overrides settings of the spec: ${causesOf(done.failure).join(": ")}`
      })
})

/** Files as they were before, and whether Postgres could be asked about the new ones. */
interface Rewritten {
  readonly before: ReadonlyArray<PgdataFile>
  readonly checked: boolean
  readonly pendingBefore: ReadonlyArray<PendingRestart>
}

/** Libraries of extensions that are fetched when they are needed. */
const fetchableLibraries = ({ remoteExtensions }: ParsedSpec): ReadonlySet<string> =>
  new Set(remoteExtensions?.libraries.keys() ?? [])

/**
 * Files in place, with the certificate that they speak of, looked at by Postgres before it is told to take them up, and
 * put back when it finds a mistake. A reload only when something changed.
 *
 * When Postgres cannot be asked (its pageserver may be what the new files are to replace) the reload is done all the
 * same: of files with mistakes Postgres takes nothing up, and goes on with what it has.
 */
export const rewriteFiles = Effect.fn("Reconfigure.rewriteFiles")(function* (
  spec: ParsedSpec,
  files: ReadonlyArray<PgdataFile>,
  postgres: Running
) {
  const state = yield* ComputeState
  const pgdata = yield* Pgdata
  for (const warning of storageWarnings(spec.neon)) yield* Effect.logWarning(warning)
  const { pendingRestart: pendingBefore } = yield* state.now
  yield* (yield* ComputeHooks).placeCertificate(spec)
  const before = yield* pgdata.rewrite(files)
  if (before.length === 0) return { before, checked: true, pendingBefore } satisfies Rewritten
  const check = yield* ConfigurationCheck
  const found = yield* Effect.result(check({ before, fetchable: fetchableLibraries(spec) }))
  if (Result.isFailure(found)) {
    yield* Effect.logWarning(`the configuration is reloaded without having been checked: ${explain(found.failure)}`)
  } else {
    const { pending, problems } = found.success
    if (problems.length > 0) {
      yield* pgdata.rewrite(before)
      return yield* new SpecInvalid({ source: "settings of Postgres", problems })
    }
    if (pending.length > 0) yield* Effect.logWarning(printPending(pending))
    yield* state.note({ pendingRestart: pending })
  }
  yield* postgres.reload
  return { before, checked: Result.isSuccess(found), pendingBefore } satisfies Rewritten
})

/**
 * The spec's files are in force but its catalog is not: they may be what locks everybody out. They go back, unless
 * Postgres could not be asked before either: then the new ones may be its cure. A condition says what is not undone.
 */
const undo = Effect.fnUntraced(function* ({ before, checked, pendingBefore }: Rewritten, postgres: Running) {
  const state = yield* ComputeState
  const pgdata = yield* Pgdata
  if (before.length === 0) return
  const put = checked ? yield* Effect.result(pgdata.rewrite(before)) : null
  if (put !== null && Result.isSuccess(put)) {
    yield* postgres.reload
    yield* state.note({ pendingRestart: pendingBefore })
    return yield* Effect.logWarning("the configuration files are back to what they were before the failed spec")
  }
  const why = put === null ? "" : `, and could not be put back: ${causesOf(put.failure).join(": ")}`
  yield* state.raise({
    code: "reconfigure_incomplete",
    message: `the configuration files of a spec that failed are in force${why}; send a spec that can be applied`
  })
})

/** A later spec: files first, then the catalog. What fails leaves the files as they were, or a condition. */
export const reconfigure = Effect.fn("Reconfigure.reconfigure")(function* (
  spec: ParsedSpec,
  plan: StartPlan,
  postgres: Running
) {
  const state = yield* ComputeState
  yield* (yield* ComputeHooks).onSpecChanged(spec)
  const rewritten = yield* rewriteFiles(spec, openFiles(plan), postgres)
  yield* state.note({ spec })
  // Whatever stood in for a spec that could not be had is replaced by this one.
  yield* state.clear("last_good_spec")
  const { before, checked } = rewritten
  // Also where there is no catalog to apply: what nobody has tried may lock everybody out.
  const takesSessions = before.length > 0 && checked ? yield* NewSession : Effect.void
  yield* takesSessions.pipe(
    Effect.andThen(applyCatalog("reconfigure", spec, plan, postgres)),
    defectsAsFailures("applying the catalog"),
    Effect.tapError(() => undo(rewritten, postgres))
  )
  yield* state.clear("reconfigure_incomplete")
  yield* Effect.logInfo(`finished reconfiguration of compute node for operation ${spec.operationId ?? "unknown"}`)
})
