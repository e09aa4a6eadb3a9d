/**
 * The states of the local file cache between two computes, and where its map is kept.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type { PrewarmState } from "../../src/compute/prewarm.ts"
import { beginOffload, beginPrewarm, isWorthSaving } from "../../src/lfc/Lfc.ts"
import { mapLocation } from "../../src/lfc/mapStore.ts"
import { emptySpec } from "../support/specs.ts"

const completed = {
  status: "completed",
  total: 1,
  prewarmed: 1,
  skipped: 0,
  state_download_time_ms: 1,
  uncompress_time_ms: 1,
  prewarm_time_ms: 1
} as const
const ends: ReadonlyArray<readonly [PrewarmState, boolean]> = [
  [{ status: "not_prewarmed" }, true],
  [{ status: "skipped" }, true],
  [completed, true],
  [{ status: "cancelled" }, false],
  [{ status: "failed", error: "x" }, false]
]

describe("a prewarm", () => {
  it.each(ends)("may begin after %o", (state, worth) => {
    assert.deepStrictEqual(Result.getOrThrow(beginPrewarm(state)), { status: "prewarming" })
    assert.strictEqual(isWorthSaving(state), worth)
  })

  it("may not begin twice, nor may an offload", () => {
    assert.isTrue(Result.isFailure(beginPrewarm({ status: "prewarming" })))
    assert.isFalse(isWorthSaving({ status: "prewarming" }))
    const twice = beginOffload({ status: "offloading" })
    assert.strictEqual(
      Result.isFailure(twice) ? twice.failure.message : "",
      "Multiple requests for prewarm offload are not allowed"
    )
    assert.isTrue(Result.isSuccess(beginOffload({ status: "failed", error: "x" })))
  })
})

describe("the map's location", () => {
  const spec = { ...emptySpec, endpointId: "ep", endpointStorage: { address: "store:9993", token: Redacted.make("t") } }

  it("is the endpoint's, or the one that was named, which cannot lead elsewhere", () => {
    const base = `http://store:9993/${spec.tenant}/${spec.timeline}`
    assert.strictEqual(Result.getOrThrow(mapLocation(spec, null)).url, `${base}/ep/lfc_state`)
    assert.strictEqual(Result.getOrThrow(mapLocation(spec, "../../x?y#z")).url, `${base}/..%2F..%2Fx%3Fy%23z/lfc_state`)
  })

  it("names the part of the spec that is missing", () => {
    const lack = (changed: Partial<typeof emptySpec> | null) => {
      const location = mapLocation(changed === null ? null : { ...spec, ...changed }, null)
      return Result.isFailure(location) ? location.failure : ""
    }
    assert.strictEqual(lack(null), "there is no spec yet")
    assert.match(lack({ endpointStorage: { address: null, token: null } }), /endpoint_storage_addr missing/)
    assert.match(lack({ endpointStorage: { address: "a", token: null } }), /endpoint_storage_token missing/)
    assert.match(lack({ endpointId: null }), /endpoint_id missing/)
    assert.match(lack({ endpointStorage: { address: "a b", token: Redacted.make("t") } }), /not an address/)
  })
})
