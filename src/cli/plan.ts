/**
 * `compute_ctl plan`: what an apply of a spec would do to a running Postgres, and does not do.
 *
 * Exit 0 when there is nothing to do, 2 when there is something, 1 when it could not be found out.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { observeAndPlan } from "../catalog/apply.ts"
import { isEmpty } from "../catalog/planApply.ts"
import { planJson, printPlan } from "../catalog/planText.ts"
import { SpecUnreadable } from "../errors/Failure.ts"
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
}

/** Which Postgres to look at, and the spec to compare it with. */
export const readPlan = (given: Given): Read<PlanSettings> =>
  Result.gen(function* () {
    const connstr = yield* readConnstr(given)
    if (connstr === null) return yield* usageError("--connstr", "plan needs the Postgres to look at: -C (--connstr)")
    // A plan reads the spec and no storage, so addresses that local storage would not need are not asked for.
    const storage = given.has("storage")
      ? yield* readStorage(given)
      : ({ _tag: "Local", directory: null, durability: "os" } as const)
    return {
      connstr,
      spec: yield* readSpecSource(given, []),
      storage,
      privilegedRole: yield* readPrivilegedRole(given),
      json: given.has("json")
    }
  })

const somethingToDo = 2

export const planCommand = (
  { connstr, json, privilegedRole, spec, storage }: PlanSettings,
  out: (text: string) => void,
  err: (text: string) => void
): Effect.Effect<number> =>
  Effect.gen(function* () {
    const found = yield* findSpec({ spec, storage, computeId: null, controlPlaneToken: null, apiVersion: "head" })
    if (found.spec === null) return yield* new SpecUnreadable({ source: "a configuration without a spec" })
    const plan = yield* observeAndPlan({ kind: "reconfigure", spec: found.spec }, { privilegedRole })
    if (json) out(`${JSON.stringify(planJson(plan), null, 2)}\n`)
    else if (!isEmpty(plan)) out(`${printPlan(plan)}\n`)
    return isEmpty(plan) ? 0 : somethingToDo
  }).pipe(
    Effect.catch((failure) =>
      Effect.sync(() => {
        err(`${causesOf(failure).join(": ")} (hint: ${hintOf(failure)})\n`)
        return failed
      })
    ),
    Effect.provide(Admin.layer(connstr))
  )
