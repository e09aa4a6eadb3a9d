/**
 * postmaster.pid as a reader may find it: whole, half written, of somebody else, not of Postgres at all.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { parsePidFile } from "../../src/postgres/Postmaster.ts"

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

  it("takes no beginning of a file for the file", () => {
    const whole = file(4711, "ready")
    for (let length = 0; length < whole.length; length++)
      assert.isNull(parsePidFile(whole.slice(0, length)), whole.slice(0, length))
    assert.isNotNull(parsePidFile(whole))
  })

  it.prop("never throws and never invents", { text: Schema.String }, ({ text }) => {
    assert.isNull(parsePidFile(text))
    assert.isNull(parsePidFile(file(1, text.replace(/^(starting|ready|standby|stopping)$/, "x"))))
  })
})
