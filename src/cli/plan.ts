/**
 * `compute_ctl plan`: what an apply of a spec would do to a running Postgres, and does not do.
 *
 * Exit 0 when there is nothing to do, 2 when there is something, 1 when it could not be found out.
 */
import * as Effect from "effect/Effect"
import type { PlanSettings } from "./readPlan.ts"
import { SpecUnreadable } from "../errors/Failure.ts"
import { causesOf, hintOf } from "../errors/explain.ts"
import { Admin } from "../pgwire/Admin.ts"
import { isEmpty } from "../catalog/planApply.ts"
import { failed } from "../errors/exitCode.ts"
import { findSpec } from "./run.ts"
import { observeAndPlan, planJson, printPlan } from "../catalog/planText.ts"

const somethingToDo = 2

export const planCommand = (
  { connstr, json, privilegedRole, spec, storage }: PlanSettings,
  out: (text: string) => void,
  err: (text: string) => void
): Effect.Effect<number> =>
  Effect.gen(function*() {
    const found = yield* findSpec({ spec, storage, computeId: null, controlPlaneToken: null, dialect: "head" })
    if (found.spec === null) return yield* new SpecUnreadable({ source: "a configuration without a spec" })
    const plan = yield* observeAndPlan(found.spec, { kind: "reconfigure", privilegedRole })
    if (json) out(`${JSON.stringify(planJson(plan), null, 2)}\n`)
    else if (!isEmpty(plan)) out(`${printPlan(plan)}\n`)
    return isEmpty(plan) ? 0 : somethingToDo
  }).pipe(
    Effect.catch((failure) =>
      Effect.sync(() => {
        err(`${causesOf(failure).join(": ")} (hint: ${hintOf(failure)})\n`)
        return failed
      })),
    Effect.provide(Admin.layer(connstr))
  )
