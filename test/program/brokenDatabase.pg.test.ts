/**
 * What an owner can do to a database of his own, the system database included, and what a spec's settings do to our
 * sessions: one broken database is a condition and a failed operation; the start is one all the same.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { eventually, launch, localArguments, place, type Place, type Program, rows } from "./harness.ts"

const option = (name: string, value: string) => ({ name, value, vartype: "string" })

const specWith = (names: ReadonlyArray<string>, settings: Readonly<Record<string, string>> = {}) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: [{ name: "web", encrypted_password: "md5" + "0".repeat(32) }],
    databases: names.map((name) => ({ name, owner: "web" })),
    settings: Object.entries(settings).map(([name, value]) => option(name, value))
  }
})

const starts = Effect.fnUntraced(function* (at: Place, spec: unknown) {
  const program = yield* launch(localArguments(at, spec), at.httpPort)
  const { error, status } = yield* Effect.promise(() => program.reaches("running", "failed"))
  assert.strictEqual(status, "running", `${error}\n${program.output()}`)
  return program
})

const ends = Effect.fnUntraced(function* (program: Program) {
  program.signal("SIGTERM")
  assert.deepStrictEqual(yield* Effect.promise(() => program.exit), { code: 0, signal: null })
})

const brokenOf = async (
  program: Program
): Promise<ReadonlyArray<{ readonly about: string; readonly message: string }>> =>
  JSON.parse((await program.http("/conditions")).text).degraded.filter(
    ({ code }: { readonly code: string }) => code === "database_broken"
  )

const configure = (program: Program, spec: unknown) =>
  Effect.promise(() =>
    program.http("/configure", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ spec })
    })
  )

const isReady = (program: Program) =>
  eventually(
    "readiness",
    async () => (await program.http("/readyz")).status,
    (status) => status === 200
  )

/** Its visit is not recorded any more, so that the next apply has to go there. */
const forgetVisit = (at: Place, name: string) =>
  rows(
    at,
    "delete from pg_shdescription where classoid = 'pg_shdescription'::regclass " +
      `and objoid = (select oid from pg_database where datname = '${name}')`,
    "template1"
  )

describe("a start", () => {
  it.live(
    "succeeds whatever an owner has set for a database, the system database included",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const spec = specWith(["app", "other", "postgres"])
          const first = yield* starts(at, spec)
          for (const name of ["app", "postgres"]) {
            for (const setting of [
              "local_preload_libraries = 'nope'",
              "transaction_timeout = '1ms'",
              "idle_session_timeout = '1ms'",
              "statement_timeout = '1ms'",
              "default_transaction_read_only = on",
              "role = 'web'",
              "search_path = 'nowhere'"
            ])
              yield* rows(at, `alter database ${name} set ${setting}`, "template1")
          }
          yield* Effect.forEach(["app", "postgres"], (name) => forgetVisit(at, name))
          yield* ends(first)
          const again = yield* starts(at, spec)
          assert.deepStrictEqual(yield* Effect.promise(() => brokenOf(again)), [])
          yield* isReady(again)
          const answer = yield* configure(again, specWith(["app", "other", "postgres", "third"]))
          assert.strictEqual(answer.status, 200, answer.text)
          yield* ends(again)
        })
      ),
    120_000
  )

  it.live(
    "goes on without a database that is broken, which is a condition until it is mended",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const spec = specWith(["app", "other"])
          const first = yield* starts(at, spec)
          // Whoever may make databases can make one that nobody can be in who speaks UTF-8.
          yield* rows(at, "drop database app")
          yield* rows(
            at,
            "create database app owner web template template0 encoding 'MULE_INTERNAL' lc_collate 'C' lc_ctype 'C'"
          )
          yield* forgetVisit(at, "other")
          yield* ends(first)

          const again = yield* starts(at, spec)
          const [broken, ...more] = yield* Effect.promise(() => brokenOf(again))
          assert.deepStrictEqual([broken?.about, more], ['database "app"', []])
          assert.match(broken?.message ?? "", /MULE_INTERNAL/)
          assert.strictEqual(broken?.message.match(/SQLSTATE/g)?.length, 1)
          const report = JSON.parse((yield* Effect.promise(() => again.http("/apply"))).text)
          assert.strictEqual(report.outcome, "failed", JSON.stringify(report))
          assert.isTrue(
            report.operations.every(
              ({ database, outcome }: { readonly database: string | null; readonly outcome: string }) =>
                outcome !== "failed" || database === "app"
            )
          )
          const visited =
            "select 1 from pg_shdescription where classoid = 'pg_shdescription'::regclass " +
            "and objoid = (select oid from pg_database where datname = 'other')"
          assert.deepStrictEqual(yield* rows(at, visited), [["1"]])
          yield* isReady(again)
          // Who sends a spec is told that the catalog is not as it says.
          const refused = yield* configure(again, spec)
          assert.deepStrictEqual([refused.status, JSON.parse(refused.text).code], [500, "apply_failed"])
          assert.match(refused.text, /database .*app/)

          yield* rows(at, "drop database app")
          const healed = yield* configure(again, spec)
          assert.strictEqual(healed.status, 200, healed.text)
          assert.deepStrictEqual(yield* Effect.promise(() => brokenOf(again)), [])
          yield* ends(again)
        })
      ),
    120_000
  )

  it.live(
    "opens and makes the system database again that its owner closed or renamed",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const spec = specWith(["app", "postgres"])
          const first = yield* starts(at, spec)
          yield* rows(at, "alter database postgres allow_connections false", "template1")
          yield* ends(first)
          const second = yield* starts(at, spec)
          yield* isReady(second)
          yield* Effect.promise(() => second.prints(/the system database was closed and is opened again/))
          const rename =
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = 'postgres'; " +
            "alter database postgres rename to mine"
          yield* eventually(
            "the system database renamed",
            () => Effect.runPromise(rows(at, rename, "template1")),
            () => true
          )
          yield* ends(second)
          const third = yield* starts(at, spec)
          yield* isReady(third)
          yield* Effect.promise(() => third.prints(/the system database was not there and is made again/))
          yield* ends(third)
        })
      ),
    120_000
  )

  it.live(
    "and an apply succeed with settings of the spec that end idle sessions and long transactions",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const names = Array.from({ length: 60 }, (_, index) => `d${index}`)
          const settings = { idle_session_timeout: "1s", transaction_timeout: "100ms", statement_timeout: "1ms" }
          const program = yield* starts(at, specWith(names, settings))
          assert.deepStrictEqual(yield* Effect.promise(() => brokenOf(program)), [])
          yield* ends(program)
        })
      ),
    120_000
  )
})
