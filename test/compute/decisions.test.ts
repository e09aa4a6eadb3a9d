/**
 * Small decisions about a compute: how long it stays up after its end, how Postgres is stopped, and the diagram.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import { execFileSync } from "node:child_process"
import * as path from "node:path"
import { displayStatus, isTerminating, statuses, table, toMermaid } from "../../src/compute/transitions.ts"
import { exitDelay, longExitDelay, shortExitDelay } from "../../src/lifecycle/shutdown.ts"
import { shutdownStages } from "../../src/platform/shutdownStages.ts"

describe("the exit delay", () => {
  it("is long for those who may still ask how it went", () => {
    assert.strictEqual(exitDelay("termination_pending_fast", true, true), longExitDelay)
    assert.strictEqual(exitDelay("termination_pending_fast", false, true), longExitDelay)
    for (const hadSpec of [true, false]) assert.strictEqual(exitDelay("failed", false, hadSpec), longExitDelay)
  })

  it("is short for everyone else", () => {
    assert.strictEqual(exitDelay("termination_pending_immediate", true, true), shortExitDelay)
    assert.strictEqual(exitDelay("termination_pending_immediate", false, true), shortExitDelay)
    assert.strictEqual(exitDelay("failed", true, true), shortExitDelay)
    assert.strictEqual(exitDelay("running", true, true), shortExitDelay)
    assert.strictEqual(exitDelay("termination_pending_fast", false, false), shortExitDelay, "it never had a spec")
  })

  it("always ends, within half a minute", () => {
    for (const status of statuses) {
      for (const everRan of [true, false]) {
        const millis = Duration.toMillis(exitDelay(status, everRan, everRan))
        assert.isTrue(millis >= 100 && millis <= 30_000, status)
      }
    }
  })
})

describe("the shutdown stages", () => {
  it("never send SIGTERM, by which Postgres waits for every client", () => {
    assert.deepStrictEqual(
      shutdownStages.map(({ signal }) => signal),
      ["SIGINT", "SIGQUIT", "SIGKILL"]
    )
  })

  it("each have a deadline", () => {
    for (const { grace } of shutdownStages) {
      assert.isTrue(Duration.isFinite(grace))
      assert.isAbove(Duration.toMillis(grace), 0)
    }
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
