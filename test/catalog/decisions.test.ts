/**
 * The small decisions of an apply, by table.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import { decideRename } from "../../src/catalog/draft.ts"
import { joinOperations } from "../../src/catalog/joinedMessage.ts"
import { migrations } from "../../src/catalog/migrations.ts"
import { transactional } from "../../src/catalog/operations.ts"
import { isPassing, mostAttempts, pauseBefore, scrub } from "../../src/catalog/outcome.ts"
import { concurrencyOf, creatorsOf } from "../../src/catalog/planApply.ts"
import { isVerifier } from "../../src/catalog/roleAttributes.ts"
import { emptySpec } from "../support/specs.ts"
import { scramText } from "./scenario.ts"

const setting = (name: string, value: string) => ({ name, value, quoted: false })

describe("plan/concurrency", () => {
  it("follows max_connections while starting, and is never nothing", () => {
    const of = (maxConnections: string) =>
      concurrencyOf({ ...emptySpec, settings: [setting("max_connections", maxConnections)] }, "start")
    assert.deepStrictEqual(
      ["0", "1", "9", "10", "29", "30", "45", "100", "5000", "many"].map(of),
      [1, 1, 9, 10, 10, 10, 15, 16, 16, 10]
    )
  })
  it("reads postgresql.conf as Postgres does", () => {
    const of = (postgresqlConf: string) => concurrencyOf({ ...emptySpec, postgresqlConf }, "start")
    assert.strictEqual(
      of("#max_connections = 3\nmax_connections=4 # max_connections = 5\nsuperuser_max_connections = 9"),
      4
    )
    assert.strictEqual(of("max_connections = 3\nmax_connections = 7"), 7)
  })
  it("stays within the reserved connections on a live system", () => {
    const of = (wanted: number, reserved: string | null) =>
      concurrencyOf(
        {
          ...emptySpec,
          reconfigureConcurrency: wanted,
          settings: reserved === null ? null : [setting("superuser_reserved_connections", reserved)]
        },
        "reconfigure"
      )
    assert.deepStrictEqual(
      [of(0, null), of(1, null), of(50, null), of(50, "10"), of(5, "0"), of(50, "1")],
      [1, 1, 2, 9, 1, 1]
    )
    assert.deepStrictEqual([1, 3, 16].map(creatorsOf), [1, 3, 4])
  })
})

describe("plan/renames", () => {
  const judge = (there: string, wanted: string, renames: string) =>
    renames.split(" ").map((_, index, all) =>
      decideRename(
        all.map((one) => ({ name: one[0] ?? "", to: one[1] ?? "" })),
        index,
        (name) => there.includes(name),
        (name) => wanted.includes(name)
      )
    )
  it("is done once", () => {
    assert.deepStrictEqual(judge("a", "b", "ab"), ["todo"])
    assert.deepStrictEqual(judge("b", "b", "ab"), ["absent"])
    assert.notStrictEqual(judge("ab", "ab", "ab")[0], "todo")
    assert.deepStrictEqual(judge("a", "a", "aa"), ["absent"])
  })
  it("an exchange over a third name does not swing back and forth", () => {
    assert.isTrue(judge("ab", "ab", "at ba tb").every((one) => one !== "todo"))
  })
  it("a wanted name is given up only for another wanted one", () => {
    assert.notStrictEqual(judge("a", "a", "ab")[0], "todo")
    assert.deepStrictEqual(judge("a", "ab", "ab"), ["todo"])
  })
})

describe("plan/joining", () => {
  const operation = transactional({
    phase: "CreateAndAlterRoles",
    object: 'role "a"',
    action: "create",
    because: "test",
    sql: ['CREATE ROLE "a"']
  })
  const verifier = Redacted.make(scramText("A"))
  const withVerifier = {
    ...operation,
    joined: { statements: ['CREATE ROLE "a"'], member: "a", verifier: { role: "a", verifier } }
  }
  const joining = { superuser: true, privilegedRole: 'p"q' }
  it("gathers memberships and verifiers, and keeps what it holds to itself", () => {
    const message = joinOperations([withVerifier, operation], joining) ?? assert.fail("not joined")
    const sql = Redacted.value(message.sql)
    assert.include(sql, 'GRANT "p""q" TO "a"')
    assert.strictEqual(sql.split("UPDATE pg_catalog.pg_authid").length, 2)
    assert.isTrue(message.secret)
    assert.notInclude(JSON.stringify(message), "AAAA")
  })
  it("writes no verifier unless we are a superuser", () => {
    assert.isNull(joinOperations([withVerifier], { ...joining, superuser: false }))
    assert.isNotNull(joinOperations([operation], { ...joining, superuser: false }))
    assert.isNull(joinOperations([{ ...operation, joined: null }], joining))
  })
})

describe("plan/outcome", () => {
  const sqlError = (sqlState: string, message = "") => ({ sqlState, message, hint: null })
  it("knows what passes by itself", () => {
    for (const state of ["40P01", "55P03", "55006", "40001"]) assert.isTrue(isPassing(sqlError(state)))
    assert.isTrue(isPassing(sqlError("XX000", "tuple concurrently updated")))
    for (const one of [sqlError("XX000", "something else"), sqlError("42710"), sqlError("42501")])
      assert.isFalse(isPassing(one))
  })
  it("waits longer each time, within a bound", () => {
    const pauses = Array.from({ length: mostAttempts - 1 }, (_, index) => pauseBefore(index + 2))
    assert.deepStrictEqual(
      pauses,
      pauses.toSorted((a, b) => a - b)
    )
    assert.isAtMost(
      pauses.reduce((sum, one) => sum + one, 0),
      5000
    )
  })
  it("scrubs verifiers from what Postgres says", () => {
    assert.notInclude(scrub(`syntax error at or near "${scramText("A")}"`), "AAAA")
    assert.notInclude(scrub(`bad md5${"ab".repeat(16)}`), "abab")
  })
})

describe("plan/passwords", () => {
  it("knows a verifier", () => {
    const of = (text: string) => isVerifier(Redacted.make(text))
    assert.isTrue(of(scramText("A")) && of(`md5${"0".repeat(32)}`))
    for (const text of ["secret", "md5secret", "SCRAM-SHA-256$x", `${scramText("A")}'`, ""])
      assert.isFalse(of(text), text)
  })
})

describe("plan/migrations", () => {
  it("has twelve, five of them skipped, none of which an older Postgres cannot do", () => {
    assert.deepStrictEqual(
      migrations("p", 17).map(({ id }) => id),
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    )
    assert.deepStrictEqual(
      migrations("p", 17)
        .filter(({ sql }) => sql === null)
        .map(({ id }) => id),
      [5, 6, 7, 8, 9]
    )
    assert.deepStrictEqual(
      migrations("p", 15)
        .filter(({ sql }) => sql === "")
        .map(({ id }) => id),
      [3, 10]
    )
    assert.isTrue(migrations('it\'s "q"', 17).every(({ sql }) => sql === null || !sql.includes('it\'s "q"')))
  })
})
