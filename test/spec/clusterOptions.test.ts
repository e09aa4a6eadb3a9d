/**
 * Options of roles and databases: what each means, and what Postgres would not take, with its place in the spec.
 */
import { assert, describe, it } from "@effect/vitest"
import {
  type DatabaseOption,
  readDatabaseOption,
  readRoleOption,
  type Reading,
  type RoleOption
} from "../../src/spec/clusterOptions.ts"
import { type Json, least, problemLines } from "../support/fixtures.ts"

const text = (name: string, value: string | null = null) => ({ name, value, quoted: true })
const bare = (name: string, value: string | null = null) => ({ name, value, quoted: false })
const limit = (value: number) => ({ _tag: "ConnectionLimit" as const, limit: value })
const until = (value: string) => ({ _tag: "ValidUntil" as const, until: value })

const roles: ReadonlyArray<readonly [ReturnType<typeof text>, RoleOption]> = [
  [bare("LOGIN"), { _tag: "Flag", flag: "login", on: true }],
  [bare("nologin"), { _tag: "Flag", flag: "login", on: false }],
  [bare("login", "true"), { _tag: "Flag", flag: "login", on: true }],
  [bare("login", "false"), { _tag: "Flag", flag: "login", on: false }],
  [bare("NOBYPASSRLS", "true"), { _tag: "Flag", flag: "bypassRls", on: false }],
  [bare("CONNECTION LIMIT", "5"), limit(5)],
  [bare("connection  limit", "1_000"), limit(1000)],
  [bare("CONNECTION LIMIT", "0x3E8"), limit(1000)],
  [bare("CONNECTION LIMIT", "0b11"), limit(3)],
  [bare("CONNECTION LIMIT", "-1"), limit(-1)],
  [text("CONNECTION LIMIT", "7"), limit(7)],
  [text("VALID UNTIL", "infinity"), until("infinity")],
  [text("VALID UNTIL", "2030-02-28 23:59:60+02"), until("2030-02-28 23:59:60+02")],
  [text("VALID UNTIL", "Dec 31 2030"), until("Dec 31 2030")],
  [bare("VALID UNTIL", "'2030-01-01'"), until("2030-01-01")],
  [bare("SYSID", "7"), { _tag: "Ignored" }],
  [bare("IN ROLE", "Readers"), { _tag: "MemberOf", roles: ["readers"] }],
  [bare("IN GROUP", '"Readers", b'), { _tag: "MemberOf", roles: ["Readers", "b"] }],
  [bare("ROLE", '"a""b"'), { _tag: "Members", roles: ['a"b'], admin: false }],
  [bare("ADMIN", "boss"), { _tag: "Members", roles: ["boss"], admin: true }]
]

const creation = (option: Extract<DatabaseOption, { _tag: "Creation" }>["option"], value: string) =>
  ({ _tag: "Creation", option, value }) as const

const databases: ReadonlyArray<readonly [ReturnType<typeof text>, DatabaseOption]> = [
  [bare("CONNECTION LIMIT", "1_000"), limit(1000)],
  [bare("CONNECTION_LIMIT", "2"), limit(2)],
  [bare("ALLOW_CONNECTIONS", "off"), { _tag: "AllowConnections", on: false }],
  [bare("allow_connections", "1"), { _tag: "AllowConnections", on: true }],
  [bare("IS_TEMPLATE", "true"), { _tag: "IsTemplate", on: true }],
  [bare("TABLESPACE", "Fast"), { _tag: "Tablespace", name: "fast" }],
  [bare("TABLESPACE", '"Fast"'), { _tag: "Tablespace", name: "Fast" }],
  [bare("TABLESPACE", "DEFAULT"), { _tag: "Ignored" }],
  [text("ENCODING", "UTF8"), creation("ENCODING", "UTF8")],
  [bare("ENCODING", "'LATIN1'"), creation("ENCODING", "LATIN1")],
  [text("LC_COLLATE", "C"), creation("LC_COLLATE", "C")],
  [bare("TEMPLATE", "template0"), creation("TEMPLATE", "template0")]
]

