/**
 * Small decisions about the life: lingering, stopping, restarting, and the diagram of it all.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import { execFileSync } from "node:child_process"
import * as path from "node:path"
import { decide, intensity } from "../../src/compute/Supervisor.ts"
import { displayStatus, isTerminating, statuses, table, toMermaid } from "../../src/compute/transitions.ts"
import { exitDelay, long, short } from "../../src/lifecycle/Lifecycle.ts"
import { shutdownStages } from "../../src/platform/shutdownStages.ts"

describe("linger", () => {
  it("is long for those who may still ask how it went", () => {
    assert.strictEqual(exitDelay("termination_pending_fast", true), long)
    assert.strictEqual(exitDelay("termination_pending_fast", false), long)
    assert.strictEqual(exitDelay("failed", false), long)
  })

  it("is short for everyone else", () => {
    assert.strictEqual(exitDelay("termination_pending_immediate", true), short)
    assert.strictEqual(exitDelay("termination_pending_immediate", false), short)
    assert.strictEqual(exitDelay("failed", true), short)
    assert.strictEqual(exitDelay("running", true), short)
  })

  it("always ends, within half a minute", () => {
    for (const status of statuses) {
      for (const everRan of [true, false]) {
        const millis = Duration.toMillis(exitDelay(status, everRan))
        assert.isTrue(millis >= 100 && millis <= 30_000, status)
      }
    }
  })
})

describe("the stop ladder", () => {
  it("never says TERM, which Postgres takes as: wait for every client", () => {
    assert.deepStrictEqual(
      shutdownStages.map(({ signal }) => signal),
      ["SIGINT", "SIGQUIT", "SIGKILL"]
    )
  })

  it("has a deadline on every rung", () => {
    for (const { grace } of shutdownStages) {
      assert.isTrue(Duration.isFinite(grace))
      assert.isAbove(Duration.toMillis(grace), 0)
    }
  })
})

describe("decide", () => {
  const Moments = Schema.Array(Schema.Int.pipe(Schema.check(Schema.isBetween({ minimum: 0, maximum: 600_000 }))))

  it("knows the three policies", () => {
    assert.strictEqual(decide("permanent", false, [], 0), "restart")
    assert.strictEqual(decide("permanent", true, [], 0), "restart")
    assert.strictEqual(decide("transient", true, [], 0), "restart")
    assert.strictEqual(decide("transient", false, [], 0), "done")
    assert.strictEqual(decide("temporary", true, [], 0), "done")
    assert.strictEqual(decide("temporary", false, [], 0), "done")
  })

  it.prop("never allows more restarts in a window than the intensity", { deaths: Moments }, ({ deaths }) => {
    const restartedAt: Array<number> = []
    for (const now of [...deaths].sort((a, b) => a - b)) {
      if (decide("permanent", true, restartedAt, now) !== "restart") break
      restartedAt.push(now)
    }
    for (const from of restartedAt) {
      const inWindow = restartedAt.filter((at) => at >= from && at - from <= intensity.withinMillis)
      assert.isAtMost(inWindow.length, intensity.restarts)
    }
  })

  it("gives up at the limit, and forgets what is long ago", () => {
    const now = 1_000_000
    const full = Array.from({ length: intensity.restarts }, (_, index) => now - index)
    assert.strictEqual(decide("permanent", true, full, now), "give-up")
    assert.strictEqual(decide("permanent", true, full, now + intensity.withinMillis - intensity.restarts), "give-up")
    assert.strictEqual(decide("permanent", true, full, now + intensity.withinMillis + 1), "restart")
  })
})

describe("Status", () => {
  it("is spelled with dashes for people", () => {
    assert.strictEqual(displayStatus("refresh_configuration_pending"), "refresh-configuration-pending")
    assert.deepStrictEqual(statuses.filter(isTerminating), [
      "termination_pending_fast",
      "termination_pending_immediate",
      "terminated"
    ])
  })
})

describe("the diagram", () => {
  it("has one edge per row, one way in and one way out per final status", () => {
    const lines = toMermaid().split("\n")
    assert.strictEqual(lines[0], "stateDiagram-v2")
    assert.lengthOf(lines, table.length + 4)
    assert.include(lines, "  Init --> Running : Postgres accepts connections and the spec is applied")
    for (const line of lines.slice(1)) assert.match(line, /^  (\[\*\]|[A-Za-z]+) --> (\[\*\]|[A-Za-z]+) : [^\n]+$/)
  })

  it("stands in the README as it is", () => {
    const root = path.resolve(import.meta.dirname, "../..")
    execFileSync(process.execPath, [path.join(root, ".ci/diagram.ts"), "--check"], { cwd: root, stdio: "pipe" })
  })
})
