/**
 * The wire client against a real Postgres: pipelines, COPY OUT, cancel, notices, big results, and the end of sessions.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { type Answer, connect, type Wire } from "../../src/pgwire/Wire.ts"
import { startPostgres, type TestPostgres } from "../support/postgres.ts"

class Server extends Context.Service<Server, TestPostgres>()("test/Server") {
  static readonly layer = Layer.effect(Server, startPostgres())
}

const session = <A, E, R>(use: (wire: Wire) => Effect.Effect<A, E, R>) =>
  Effect.scoped(
    Effect.flatMap(
      Effect.flatMap(Server, (postgres) => postgres.connect()),
      use
    )
  )

const copied = (wire: Wire, command: string) =>
  Effect.map(Stream.runCollect(wire.copyOut(command)), (chunks) => Buffer.concat(chunks).toString())

/** Rows of each statement, or the SQLSTATE of the message. */
const brief = (answers: ReadonlyArray<Answer>) =>
  answers.map((answer) => (Result.isFailure(answer) ? answer.failure.sqlState : answer.success.map(({ rows }) => rows)))

/** Asks Postgres, on a connection of its own, until the answer is this one. */
const becomes = (sql: string, expected: string) =>
  Effect.flatMap(Server, (postgres) =>
    Effect.repeat(postgres.rows(sql), { until: (rows) => rows[0]?.[0] === expected })
  )

const administrator = /terminating connection due to administrator command \(SQLSTATE 57P01\)$/

const activity = ({ backendPid }: Wire, condition = "true") =>
  `select count(*) from pg_stat_activity where pid = ${backendPid} and ${condition}`

