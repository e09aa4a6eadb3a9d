/**
 * Who is in a database that is renamed or dropped, and who holds a lock that an apply waits for.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import { Admin } from "../../src/pgwire/Admin.ts"
import { namingLockHolders } from "../../src/pgwire/lockWait.ts"
import { installs, startPostgres, type TestPostgres } from "../support/postgres.ts"
import { adminOf, applyOn, assertSettled, database, role, specOf } from "./fixture.ts"

const until = (postgres: TestPostgres, sql: string, name?: string) =>
  Effect.repeat(postgres.rows(sql, name), { until: (rows) => rows.length > 0, times: 5_000 })

const failed = (report: { readonly operations: ReadonlyArray<{ readonly outcome: string }> }) =>
  report.operations.filter(({ outcome }) => outcome === "failed")

describe("a database with sessions", () => {
  for (const { major } of installs)
    it.live(
      `is renamed under its subscription and its clients, and goes on replicating (Postgres ${major})`,
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const postgres = yield* startPostgres({ major, settings: { wal_level: "logical" } })
            const before = specOf({ roles: [role("r")], databases: [database("from", "r"), database("b'\"", "r")] })
            yield* applyOn(postgres, before)
            yield* postgres.rows(
              "create table public.t (i int primary key); create publication p for table public.t",
              "from"
            )
            yield* postgres.rows("select pg_create_logical_replication_slot('slot', 'pgoutput')", "from")
            yield* postgres.rows("create table public.t (i int primary key)", "b'\"")
            yield* postgres.rows(
              `create subscription s connection 'host=127.0.0.1 port=${postgres.port} user=cloud_admin dbname=from' ` +
                "publication p with (create_slot = false, slot_name = 'slot', copy_data = false)",
              "b'\""
            )
            yield* until(postgres, "select 1 from pg_replication_slots where active")
            yield* postgres.connect("cloud_admin", "b'\"")

            const renamed = specOf({
              roles: [role("r")],
              databases: [database("from", "r"), database("to", "r")],
              deltas: [{ _tag: "RenameDatabase", name: "b'\"", to: "to" }]
            })
            const report = yield* applyOn(postgres, renamed, undefined, "reconfigure")
            assert.deepStrictEqual(failed(report), [])
            yield* postgres.rows("insert into public.t values (7)", "from")
            yield* until(postgres, "select 1 from public.t where i = 7", "to")
            yield* assertSettled(postgres, renamed)

            // The publisher's database goes while its slot is in use.
            yield* until(postgres, "select 1 from pg_replication_slots where active")
            const dropped = specOf({
              roles: [role("r")],
              databases: [database("to", "r")],
              deltas: [{ _tag: "DropDatabase", name: "from" }]
            })
            const last = yield* applyOn(postgres, dropped, undefined, "reconfigure")
            assert.deepStrictEqual(failed(last), [])
            assert.deepStrictEqual(yield* postgres.rows("select 1 from pg_database where datname = 'from'"), [])
          })
        ),
      60_000
    )
})

describe("an answer that waits for a lock", () => {
  it.live("names lock and holder, its role, its database, the kind of its statement and its age, never its text", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ settings: { max_prepared_transactions: "2" } })
        yield* postgres.rows("create role r; create role web superuser login; create table public.t ()")
        yield* Effect.gen(function* () {
          const admin = yield* Admin
          const waitFor = (sql: string) =>
            Effect.gen(function* () {
              const wire = yield* admin.connect("reconfigure")
              return yield* Effect.flip(namingLockHolders(admin, wire, "the apply", wire.simple(sql, "5 seconds")))
            })
          const rival = yield* postgres.connect("web")
          yield* rival.simple("begin")
          yield* rival.simple("alter role r password 'hush'")
          const row = yield* waitFor("alter role r nologin")
          assert.strictEqual(row._tag, "TimedOut")
          assert.match(row.message, /it waits for ShareLock on transactionid, held by process \d+/)
          assert.include(
            row.message,
            `process ${rival.backendPid} (role "web", database "postgres", idle in transaction`
          )
          assert.match(row.message, /last statement ALTER, begun \d+ s ago, in a transaction for \d+ s\)/)
          assert.notInclude(row.message, "hush")
          yield* rival.simple("rollback")

          yield* rival.simple("begin; lock table public.t; prepare transaction 'x'")
          const prepared = yield* waitFor("drop table public.t")
          assert.match(prepared.message, /AccessExclusiveLock on relation of \d+, held by a prepared transaction/)
        }).pipe(Effect.provide(adminOf(postgres)))
      })
    )
  )

  it.live("is an answer like any other once the lock is free", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres()
        yield* postgres.rows("create table public.t ()")
        yield* Effect.gen(function* () {
          const admin = yield* Admin
          const rival = yield* postgres.connect()
          yield* rival.simple("begin; lock table public.t")
          const wire = yield* admin.connect("reconfigure")
          const waiting = yield* Effect.forkChild(
            Effect.result(namingLockHolders(admin, wire, "the apply", wire.rows("select count(*) from public.t")))
          )
          yield* Effect.repeat(rival.rows("select 1 from pg_locks where not granted"), {
            until: (rows) => rows.length > 0,
            times: 5_000
          })
          yield* rival.simple("commit")
          assert.isTrue(Result.isSuccess(yield* Fiber.join(waiting)))
        }).pipe(Effect.provide(adminOf(postgres)))
      })
    )
  )
})
