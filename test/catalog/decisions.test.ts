/**
 * The small decisions of an apply, by table.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as TestClock from "effect/testing/TestClock"
import { joinOperations } from "../../src/catalog/joinedMessage.ts"
import { migrations } from "../../src/catalog/planMigrations.ts"
import { transactional } from "../../src/catalog/operations.ts"
import { concurrencyOf, creatorsOf } from "../../src/catalog/concurrency.ts"
import { isTransient, retryTransient, scrub, type SqlError } from "../../src/catalog/sqlErrors.ts"
import { emptySpec } from "../support/specs.ts"
import { scramText } from "./scenario.ts"

const setting = (name: string, value: string) => ({ name, value, quoted: false })

describe("how many connections an apply uses", () => {
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

describe("operations joined in one message", () => {
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
  it("memberships and verifiers are gathered, and the text of the message is not shown", () => {
    const message = joinOperations([withVerifier, operation], joining) ?? assert.fail("not joined")
    const sql = Redacted.value(message.sql)
    assert.include(sql, 'GRANT "p""q" TO "a"')
    assert.strictEqual(sql.split("UPDATE pg_catalog.pg_authid").length, 2)
    assert.notInclude(JSON.stringify(message), "AAAA")
  })
  it("verifiers are written only by a superuser", () => {
    assert.isNull(joinOperations([withVerifier], { ...joining, superuser: false }))
    assert.isNotNull(joinOperations([operation], { ...joining, superuser: false }))
    assert.isNull(joinOperations([{ ...operation, joined: null }], joining))
  })
})

describe("errors of SQL", () => {
  const sqlError = (sqlState: string, message = "") => ({ sqlState, message, hint: null })
  it("deadlocks, locks and concurrent updates are transient, everything else is not", () => {
    for (const state of ["40P01", "55P03", "55006", "40001"]) assert.isTrue(isTransient(sqlError(state)))
    assert.isTrue(isTransient(sqlError("XX000", "tuple concurrently updated")))
    for (const one of [sqlError("XX000", "something else"), sqlError("42710"), sqlError("42501")])
      assert.isFalse(isTransient(one))
  })
  const attemptsOf = Effect.fnUntraced(function* (
    answers: ReadonlyArray<SqlError | null>,
    first: SqlError | null = null
  ) {
    const at: Array<number> = []
    const run = Effect.gen(function* () {
      at.push(yield* Clock.currentTimeMillis)
      return answers[at.length - 1] ?? null
    })
    const running = yield* Effect.forkChild(retryTransient(run, first))
    yield* TestClock.adjust("10 seconds")
    return { at, ...(yield* Fiber.join(running)) }
  })
  const deadlock = sqlError("40P01")
  it.effect("a transient one is tried six times in all, with pauses that double up to a second", () =>
    Effect.gen(function* () {
      const all = yield* attemptsOf(Array.from({ length: 9 }, () => deadlock))
      assert.deepStrictEqual(all, { at: [0, 80, 240, 560, 1200, 2200], attempts: 6, sqlError: deadlock })
    })
  )
  it.effect("an attempt that was made before counts", () =>
    Effect.gen(function* () {
      const { at, attempts } = yield* attemptsOf(
        Array.from({ length: 9 }, () => deadlock),
        deadlock
      )
      assert.deepStrictEqual([at.length, attempts], [5, 6])
    })
  )
  it.effect("the first success and the first lasting failure end it", () =>
    Effect.gen(function* () {
      const healed = yield* attemptsOf([deadlock, deadlock, null])
      assert.deepStrictEqual([healed.attempts, healed.sqlError], [3, null])
      const lasting = sqlError("42501")
      const failed = yield* attemptsOf([deadlock, lasting])
      assert.deepStrictEqual([failed.attempts, failed.sqlError], [2, lasting])
    })
  )
  it("verifiers are scrubbed from what Postgres says", () => {
    assert.notInclude(scrub(`syntax error at or near "${scramText("A")}"`), "AAAA")
    assert.notInclude(scrub(`bad md5${"ab".repeat(16)}`), "abab")
  })
})

describe("the list of migrations", () => {
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
