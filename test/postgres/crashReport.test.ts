/**
 * The crash report: a sentence for every way to leave, and what the log suggests.
 */
import { assert, describe, it } from "@effect/vitest"
import * as os from "node:os"
import { crashReport } from "../../src/postgres/crashReport.ts"

describe("the crash report", () => {
  it("has a sentence for every code and every signal", () => {
    for (let code = 0; code < 256; code++)
      assert.match(crashReport({ _tag: "Code", code }), /^(it|its|the|a) .{10,}/, String(code))
    for (const signal of Object.keys(os.constants.signals)) {
      assert.match(crashReport({ _tag: "Signal", signal }), /^(it|somebody|memory) .{10,}/, signal)
    }
  })

  it("suspects the kernel of a SIGKILL, also when a shell passed it on as a code", () => {
    for (const exit of [
      { _tag: "Signal", signal: "SIGKILL" },
      { _tag: "Code", code: 137 }
    ] as const) {
      assert.match(crashReport(exit), /memory ran out/)
    }
  })

  it("adds what the newest record with a known cause suggests", () => {
    const log = [
      "FATAL:  could not write: No space left on device",
      "FATAL:  could not bind IPv4 address",
      "LOG:  database system is shut down"
    ]
    assert.match(crashReport({ _tag: "Code", code: 1 }, log), /; its port is taken$/)
    assert.notInclude(crashReport({ _tag: "Code", code: 1 }, ["LOG:  hello"]), ";")
  })
})
