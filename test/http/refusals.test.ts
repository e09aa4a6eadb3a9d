/**
 * The words of answers without a server: status names of both API versions, times, refusals, probes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as DateTime from "effect/DateTime"
import * as Schema from "effect/Schema"
import { statuses } from "../../src/compute/transitions.ts"
import {
  Abandoned,
  ApplyFailed,
  NotSupported,
  PostmasterDied,
  SpecInvalid,
  TimedOut,
  WireFailed
} from "../../src/errors/Failure.ts"
import { errorPolicies } from "../../src/errors/policy.ts"
import { configureRefusal, refusalOf, wireStatus, wrongStatus } from "../../src/http/refusals.ts"
import { isReady, isStarted, lastActiveText, startTimeText } from "../../src/http/views.ts"

const at = (text: string) => DateTime.makeUnsafe(text)

describe("words", () => {
  it("the 2024 API knows one pending termination, the later one keeps every name", () => {
    for (const status of statuses) {
      assert.strictEqual(wireStatus("head", status), status)
      assert.strictEqual(
        wireStatus("2024", status),
        status.startsWith("termination_pending") ? "termination_pending" : status
      )
    }
  })

  it("times are RFC 3339 with three or no fractional digits, and their own zone spelling", () => {
    assert.strictEqual(startTimeText(at("2022-10-12T07:20:50.520Z")), "2022-10-12T07:20:50.520Z")
    assert.strictEqual(startTimeText(at("2022-10-12T07:20:50.000Z")), "2022-10-12T07:20:50Z")
    assert.strictEqual(lastActiveText(at("2022-10-12T07:20:50.520Z")), "2022-10-12T07:20:50.520+00:00")
    assert.strictEqual(lastActiveText(at("2022-10-12T07:20:50.000Z")), "2022-10-12T07:20:50+00:00")
    assert.isNull(lastActiveText(null))
  })

  it.prop("a printed time reads back as itself", { millis: Schema.Int }, ({ millis }) => {
    const moment = DateTime.makeUnsafe(Math.abs(millis) % 4_000_000_000_000)
    assert.strictEqual(DateTime.makeUnsafe(startTimeText(moment)).epochMilliseconds, moment.epochMilliseconds)
    assert.strictEqual(DateTime.makeUnsafe(lastActiveText(moment) ?? "").epochMilliseconds, moment.epochMilliseconds)
  })

  it("a wrong status has the text of each API version", () => {
    assert.strictEqual(
      wrongStatus("head", "configuration", "termination_pending_fast").error,
      "invalid compute status: termination-pending-fast"
    )
    assert.strictEqual(
      wrongStatus("2024", "configuration", "termination_pending_fast").error,
      "invalid compute status for configuration request: TerminationPending"
    )
    assert.strictEqual(wrongStatus("2024", "insights", "init").error, "compute is not running, current status: Init")
    assert.strictEqual(wrongStatus("2024", "extensions", "configuration_pending").status, 412)
  })
})

describe("failures", () => {
  it("the caller's faults are 4xx, a deadline 504, an ending compute 503, the rest 500", () => {
    assert.strictEqual(refusalOf(new SpecInvalid({ source: "body", problems: [] })).status, 400)
    assert.strictEqual(refusalOf(new NotSupported({ what: "x", because: "y" })).status, 422)
    assert.strictEqual(refusalOf(new TimedOut({ what: "x", millis: 1 })).status, 504)
    assert.strictEqual(refusalOf(new Abandoned({ what: "x" })).status, 503)
    assert.strictEqual(refusalOf(new ApplyFailed({ failures: [] })).status, 500)
    assert.strictEqual(refusalOf(new WireFailed({ operation: "connect", peer: "p", detail: "d" })).status, 500)
  })

  it("no failure is ever answered as a success", () => {
    for (const { httpStatus } of Object.values(errorPolicies)) assert.isAtLeast(httpStatus, 400)
  })

  it("a failed configure has the whole chain of causes, its code and its hint", () => {
    const root = new PostmasterDied({
      exit: { _tag: "Signal", signal: "SIGKILL" },
      crashReport: "out of memory",
      log: []
    })
    const refusal = configureRefusal(new ApplyFailed({ failures: ['role "web"'], cause: root }))
    assert.strictEqual(refusal.status, 500)
    assert.strictEqual(refusal.code, "apply_failed")
    assert.include(refusal.error, 'compute configuration failed: "the spec could not be applied')
    assert.include(refusal.error, "out of memory")
    assert.notStrictEqual(refusal.hint, "")
  })

  it("an invalid spec names its places", () => {
    const refusal = refusalOf(
      new SpecInvalid({ source: "body", problems: [{ path: "cluster.roles[0].name", message: "missing" }] })
    )
    assert.deepStrictEqual([refusal.status, refusal.code], [400, "spec_invalid"])
    assert.deepStrictEqual(refusal.problems, [{ path: "cluster.roles[0].name", message: "missing" }])
  })
})

describe("probes", () => {
  it("a compute that has not started is neither started nor ready, however alive its Postgres", () => {
    for (const status of statuses.filter((name) => name !== "running")) {
      assert.isFalse(
        isStarted({ status, postgresAlive: true, everRan: false, notAccepting: null, notFollowing: null }),
        status
      )
      assert.isFalse(
        isReady({ status, postgresAlive: true, everRan: false, notAccepting: null, notFollowing: null }),
        status
      )
    }
  })

  it("a replica that does not follow is not ready", () => {
    const vitals = { status: "running", postgresAlive: true, everRan: true, notAccepting: null } as const
    assert.isTrue(isReady({ ...vitals, notFollowing: null }))
    assert.isFalse(isReady({ ...vitals, notFollowing: "it has no connection to its primary" }))
  })

  it("users stay after a failed reconfiguration, not when Postgres is dead, refuses sessions or ends", () => {
    assert.isTrue(
      isReady({ status: "failed", postgresAlive: true, everRan: true, notAccepting: null, notFollowing: null })
    )
    assert.isTrue(
      isReady({ status: "configuration", postgresAlive: true, everRan: true, notAccepting: null, notFollowing: null })
    )
    assert.isFalse(
      isReady({ status: "failed", postgresAlive: false, everRan: true, notAccepting: null, notFollowing: null })
    )
    assert.isFalse(
      isReady({
        status: "running",
        postgresAlive: true,
        everRan: true,
        notAccepting: "it is stopping",
        notFollowing: null
      })
    )
    assert.isFalse(
      isReady({
        status: "termination_pending_fast",
        postgresAlive: true,
        everRan: true,
        notAccepting: null,
        notFollowing: null
      })
    )
  })
})
