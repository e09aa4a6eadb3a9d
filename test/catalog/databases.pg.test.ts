/**
 * Unusual databases, deltas that rename and drop, and hostile settings of roles and databases.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { applySpec } from "../../src/catalog/apply.ts"
import { startPostgres, type TestPostgres } from "../support/postgres.ts"
import { adminOf, applyOn, assertSettled, database, options, role, specOf } from "./fixture.ts"

const names = (postgres: TestPostgres) =>
  Effect.map(
    postgres.rows("select datname from pg_database where datname !~ '^(template|postgres)' order by 1"),
    (rows) => rows.flat()
  )

const failed = (applyReport: {
  readonly operations: ReadonlyArray<{
    readonly outcome: string
    readonly object: string
    readonly reason: string | null
  }>
}) =>
  applyReport.operations
    .filter(({ outcome }) => outcome === "failed")
    .map(({ object, reason }) => `${object}: ${reason}`)

describe("databases on a real Postgres", () => {
  it.live(
    "an invalid database is dropped, and made again if wanted; a delta drops templates and closed databases too",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major: 17 })
          for (const name of ["broken", "wanted broken", "mould", "closed", "closed and gone"])
            yield* postgres.rows(`create database "${name}"`)
          yield* postgres.rows("update pg_database set datconnlimit = -2 where datname like '%broken'")
          yield* postgres.rows("alter database mould is_template true; alter database closed allow_connections false")
          yield* postgres.rows('alter database "closed and gone" with allow_connections false is_template true')
          const spec = specOf({
            roles: [role("r")],
            databases: [database("wanted broken", "r"), database("closed", "r")],
            deltas: [
              { _tag: "DropDatabase", name: "mould" },
              { _tag: "DropDatabase", name: "closed and gone" },
              { _tag: "DropDatabase", name: "never was" },
              { _tag: "DropDatabase", name: "closed" },
              { _tag: "DropDatabase", name: "postgres" },
              { _tag: "DropDatabase", name: "template1" }
            ]
          })
          const applyReport = yield* applyOn(postgres, spec)
          assert.deepStrictEqual(failed(applyReport), [])
          assert.deepStrictEqual(yield* names(postgres), ["closed", "wanted broken"])
          assert.deepStrictEqual(
            applyReport.operations
              .filter(({ outcome }) => outcome === "skipped")
              .map(({ object, reason }) => [object, reason])
              .slice(0, 4),
            [
              ['database "closed"', "the spec wants this database"],
              ['database "postgres"', "Postgres or this program needs it"],
              ['database "template1"', "Postgres or this program needs it"],
              ['database "closed"', "the database does not allow connections"]
            ]
          )
          yield* assertSettled(postgres, spec)
        })
      )
  )

  it.live("databases are renamed and dropped in order, also while clients are connected to them", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* applyOn(
          postgres,
          specOf({ roles: [role("r")], databases: ["a", "b", "c"].map((name) => database(name, "r")) })
        )
        const [before] = yield* postgres.rows("select oid from pg_database where datname = 'a'")
        yield* postgres.connect(undefined, "c")
        const spec = specOf({
          roles: [role("r")],
          databases: [database("z", "r"), database("a", "r")],
          deltas: [
            { _tag: "RenameDatabase", name: "a", to: "y" },
            { _tag: "RenameDatabase", name: "y", to: "z" },
            { _tag: "RenameDatabase", name: "b", to: "x" },
            { _tag: "DropDatabase", name: "x" },
            { _tag: "DropDatabase", name: "c" }
          ]
        })
        assert.deepStrictEqual(failed(yield* applyOn(postgres, spec)), [])
        assert.deepStrictEqual(yield* names(postgres), ["a", "z"])
        assert.deepStrictEqual(yield* postgres.rows("select oid from pg_database where datname = 'z'"), [before ?? []])
        yield* assertSettled(postgres, spec)
      })
    )
  )

  it.live("what a dropped role owns is reassigned, and its privileges are revoked, whoever granted them", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const roles = ["keeper", "go'ner", "middle"].map((name) => role(name))
        yield* applyOn(
          postgres,
          specOf({
            roles,
            databases: [database("one", "keeper"), database("two", "keeper"), database("loose", "go'ner")]
          })
        )
        yield* postgres.rows(
          'create schema s authorization "go\'ner"; create table s.t (); alter table s.t owner to "go\'ner"',
          "one"
        )
        yield* postgres.rows(
          "create table public.given (id int); alter table public.given owner to keeper; set role keeper; " +
            "grant all on public.given to middle with grant option; set role middle; grant select, insert on " +
            'public.given to "go\'ner"; ' +
            'grant update (id) on public.given to "go\'ner"',
          "two"
        )
        yield* postgres.rows("grant connect on database two to \"go'ner\"; alter role \"go'ner\" set work_mem = '5MB'")
        const spec = specOf({
          roles: [role("keeper"), role("middle")],
          databases: [database("one", "keeper"), database("two", "keeper")],
          deltas: [{ _tag: "DropRole", name: "go'ner" }]
        })
        const applyReport = yield* applyOn(postgres, spec)
        assert.deepStrictEqual(failed(applyReport), [])
        assert.deepStrictEqual(yield* postgres.rows("select 1 from pg_roles where rolname like 'go%'"), [])
        assert.deepStrictEqual(yield* postgres.rows("select tableowner from pg_tables where tablename = 't'", "one"), [
          ["keeper"]
        ])
        // A database that nobody wants by name is not given to another tenant role.
        assert.deepStrictEqual(
          yield* postgres.rows("select datdba::regrole::text from pg_database where datname = 'loose'"),
          [["cloud_admin"]]
        )
        assert.include(
          JSON.stringify(yield* postgres.rows("select relacl::text from pg_class where relname = 'given'", "two")),
          "middle="
        )
        yield* assertSettled(postgres, spec)
      })
    )
  )

  for (const major of [15, 17]) {
    it.live(`settings of roles and databases do not change what an apply does (Postgres ${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          const before = specOf({ roles: [role("r")], databases: [database("d", "r")] })
          yield* applyOn(postgres, before)
          const wire = yield* postgres.connect()
          for (const target of ["database d", "database postgres", "role cloud_admin"]) {
            yield* wire.simple(
              `alter ${target} set role = 'r'; alter ${target} set search_path = 'evil, pg_catalog'; alter ` +
                `${target} set statement_timeout = 1; ` +
                `alter ${target} set default_transaction_read_only = on; alter ${target} set lock_timeout = 1`
            )
          }
          const spec = specOf({
            roles: [role("r"), role("owner")],
            databases: [database("d", "owner"), database("e", "r")]
          })
          const applyReport = yield* applyOn(postgres, spec)
          assert.deepStrictEqual(failed(applyReport), [])
          yield* assertSettled(postgres, spec)
        })
      )
    )
  }

  it.live("subscriptions are dropped once per timeline, and before their database is", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17, settings: { wal_level: "logical" } })
        const roles = [role("r")]
        yield* applyOn(postgres, specOf({ roles, databases: [database("a", "r"), database("b'", "r")] }))
        const subscribe = (name: string) =>
          postgres.rows("create subscription \"s'%I\" connection 'dbname=x' publication p with (connect = false)", name)
        yield* subscribe("a")
        yield* subscribe("b'")
        const spec = specOf({
          roles,
          databases: [database("a", "r")],
          dropSubscriptions: true,
          deltas: [{ _tag: "DropDatabase", name: "b'" }]
        })
        assert.deepStrictEqual(failed(yield* applyOn(postgres, spec)), [])
        assert.deepStrictEqual(yield* postgres.rows("select count(*) from pg_subscription"), [["0"]])
        assert.deepStrictEqual(yield* postgres.rows("select id, timeline_id from neon.drop_subscriptions_done"), [
          ["1", spec.timeline]
        ])
        yield* subscribe("a")
        yield* assertSettled(postgres, spec)
        const branch = { ...spec, timeline: "2".repeat(32) as typeof spec.timeline }
        assert.deepStrictEqual(failed(yield* applyOn(postgres, branch)), [])
        assert.deepStrictEqual(yield* postgres.rows("select count(*) from pg_subscription"), [["0"]])
      })
    )
  )

  it.live("a cluster that has only zenith_admin gets the superuser", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 16 })
        yield* postgres.rows("create role zenith_admin superuser login")
        const spec = specOf({ roles: [role("r")] })
        const applyReport = yield* Effect.provide(
          applySpec({ kind: "start", spec }, options),
          adminOf(postgres, "new_admin")
        )
        assert.strictEqual(applyReport.outcome, "done")
        assert.deepStrictEqual(
          yield* postgres.rows(
            "select rolsuper, pg_has_role('new_admin', 'zenith_admin', 'member') from pg_roles where rolname = " +
              "'new_admin'"
          ),
          [["t", "t"]]
        )
        yield* postgres.rows("alter role zenith_admin nologin")
        const refused = yield* Effect.flip(
          Effect.provide(applySpec({ kind: "start", spec }, options), adminOf(postgres, "other_admin"))
        )
        assert.include(refused.message, 'role "other_admin" does not exist')
      })
    )
  )
})
