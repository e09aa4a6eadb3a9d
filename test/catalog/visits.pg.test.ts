/**
 * What a visit leaves in a database is checked from outside: whatever is changed there behind our back is noticed by an
 * apply that never goes in, in the one round trip that an apply with nothing to do costs.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { migrate } from "../../src/catalog/migrations.ts"
import { leavesMigrations } from "../../src/catalog/planMigrations.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { installs, startPostgres, type TestPostgres } from "../support/postgres.ts"
import { adminOf, applyOn, database, role, scram, specOf, startOn, verifier } from "./fixture.ts"

const spec = specOf({
  roles: [
    role("r", verifier(scram("swordfish")), [{ name: "CONNECTION LIMIT", value: "7", quoted: false }]),
    role("web_access"),
    role("other")
  ],
  databases: [database("d", "r", [{ name: "CONNECTION LIMIT", value: "9", quoted: false }]), database("e'\"", "other")]
})

const majors = installs.map(({ major }) => major)

/** What a visit is for, as the database itself has it. */
const inside = (postgres: TestPostgres, name: string) =>
  postgres.rows(
    "select 'default', defaclrole::regrole::text, defaclobjtype::text, defaclacl::text from pg_default_acl " +
      "where defaclnamespace = 'public'::regnamespace union all " +
      "select 'schema', nspowner::regrole::text, '', nspacl::text from pg_namespace where nspname = 'public' " +
      "order by 1, 3",
    name
  )

const done = Effect.fnUntraced(function* (postgres: TestPostgres, wished: ParsedSpec = spec) {
  const { operations } = yield* applyOn(postgres, wished)
  assert.deepStrictEqual(
    operations.flatMap(({ object, outcome, reason }) => (outcome === "failed" ? [`${object}: ${reason}`] : [])),
    []
  )
  return operations.filter(({ outcome }) => outcome === "done")
})

/** One connection, one round trip, and no operation. */
const costsNothing = Effect.fnUntraced(function* (postgres: TestPostgres, wished: ParsedSpec = spec) {
  const report = yield* applyOn(postgres, wished)
  assert.deepStrictEqual(
    report.operations.filter(({ outcome }) => outcome !== "skipped"),
    []
  )
  assert.deepStrictEqual([report.connections, report.roundTrips], [1, 1])
  return report
})

/** What somebody does, who, and where; `null`: the system database. */
type Change = readonly [what: string, sql: string, where: string | null]

const changes = (major: number): ReadonlyArray<Change> => [
  ["the owner makes the schema public again", "set role r; drop schema public cascade; create schema public", "d"],
  ["a superuser makes the schema public again", "drop schema public cascade; create schema public", "d"],
  ["a superuser drops the schema public", "drop schema public cascade", "d"],
  [
    "default privileges of tables are revoked",
    "alter default privileges in schema public revoke all on tables from neon_superuser",
    "d"
  ],
  [
    "default privileges of sequences are revoked",
    "alter default privileges in schema public revoke all on sequences from neon_superuser",
    "d"
  ],
  ...(major < 15
    ? [["the schema public goes to a superuser", "alter schema public owner to cloud_admin", "d"] as const]
    : [["what web_access may do is revoked", "revoke create on schema public from web_access", "d"] as const]),
  ["privileges on the database are revoked", "revoke all on database d from neon_superuser", null],
  ["the database has another owner", "alter database d owner to other", null],
  ["an option of the database is altered", "alter database d connection limit 3", null],
  ["a password is changed", "alter role r password 'guess'", null],
  ["a role may not log in", "alter role r nologin", null],
  ["an option of a role is altered", "alter role r connection limit 3", null],
  ["a role is dropped", "drop owned by web_access cascade; drop role web_access", "d"],
  ["a database is dropped", "drop database d", null],
  ["the health check's table is dropped", "drop table public.health_check", null]
]

