/**
 * `compute_ctl plan`: what an apply of a spec would do to a running Postgres, and does not do. `compute_ctl apply`: the
 * same apply, done, as a compute does it for a later spec. Neither needs a compute.
 *
 * A plan's exit is 0 when there is nothing to do, 2 when there is something, 1 when it could not be found out. An
 * apply's is 0 when the catalog is as the spec says, and 1 when it is not.
 */
import * as Effect from "effect/Effect"
import * as References from "effect/References"
import * as Result from "effect/Result"
import { type ApplyRequest, applySpec, observeAndPlan } from "../catalog/apply.ts"
import { discardTemplate } from "../catalog/discardTemplate.ts"
import { failuresOf, printApplyReport } from "../catalog/outcome.ts"
import { isEmpty } from "../catalog/planApply.ts"
import { differencesOf, printDifferences } from "../catalog/planDifferences.ts"
import { leavesTemplate } from "../catalog/planTemplate.ts"
import { planJson, printPlan } from "../catalog/planText.ts"
import { type Failure, SpecUnreadable } from "../errors/Failure.ts"
import { causesOf, failed, hintOf } from "../errors/policy.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import { findSpec } from "./findSpec.ts"
import { type Given, type Read, usageError } from "./given.ts"
import {
  readConnstr,
  readPrivilegedRole,
  readSpecSource,
  readStorage,
  type SpecSource,
  type StorageChoice
} from "./RunSettings.ts"

export interface PlanSettings {
  readonly connstr: ConnString
  readonly spec: SpecSource
  readonly storage: StorageChoice
  readonly privilegedRole: string
  readonly json: boolean
  /** Of a plan: what differs, too. */
  readonly detailed: boolean
}

/** Which Postgres to look at, and the spec to compare it with. */
export const readPlan = (given: Given, command: "plan" | "apply"): Read<PlanSettings> =>
  Result.gen(function* () {
    const connstr = yield* readConnstr(given)
    if (connstr === null)
      return yield* usageError("--connstr", `${command} needs the Postgres to go to: -C (--connstr)`)
    // A plan reads the spec and no storage, so addresses that local storage would not need are not asked for.
    const storage = given.has("storage")
      ? yield* readStorage(given)
      : ({ _tag: "Local", directory: null, durability: "os" } as const)
    return {
      connstr,
      spec: yield* readSpecSource(given, []),
      storage,
      privilegedRole: yield* readPrivilegedRole(given),
      json: given.has("json"),
      detailed: given.has("detailed")
    }
  })

const somethingToDo = 2

export const planCommand = (
  { connstr, detailed, json, privilegedRole, spec, storage }: PlanSettings,
  out: (text: string) => void,
  err: (text: string) => void
): Effect.Effect<number> =>
  Effect.gen(function* () {
    const plan = yield* observeAndPlan(yield* requestOf({ spec, storage }), { privilegedRole })
    const differences = detailed ? differencesOf(plan) : []
    const shown = { ...(detailed ? { differences } : {}), ...planJson(plan) }
    if (json) out(`${JSON.stringify(shown, null, 2)}\n`)
    else if (!isEmpty(plan)) out(`${detailed ? `${printDifferences(differences)}\n\n` : ""}${printPlan(plan)}\n`)
    return isEmpty(plan) ? 0 : somethingToDo
  }).pipe(answered(err), Effect.provide(Admin.layer(connstr)))

export const applyCommand = (
  { connstr, json, privilegedRole, spec, storage }: PlanSettings,
  out: (text: string) => void,
  err: (text: string) => void
): Effect.Effect<number> =>
  Effect.gen(function* () {
    const report = yield* applySpec(yield* requestOf({ spec, storage }), { privilegedRole })
    if (leavesTemplate(report)) yield* discardTemplate
    out(`${json ? JSON.stringify(report, null, 2) : printApplyReport(report)}\n`)
    for (const line of failuresOf(report)) err(`${line}\n`)
    return report.outcome === "done" ? 0 : failed
  }).pipe(answered(err), Effect.provide(Admin.layer(connstr)))

const requestOf = Effect.fnUntraced(function* (from: Pick<PlanSettings, "spec" | "storage">) {
  const { spec } = yield* findSpec({ ...from, computeId: null, controlPlaneToken: null, apiVersion: "head" }).pipe(
    // Standard output is the plan's.
    Effect.provideService(References.MinimumLogLevel, "None")
  )
  if (spec === null) return yield* new SpecUnreadable({ source: "a configuration without a spec" })
  return { kind: "reconfigure", spec } satisfies ApplyRequest
})

const answered =
  (err: (text: string) => void) =>
  <R>(effect: Effect.Effect<number, Failure, R>): Effect.Effect<number, never, R> =>
    Effect.catch(effect, (failure) =>
      Effect.sync(() => {
        err(`${causesOf(failure).join(": ")} (hint: ${hintOf(failure)})\n`)
        return failed
      })
    )