const noRole: ReadonlyArray<ReturnType<typeof text>> = [
  bare("LOGIN", "maybe"),
  bare("CONNECTION LIMIT"),
  bare("CONNECTION LIMIT", "many"),
  bare("CONNECTION LIMIT", "-2"),
  bare("CONNECTION LIMIT", "2147483648"),
  bare("CONNECTION LIMIT", "1__0"),
  bare("CONNECTION LIMIT", "1.5"),
  text("VALID UNTIL", "not a time"),
  text("VALID UNTIL", "tomorrow"),
  text("VALID UNTIL", "now"),
  text("VALID UNTIL", "2030-02-30"),
  text("VALID UNTIL", "2030-13-01"),
  text("VALID UNTIL", "2030-01-01 25:00"),
  bare("VALID UNTIL", "2030-01-01"),
  bare("VALID UNTIL"),
  bare("IN ROLE", "a b"),
  bare("IN ROLE", "a,"),
  bare("IN ROLE", "public"),
  bare("IN ROLE"),
  text("IN ROLE", "a"),
  bare("SYSID", "x"),
  text("PASSWORD", "hunter2"),
  text("ENCRYPTED PASSWORD", "hunter2"),
  bare("CREATEUSER"),
  bare("LOGIN; DROP ROLE x"),
  bare("")
]

const noDatabase: ReadonlyArray<ReturnType<typeof text>> = [
  bare("OWNER", "somebody"),
  bare("ALLOW_CONNECTIONS"),
  bare("ALLOW_CONNECTIONS", "maybe"),
  bare("CONNECTION LIMIT", "''"),
  bare("TEMPLATE", "a b"),
  bare("TEMPLATE", "a; b"),
  bare("LC_COLLATE"),
  bare("FROBNICATE", "1"),
  text("ENCODING", "a\0b")
]

const meaning = <A>(reading: Reading<A>) => (reading.fault === null ? reading.option : reading.fault)

describe("an option", () => {
  for (const [option, expected] of roles)
    it(`of a role: ${option.name} ${option.value}`, () =>
      assert.deepStrictEqual<unknown>(meaning(readRoleOption(option)), expected))
  for (const [option, expected] of databases)
    it(`of a database: ${option.name} ${option.value}`, () =>
      assert.deepStrictEqual<unknown>(meaning(readDatabaseOption(option)), expected))
  for (const option of noRole)
    it(`that is none of a role: ${option.name} ${option.value}`, () => {
      const { fault } = readRoleOption(option)
      assert.include(fault ?? "", "expected")
      assert.notInclude(fault, "hunter2")
    })
  for (const option of noDatabase)
    it(`that is none of a database: ${option.name} ${option.value}`, () =>
      assert.include(readDatabaseOption(option).fault ?? "", "expected"))
})

describe("options of a spec", () => {
  const wire = (name: string, value: string | null, vartype = "integer") => ({ name, value, vartype })
  const spec = (ofRole: ReadonlyArray<Json>, ofDatabase: ReadonlyArray<Json>): Json => ({
    ...least,
    cluster: {
      roles: [{ name: "fine" }, { name: "r", options: ofRole }],
      databases: [{ name: "d", owner: "r", options: ofDatabase }]
    }
  })

  it("are refused with their place, all at once", () => {
    assert.deepStrictEqual(
      problemLines(
        spec(
          [wire("CONNECTION LIMIT", "many"), wire("VALID UNTIL", "not a time", "string"), wire("WHATEVER", null)],
          [wire("OWNER", "x"), wire("IS_TEMPLATE", "perhaps")]
        ),
        "local"
      ),
      [
        "cluster.roles[1].options[0].value: expected for CONNECTION LIMIT a whole number from -1 (no limit) " +
          "to 2147483647",
        'cluster.roles[1].options[1].value: expected for VALID UNTIL a point in time with the vartype "string", ' +
          "such as 2030-12-31 or infinity",
        'cluster.roles[1].options[2].name: expected an option of CREATE ROLE, and "WHATEVER" is none',
        "cluster.databases[0].options[0].value: expected the owner in the field owner, not among the options",
        "cluster.databases[0].options[1].value: expected for IS_TEMPLATE true or false"
      ]
    )
  })

  it("are said once", () => {
    assert.deepStrictEqual(
      problemLines(spec([wire("LOGIN", null), wire("NOLOGIN", null)], [wire("OID", "1"), wire("OID", "2")]), "local"),
      [
        "cluster.roles[1].options[1].name: expected LOGIN to be said once",
        "cluster.databases[0].options[1].name: expected OID to be said once"
      ]
    )
  })

  it("may be about different things", () => {
    assert.deepStrictEqual(
      problemLines(
        spec(
          [wire("LOGIN", null), wire("CONNECTION LIMIT", "1"), wire("ROLE", "a"), wire("ADMIN", "b")],
          [wire("ENCODING", "UTF8", "string"), wire("TEMPLATE", "template0", "enum")]
        ),
        "local"
      ),
      []
    )
  })
})