describe("an apply", () => {
  for (const major of [Math.min(...majors), Math.max(...majors)]) {
    it.live(
      `notices what was changed behind its back, mends it, and then costs one round trip (Postgres ${major})`,
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const postgres = yield* startPostgres({ major })
            yield* done(postgres)
            yield* costsNothing(postgres)
            const fresh = { d: yield* inside(postgres, "d"), e: yield* inside(postgres, "e'\"") }
            for (const [what, sql, where] of changes(major)) {
              // What is granted to it in another database would keep it.
              if (sql.includes("drop role")) yield* postgres.rows("drop owned by web_access cascade", "e'\"")
              yield* postgres.rows(sql, where ?? "postgres")
              assert.isNotEmpty(yield* done(postgres), what)
              yield* costsNothing(postgres)
              if (sql.includes("drop schema")) {
                if (!sql.includes("create schema")) {
                  // Nothing can be given in a schema that is not there; once it is, it is given.
                  yield* postgres.rows("set role r; create schema public", "d")
                  assert.isNotEmpty(yield* done(postgres), what)
                  yield* costsNothing(postgres)
                }
                const [tables, sequences] = yield* inside(postgres, "d")
                assert.deepStrictEqual([tables, sequences], fresh.d.slice(0, 2), what)
                yield* postgres.rows("drop database d")
                yield* done(postgres)
              }
              assert.deepStrictEqual(yield* inside(postgres, "d"), fresh.d, what)
              assert.deepStrictEqual(yield* inside(postgres, "e'\""), fresh.e, what)
            }
          })
        ),
      240_000
    )
  }

  it.live("of a start that has nothing to do is one session and one message, all that comes after it included", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const start = () => startOn(postgres, spec)
        const first = yield* start()
        assert.isAbove(first.sessions, 3)
        assert.deepStrictEqual(yield* start(), { sessions: 1, messages: 1 })
        // What was left undone is done by the next one.
        yield* postgres.rows("update neon_migration.migration_id set id = 11")
        assert.deepStrictEqual((yield* start()).sessions, 2)
        assert.deepStrictEqual(yield* postgres.rows("select id from neon_migration.migration_id"), [["12"]])
        assert.deepStrictEqual(yield* start(), { sessions: 1, messages: 1 })
      })
    )
  )

  it.live("is not sent anywhere by what users do in their databases", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* done(postgres)
        yield* postgres.rows(
          "set role r; create schema mine; create table mine.t (); create table public.t (); " +
            "grant usage, create on schema public to other; grant all on mine.t to other; " +
            "alter default privileges in schema mine grant all on tables to other",
          "d"
        )
        yield* costsNothing(postgres)
      })
    )
  )

  it.live("keeps what it knows where no session, dump or tenant meets it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 15 })
        yield* done(postgres)
        assert.deepStrictEqual(yield* postgres.rows("select 1 from pg_db_role_setting"), [])
        for (const name of ["d", "e'\"", "postgres"])
          assert.deepStrictEqual(
            yield* postgres.rows("select name from pg_settings where name like 'compute_ctl%'", name),
            []
          )
        assert.deepStrictEqual(
          yield* postgres.rows(
            "select shobj_description(oid, 'pg_database') from pg_database where datname in ('d', 'e''\"')"
          ),
          [[null], [null]]
        )
        const records = "pg_shdescription where classoid = 'pg_shdescription'::regclass"
        assert.deepStrictEqual(yield* postgres.rows(`select count(*) from ${records}`), [["2"]])
        for (const sql of [`delete from ${records}`, `update pg_shdescription set description = ''`]) {
          const refused = yield* Effect.flip(postgres.rows(`set role r; ${sql}`, "d"))
          assert.include(refused.message, "permission denied")
        }
        // Of a database that is gone it goes with the next visit.
        yield* postgres.rows("drop database d")
        yield* done(postgres)
        assert.deepStrictEqual(yield* postgres.rows(`select count(*) from ${records}`), [["2"]])
      })
    )
  )

  it.live("does not take a copy's word for what was done in its original, and takes the former record away", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* done(postgres)
        yield* postgres.rows("create database copy template d owner r")
        yield* postgres.rows("alter database copy set compute_ctl.visited to '1:[1]'")
        const copied = { ...spec, databases: [...spec.databases, database("copy", "r")] }
        const visited = yield* done(postgres, copied)
        assert.deepStrictEqual([...new Set(visited.map(({ database }) => database))], ["copy"])
        assert.deepStrictEqual(yield* postgres.rows("select 1 from pg_db_role_setting"), [])
        yield* costsNothing(postgres, copied)
      })
    )
  )

  it.live("that drops a role visits no database afterwards that the role held something in", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 15 })
        yield* done(postgres)
        yield* postgres.rows(
          "set role other; alter default privileges in schema public grant all on tables to neon_superuser",
          "d"
        )
        const databases = [database("d", "r"), database("e'\"", "r")]
        const without: ParsedSpec = {
          ...spec,
          roles: spec.roles.slice(0, 1),
          databases,
          deltas: [
            { _tag: "DropRole", name: "other" },
            { _tag: "DropRole", name: "web_access" }
          ]
        }
        yield* done(postgres, without)
        yield* costsNothing(postgres, without)
      })
    )
  )

  it.live("says what a start leaves to do in the background, and nothing when it is done", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        assert.isTrue(leavesMigrations(yield* applyOn(postgres, spec)))
        assert.isTrue(leavesMigrations(yield* applyOn(postgres, spec)))
        yield* Effect.provide(migrate("neon_superuser"), adminOf(postgres))
        assert.isFalse(leavesMigrations(yield* costsNothing(postgres)))
        yield* postgres.rows("update neon_migration.migration_id set id = 11")
        const { operations } = yield* applyOn(postgres, spec)
        assert.include(
          operations.map(({ action }) => action),
          "run migrations 12 to 12"
        )
        // A table that is not ours says nothing.
        yield* postgres.rows("alter table neon_migration.migration_id owner to r")
        assert.isTrue(leavesMigrations(yield* applyOn(postgres, spec)))
        yield* postgres.rows(
          "drop table neon_migration.migration_id; create table neon_migration.migration_id (id text)"
        )
        assert.isTrue(leavesMigrations(yield* applyOn(postgres, spec)))
        assert.isFalse(leavesMigrations(yield* applyOn(postgres, spec, undefined, "reconfigure")))
      })
    )
  )
})