layer(Server.layer, { excludeTestServices: true })("a session", (it) => {
  describe("a pipeline", () => {
    it.effect("is answered in order; every message is a transaction of its own and fails alone", () =>
      session((wire) =>
        Effect.gen(function* () {
          const answers = yield* wire.pipeline([
            "create temporary table t (n int)",
            "insert into t values (1); insert into t values (2)",
            "insert into t values (3); select 1/0; insert into t values (4)",
            "no sql",
            "",
            "select n from t order by n; select count(*) from t"
          ])
          assert.deepStrictEqual(brief(answers), [[[]], [[], []], "22012", "42601", [], [[["1"], ["2"]], [["2"]]]])
        })
      )
    )

    it.effect("of none is answered without asking", () =>
      session((wire) => Effect.map(wire.pipeline([]), (answers) => assert.deepStrictEqual(answers, [])))
    )

    it.effect("of transaction blocks is what they say", () =>
      session((wire) =>
        Effect.gen(function* () {
          yield* wire.simple("create temporary table t (n int)")
          const answers = yield* wire.pipeline([
            "begin",
            "insert into t values (1)",
            "select 1/0",
            "select 1",
            "rollback",
            "select count(*) from t"
          ])
          assert.deepStrictEqual(brief(answers), [[[]], [[]], "22012", "25P02", [[]], [[["0"]]]])
        })
      )
    )

    it.effect("of many with large answers does not stall", () =>
      session((wire) =>
        Effect.gen(function* () {
          const padding = `/* ${"x".repeat(10_000)} */`
          const sqls = Array.from({ length: 500 }, (_, n) => `${padding} select ${n}, repeat('y', 20000)`)
          const answers = yield* wire.pipeline(sqls)
          assert.deepStrictEqual(
            answers.map((answer) => Result.getOrThrow(answer)[0]?.rows[0]?.[0]),
            sqls.map((_, n) => String(n))
          )
        })
      )
    )
  })

  describe("calls at the same time", () => {
    it.effect("wait for each other, copies too", () =>
      session((wire) =>
        Effect.gen(function* () {
          const answers = yield* Effect.all(
            [
              wire.rows("select 1, pg_sleep(0.05)"),
              copied(wire, "copy (select 2) to stdout"),
              wire.rows("select 3"),
              Effect.flip(copied(wire, "copy nothing to stdout")),
              wire.rows("select 5")
            ],
            { concurrency: "unbounded" }
          )
          assert.deepStrictEqual(answers[0], [["1", ""]])
          assert.strictEqual(answers[1], "2\n")
          assert.deepStrictEqual(answers[2], [["3"]])
          assert.strictEqual(answers[3].sqlState, "42P01")
          assert.deepStrictEqual(answers[4], [["5"]])
        })
      )
    )
  })

  describe("values", () => {
    it.effect("are what Postgres has: NULL is not empty, text is UTF-8 in any database, U+FEFF stays", () =>
      Effect.gen(function* () {
        const postgres = yield* Server
        yield* postgres.rows("create database latin encoding 'LATIN1' locale 'C' template template0")
        for (const database of ["postgres", "latin"]) {
          assert.deepStrictEqual(yield* postgres.rows("select null, '', 'é', length('é')", database), [
            [null, "", "é", "1"]
          ])
        }
        assert.deepStrictEqual(yield* postgres.rows("select '\ufeffa🐘\ufeff', length('\ufeff')"), [
          ["\ufeffa🐘\ufeff", "1"]
        ])
      })
    )

    it.effect("of `rows` are those of the last statement that returned any", () =>
      session((wire) =>
        Effect.gen(function* () {
          assert.deepStrictEqual(yield* wire.rows("select 1; select 2; create temporary table t ()"), [["2"]])
          assert.deepStrictEqual(yield* wire.rows("set work_mem = '5MB'"), [])
        })
      )
    )

    it.effect("may be many, and large", () =>
      session((wire) =>
        Effect.gen(function* () {
          const rows = yield* wire.rows("select g, md5(g::text) from generate_series(1, 200000) g")
          assert.lengthOf(rows, 200_000)
          assert.strictEqual(rows.at(-1)?.[0], "200000")
          const large = yield* wire.rows("select repeat('é', 8000000)")
          assert.strictEqual(large[0]?.[0]?.length, 8_000_000)
        })
      )
    )

    it.effect("of more than 16 MiB are refused, and the connection with them", () =>
      session((wire) =>
        Effect.gen(function* () {
          const first = yield* Effect.flip(wire.rows("select repeat('x', 17000000)"))
          assert.match(first.message, /the server broke the protocol$/)
          assert.strictEqual(yield* Effect.flip(wire.rows("select 1")), first)
        })
      )
    )
  })

  describe("messages that nobody asked for", () => {
    it.effect("are no answer: notices, parameters, notifications", () =>
      session((wire) =>
        Effect.gen(function* () {
          const answers = yield* wire.pipeline([
            "do $$ begin raise notice 'one'; raise warning 'two'; end $$",
            "set client_min_messages = debug5; set timezone = 'Asia/Tokyo'",
            "listen here; notify here, 'payload'",
            "select 1"
          ])
          assert.deepStrictEqual(brief(answers), [[[]], [[], []], [[], []], [[["1"]]]])
          const postgres = yield* Server
          yield* postgres.rows("notify here, 'from elsewhere'")
          assert.deepStrictEqual(yield* wire.rows("select 2"), [["2"]])
        })
      )
    )
  })

  describe("COPY OUT", () => {
    it.effect("brings every byte", () =>
      session((wire) =>
        Effect.gen(function* () {
          const text = yield* copied(wire, "copy (select g from generate_series(1, 500000) g) to stdout")
          assert.strictEqual(text, Array.from({ length: 500_000 }, (_, index) => `${index + 1}\n`).join(""))
          assert.strictEqual(yield* copied(wire, "copy (select 1 where false) to stdout"), "")
          assert.strictEqual(yield* copied(wire, "select 1"), "", "what is no copy has no bytes")
        })
      )
    )

    it.effect("fails with Postgres's error, also after many rows, and the session goes on", () =>
      session((wire) =>
        Effect.gen(function* () {
          const failure = yield* Effect.flip(
            copied(wire, "copy (select 1 / (50000 - g) from generate_series(1, 100000) g) to stdout")
          )
          assert.match(failure.message, /^copy out .*: division by zero \(SQLSTATE 22012\)$/)
          assert.deepStrictEqual(yield* wire.rows("select 1"), [["1"]])
        })
      )
    )

    it.effect("is refused as a query, and COPY IN in either way", () =>
      Effect.forEach(
        [
          [(wire: Wire) => Effect.asVoid(wire.simple("copy (select 1) to stdout")), /a query with CopyOutResponse/],
          [(wire: Wire) => Effect.asVoid(wire.simple("create table c (); copy c from stdin")), /a query with CopyInR/],
          [(wire: Wire) => Effect.asVoid(copied(wire, "create table c (); copy c from stdin")), /out with CopyInR/]
        ] as const,
        ([ask, why]) =>
          session((wire) => Effect.map(Effect.flip(ask(wire)), ({ message }) => assert.match(message, why))),
        { discard: true }
      )
    )
  })

  describe("an error", () => {
    it.effect("has Postgres's message, SQLSTATE, detail and hint", () =>
      session((wire) =>
        Effect.gen(function* () {
          const failure = yield* Effect.flip(
            wire.simple("do $$ begin raise 'no' using errcode = 'P1234', detail = 'since', hint = 'ask again'; end $$")
          )
          if (failure._tag !== "WireFailed") return assert.fail(failure.message)
          const { operation, serverDetail, serverHint, sqlState } = failure
          assert.deepStrictEqual(
            { operation, serverDetail, serverHint, sqlState },
            { operation: "query", serverDetail: "since", serverHint: "ask again", sqlState: "P1234" }
          )
        })
      )
    )
  })

  describe("the end", () => {
    it.effect("that `terminate` brings has reached Postgres when it returns", () =>
      Effect.gen(function* () {
        const postgres = yield* Server
        yield* session((wire) =>
          Effect.gen(function* () {
            yield* wire.terminate
            assert.deepStrictEqual(yield* postgres.rows(activity(wire)), [["0"]])
            yield* wire.terminate
            assert.match((yield* Effect.flip(wire.simple("select 1"))).message, /the server closed the connection$/)
          })
        )
      })
    )

    it.effect("that the scope brings reaches Postgres, too", () =>
      Effect.flatMap(
        session((wire) => Effect.as(wire.simple("select 1"), wire)),
        (wire) => becomes(activity(wire), "0")
      )
    )

    it.effect("that an administrator brings in a query fails it with Postgres's words", () =>
      session((wire) =>
        Effect.gen(function* () {
          const postgres = yield* Server
          const query = yield* Effect.forkChild(Effect.flip(wire.simple("select pg_sleep(3600)")))
          yield* becomes(activity(wire, "wait_event = 'PgSleep'"), "1")
          yield* postgres.rows(`select pg_terminate_backend(${wire.backendPid})`)
          assert.match((yield* Fiber.join(query)).message, administrator)
        })
      )
    )

    it.effect("that an administrator brings between queries fails the next one with Postgres's words", () =>
      session((wire) =>
        Effect.gen(function* () {
          const postgres = yield* Server
          yield* postgres.rows(`select pg_terminate_backend(${wire.backendPid})`)
          yield* becomes(activity(wire), "0")
          assert.match((yield* Effect.flip(wire.simple("select 1"))).message, administrator)
        })
      )
    )
  })
})

