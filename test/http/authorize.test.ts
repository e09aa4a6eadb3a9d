/**
 * Which claims open this compute (docs/reference/compute_ctl.md#authorization).
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { authorize } from "../../src/http/authorize.ts"

const verdict = (claims: unknown): string => {
  const result = authorize(claims, "compute-1")
  return Result.isSuccess(result)
    ? `admitted${result.success.admin ? " as administrator" : ""}`
    : `${result.failure.status} ${result.failure.error}`
}

const rows: ReadonlyArray<readonly [unknown, string]> = [
  [{ compute_id: "compute-1" }, "admitted"],
  [{ compute_id: "compute-1", exp: 1, anything: {} }, "admitted"],
  [{ compute_id: "compute-2" }, "403 invalid compute ID in authorization token claims"],
  [{}, "403 missing compute_id in authorization token claims"],
  [{ aud: ["compute"] }, "403 missing compute_id in authorization token claims"],
  [{ scope: "compute_ctl:admin" }, "401 missing audience in authorization token claims"],
  [{ scope: "compute_ctl:admin", compute_id: "compute-1" }, "401 missing audience in authorization token claims"],
  [{ scope: "compute_ctl:admin", aud: ["pageserver"] }, "401 invalid audience in authorization token claims"],
  [{ scope: "compute_ctl:admin", aud: ["pageserver", "compute"] }, "admitted as administrator"],
  [{ scope: "compute_ctl:admin", aud: "compute" }, "admitted as administrator"],
  [{ scope: "compute_ctl:admin", aud: "pageserver" }, "401 invalid audience in authorization token claims"],
  [{ scope: "compute_ctl:admin", aud: 7 }, "401 failed to verify authorization token"],
  [{ scope: "tenant", compute_id: "compute-1" }, "401 failed to verify authorization token"],
  [{ compute_id: 7 }, "401 failed to verify authorization token"],
  ["claims", "401 failed to verify authorization token"],
  [null, "401 failed to verify authorization token"]
]

describe("authorize", () => {
  for (const [claims, expected] of rows) {
    it(`${JSON.stringify(claims)}: ${expected}`, () => assert.strictEqual(verdict(claims), expected))
  }
})
