/**
 * The rows of pg_file_settings: mistakes, settings that wait for a restart, and nothing that is neither.
 */
import { assert, describe, it } from "@effect/vitest"
import { readFileSettings, printPending, type Row } from "../../src/postgres/configurationCheck.ts"

const conf = "/somewhere/pgdata/postgresql.conf"
const unapplied = "setting could not be applied"
const line = (name: string | null, number: number, setting: string, error: string | null = null): Row => [
  name,
  conf,
  String(number),
  error,
  setting
]
const removed = (name: string): Row => [
  null,
  null,
  null,
  `parameter "${name}" cannot be changed without restarting the server`,
  null
]

describe("pg_file_settings", () => {
  it("a name is the same in any case, as it is to Postgres", () => {
    const refused = line("Max_Connections", 1, "200", "setting could not be applied")
    const { pending, problems } = readFileSettings([refused], [["max_connections", "100", "f"]])
    assert.deepStrictEqual(problems, [])
    assert.deepStrictEqual(pending, [{ name: "max_connections", current: "100", wanted: "200" }])
    const style = line("datestyle", 1, "ISO", "setting could not be applied")
    assert.deepStrictEqual(readFileSettings([style], [["DateStyle", "SQL", "f"]]).problems, [])
  })

  it("without errors means no problems and nothing pending", () => {
    assert.deepStrictEqual(readFileSettings([line("work_mem", 1, "4MB"), line("port", 2, "1")], []), {
      problems: [],
      pending: []
    })
  })

  it("names the line of each mistake, and does not repeat its value", () => {
    const { problems } = readFileSettings(
      [line("work_mem", 3, "s3cret", unapplied), line(null, 9, "", "syntax error")],
      []
    )
    assert.deepStrictEqual(problems, [
      { path: "postgresql.conf line 3", message: "work_mem: setting could not be applied" },
      { path: "postgresql.conf line 9", message: "syntax error" }
    ])
  })

  it("tells a pending restart from a mistake, with the last value of several", () => {
    const { pending, problems } = readFileSettings(
      [
        line("max_connections", 1, "50"),
        line("max_connections", 8, "40", unapplied),
        line("work_mem", 9, "x", unapplied)
      ],
      [["max_connections", "30", "f"]]
    )
    assert.deepStrictEqual(pending, [{ name: "max_connections", current: "30", wanted: "40" }])
    assert.lengthOf(problems, 1)
    assert.strictEqual(
      printPending(pending),
      "1 setting(s) wait for a restart of Postgres: max_connections (30 now, 40 then)"
    )
  })

  it("a line that is gone waits for the built-in value, unless that is in force", () => {
    const files = [removed("max_connections"), removed("hot_standby")]
    assert.deepStrictEqual(
      readFileSettings(files, [
        ["max_connections", "30", "f"],
        ["hot_standby", "on", "t"]
      ]),
      {
        problems: [],
        pending: [{ name: "max_connections", current: "30", wanted: "its default" }]
      }
    )
  })

  it("what Postgres goes on calling pending without an error waits for nothing", () => {
    assert.deepStrictEqual(
      readFileSettings([line("work_mem", 1, "4MB")], [["shared_buffers", "128MB", "f"]]).pending,
      []
    )
  })

  it("values that may be secrets, and endless ones, are not shown", () => {
    const { pending } = readFileSettings(
      [line("acme.api_token", 1, "s3cret", unapplied), line("shared_preload_libraries", 2, "x".repeat(999), unapplied)],
      [
        ["acme.api_token", "0ld", "f"],
        ["shared_preload_libraries", "", "t"]
      ]
    )
    assert.deepStrictEqual(pending[0], { name: "acme.api_token", current: "(not shown)", wanted: "(not shown)" })
    assert.isBelow(pending[1]?.wanted.length ?? 999, 250)
  })
})
