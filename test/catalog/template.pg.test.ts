/**
 * Databases that are copied from the private template are the same as those made and visited one by one.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { templateDatabase } from "../../src/pgwire/ownSessions.ts"
import { discardTemplate } from "../../src/catalog/discardTemplate.ts"
import { installs, startPostgres, type TestPostgres } from "../support/postgres.ts"
import { adminOf, applyOn, assertSettled, database, role, specOf } from "./fixture.ts"

const plain = (name: string, value: string) => ({ name, value, quoted: false })
const made = (count: number) => [
  ...Array.from({ length: count }, (_, index) => database(`d'"${index}`, "r")),
  database("limited", "r", [plain("CONNECTION LIMIT", "7")]),
  database("latin", "r", [plain("ENCODING", "'LATIN1'"), plain("TEMPLATE", "template0")])
]
const roles = [role("r"), role("gone")]

const template = (postgres: TestPostgres) =>
  postgres.rows(`select datallowconn from pg_database where datname = '${templateDatabase}'`)

/** Everything an apply decides in and about a database, without what differs by nature (its oid). */
const describeDatabase = Effect.fnUntraced(function* (postgres: TestPostgres, name: string) {
  const quoted = name.replaceAll("'", "''")
  const outside = yield* postgres.rows(
    "select r.rolname, d.encoding, d.datcollate, d.datallowconn, d.datistemplate, d.datconnlimit, d.datacl, " +
      "s.setconfig, v.description is not null " +
      "from pg_database d join pg_roles r on r.oid = d.datdba left join pg_db_role_setting s on s.setdatabase = " +
      "d.oid left join pg_shdescription v on v.objoid = d.oid and v.classoid = 'pg_shdescription'::regclass " +
      `where d.datname = '${quoted}'`
  )
  const inside = yield* postgres.rows(
    "select 'd', defaclrole::regrole::text, defaclobjtype::text, defaclacl::text from pg_default_acl " +
      "union all select 'n', nspowner::regrole::text, nspname, nspacl::text from pg_namespace where nspname = " +
      "'public' " +
      "union all select 's', deptype::text, refobjid::regrole::text, count(*)::text from pg_shdepend " +
      "where refclassid = 'pg_authid'::regclass and dbid = (select oid from pg_database where datname = " +
      "current_database()) " +
      "group by 2, 3 order by 1, 2, 3",
    name
  )
  assert.lengthOf(outside, 1)
  return { outside, inside }
})

describe("the template that databases are copied from", () => {
  for (const { major } of installs) {
    it.live(`a copy equals a database that was visited (Postgres ${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const copied = yield* startPostgres({ major })
          const visited = yield* startPostgres({ major })
          const all = made(12)
          const applyReport = yield* applyOn(copied, specOf({ roles, databases: all }))
          assert.strictEqual(applyReport.outcome, "done")
          assert.deepStrictEqual(
            applyReport.operations
              .filter(({ phase }) => phase === "ChangeSchemaPermissions")
              .flatMap((one) => one.database ?? [])
              .filter((name, index, names) => names.indexOf(name) === index)
              .sort(),
            ["latin", templateDatabase]
          )
          assert.deepStrictEqual(yield* template(copied), [["f"]])
          // Too few at a time for a template.
          for (let at = 3; at < all.length + 3; at += 3) {
            yield* applyOn(visited, specOf({ roles, databases: all.slice(0, at) }))
          }
          assert.deepStrictEqual(yield* template(visited), [])
          for (const { name } of all)
            assert.deepStrictEqual(yield* describeDatabase(copied, name), yield* describeDatabase(visited, name), name)
          yield* assertSettled(copied, specOf({ roles, databases: all }))
          yield* Effect.provide(discardTemplate, adminOf(copied))
          assert.deepStrictEqual(yield* template(copied), [])
          yield* assertSettled(copied, specOf({ roles, databases: all }))
        })
      )
    )
  }

  it.live("a template that was left behind is not copied, and holds no role back", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        // As a kill between its creation and its visit leaves it, holding on to a role.
        yield* postgres.rows(`create database ${templateDatabase} connection limit 0`)
        yield* postgres.rows("create role gone")
        yield* postgres.rows("grant create on schema public to gone", templateDatabase)
        const spec = specOf({ roles: [role("r")], databases: made(12) })
        assert.strictEqual((yield* applyOn(postgres, spec)).outcome, "done")
        assert.lengthOf(yield* template(postgres), 1)
        yield* assertSettled(postgres, spec)
        const without = { ...spec, deltas: [{ _tag: "DropRole" as const, name: "gone" }] }
        const applyReport = yield* applyOn(postgres, without)
        assert.deepStrictEqual(
          applyReport.operations.filter(({ outcome }) => outcome === "failed"),
          []
        )
        assert.deepStrictEqual(yield* template(postgres), [])
        assert.deepStrictEqual(yield* postgres.rows("select 1 from pg_roles where rolname = 'gone'"), [])
        yield* assertSettled(postgres, without)
      })
    )
  )

  it.live("a database of that name that is somebody else's is left alone", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* postgres.rows("create role r")
        yield* postgres.rows(`create database ${templateDatabase} owner r`)
        const spec = specOf({ roles: [role("r")], databases: [...made(12), database(templateDatabase, "r")] })
        assert.strictEqual((yield* applyOn(postgres, spec)).outcome, "done")
        yield* Effect.provide(discardTemplate, adminOf(postgres))
        assert.deepStrictEqual(yield* template(postgres), [["t"]])
        yield* assertSettled(postgres, spec)
      })
    )
  )

  it.live("one copy that fails is one failure", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const applyReport = yield* applyOn(
          postgres,
          specOf({ roles: [role("r")], databases: [...made(12), database("nobody's", "missing")] })
        )
        assert.deepStrictEqual(
          applyReport.operations.filter(({ outcome }) => outcome === "failed").map(({ object }) => object),
          ['database "nobody\'s"']
        )
      })
    )
  )
})
