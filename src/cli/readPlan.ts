/**
 * What `compute_ctl plan` is told: which Postgres to look at, and the spec to compare it with. Looks at neither.
 */
import * as Result from "effect/Result"
import type { ConnString } from "../pgwire/ConnString.ts"
import type { Given } from "./Given.ts"
import { readConnstr, readPrivilegedRole, readSpecSource, readStorage } from "./RunSettings.ts"
import type { SpecSource, StorageChoice } from "./RunSettings2.ts"
import { type UsageError, usageError } from "./usage.ts"

export interface PlanSettings {
  readonly connstr: ConnString
  readonly spec: SpecSource
  readonly storage: StorageChoice
  readonly privilegedRole: string
  readonly json: boolean
}

export const readPlan = (given: Given): Result.Result<PlanSettings, UsageError> =>
  Result.gen(function*() {
    const connstr = yield* readConnstr(given)
    if (connstr === null) return yield* usageError("--connstr", "plan needs the Postgres to look at: -C (--connstr)")
    // A plan reads the spec and no storage, so addresses that local storage would not need are not asked for.
    const storage = given.has("storage") ? yield* readStorage(given) : { _tag: "Local", directory: null, durability: "os" } as const
    return {
      connstr,
      spec: yield* readSpecSource(given, []),
      storage,
      privilegedRole: yield* readPrivilegedRole(given),
      json: given.has("json")
    }
  })