describe("a query that nobody waits for any more", () => {
  const hosts = [
    ["an address", () => "127.0.0.1"],
    ["a host name", () => "localhost"],
    ["a unix socket", ({ sockets }: TestPostgres) => sockets]
  ] as const

  for (const [where, hostOf] of hosts) {
    it.effect(`is cancelled in Postgres, when it times out and when it is interrupted (${where})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres()
          const cancels = () => postgres.log().match(/canceling statement due to user request/g)?.length ?? 0
          for (const how of ["timed out", "interrupted"] as const) {
            const before = cancels()
            const wire = yield* connect({ ...postgres.config(), host: hostOf(postgres) })
            const query = yield* Effect.forkChild(wire.simple("select pg_sleep(3600)", "1 minute"))
            yield* becomes(activity(wire, "wait_event = 'PgSleep'"), "1").pipe(Effect.provideService(Server, postgres))
            if (how === "interrupted") yield* Fiber.interrupt(query)
            else {
              yield* TestClock.adjust("1 minute")
              const { _tag, message } = yield* Effect.flip(Fiber.join(query))
              assert.strictEqual(_tag, "TimedOut")
              assert.strictEqual(message, `timed out after 60000 ms: a query to ${wire.peer}`)
            }
            yield* becomes(activity(wire), "0").pipe(Effect.provideService(Server, postgres))
            assert.match((yield* Effect.flip(wire.simple("select 1"))).message, /the caller gave up waiting$/)
            // The postmaster signals the backend and its process group: one request may be logged twice.
            yield* Effect.repeat(postgres.rows("select 1"), { until: () => cancels() > before })
          }
        })
      )
    )
  }
})
