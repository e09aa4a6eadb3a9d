/**
 * Postgres's records read: a total function over any text.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { levelOfSeverity, lineJoint, parseRecord } from "../../src/postgres/logRecords.ts"

describe("a record of Postgres", () => {
  const table: ReadonlyArray<readonly [record: string, read: Partial<ReturnType<typeof parseRecord>>]> = [
    [
      "2026-01-31 12:00:00.123 GMT [4242] LOG:  database system is ready",
      { severity: "LOG", pid: 4242, user: null, database: null }
    ],
    [
      '2026-01-31 12:00:00.123 CET [42] web@shop ERROR:  relation "x" does not exist',
      { severity: "ERROR", pid: 42, user: "web", database: "shop" }
    ],
    [
      "2026-01-31 12:00:00 UTC [42-1] user=web,db=shop,app=psql FATAL:  no",
      { severity: "FATAL", pid: 42, user: "web", database: "shop" }
    ],
    ["2026-01-31 12:00:00.1 Europe/Berlin pid=77 PANIC:  no", { severity: "PANIC", pid: 77 }],
    ["FATAL:  no prefix", { severity: "FATAL", pid: null, user: null, database: null }],
    [
      "2026-01-31 12:00:00.123 GMT [1] LOG:  he said [2] a@b ERROR:  not really",
      { severity: "LOG", pid: 1, user: null, database: null }
    ],
    ["anything at all", { severity: null, pid: null }],
    ["", { severity: null }]
  ]
  it.each(table)("%s", (record, read) => assert.deepInclude(parseRecord(record), { ...read, message: record }))

  it("has its lines back", () => {
    assert.strictEqual(
      parseRecord(`2026-01-31 12:00:00 UTC [1] ERROR:  a${lineJoint}\tb${lineJoint}c`).message,
      "2026-01-31 12:00:00 UTC [1] ERROR:  a\n\tb\nc"
    )
  })

  it.prop("is kept whole, whatever it is", { text: Schema.String, pid: Schema.Int }, ({ pid, text }) => {
    for (const record of [text, `2026-01-31 12:00:00 UTC [${pid}] ${text}`, `${text} ERROR:  ${text}`]) {
      const read = parseRecord(record)
      assert.strictEqual(read.message, record.replaceAll(lineJoint, "\n"))
      assert.include(["DEBUG", "INFO", "WARN", "ERROR", "FATAL"], levelOfSeverity(read.severity))
    }
  })

  it("of a megabyte is read at once", () => {
    // A pattern that backtracks would need hours for it, and this test has seconds.
    for (const filling of ["x", "a@", "[1", "ERROR: ", " pid=1"]) {
      const record = filling.repeat(1_000_000 / filling.length)
      assert.strictEqual(parseRecord(record).message, record, filling)
    }
  })
})
