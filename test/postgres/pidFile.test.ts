/**
 * postmaster.pid as a reader may find it: whole, half written, not of Postgres at all.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { parsePidFile } from "../../src/postgres/pidFile.ts"

const file = (pid: number, status: string) =>
  `${pid}\n/data\n1795000000\n5432\n/tmp\n127.0.0.1\n  1234567     98304\n${status.padEnd(8)}\n`
const Status = Schema.Literals(["starting", "ready", "standby", "stopping"])

describe("parsePidFile", () => {
  it.prop(
    "reads the pid and the status",
    { pid: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 4_194_304 })), status: Status },
    ({ pid, status }) => {
      assert.deepStrictEqual(parsePidFile(file(pid, status)), { pid, status })
    }
  )

  it("takes no line for whole before its end is there", () => {
    const whole = file(4711, "ready")
    for (let length = 0; length < whole.length; length++) {
      const expected = length < "4711\n".length ? null : { pid: 4711, status: null }
      assert.deepStrictEqual(parsePidFile(whole.slice(0, length)), expected, whole.slice(0, length))
    }
    assert.deepStrictEqual(parsePidFile(whole), { pid: 4711, status: "ready" })
  })

  it.prop("finds nothing in other text", { text: Schema.String }, ({ text }) => {
    assert.isNull(parsePidFile(text.replaceAll(/\d/g, "x")))
    const status = text.replaceAll("\n", "").replace(/^\s*(starting|ready|standby|stopping)\s*$/, "x")
    assert.deepStrictEqual(parsePidFile(file(1, status)), { pid: 1, status: null })
  })
})
