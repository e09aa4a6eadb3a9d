/**
 * Our superuser sessions on a real Postgres whose tenants tried to bend them by every setting a role or a database has.
 */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { Admin } from "../../src/pgwire/Admin.ts"
import { parseConnString } from "../../src/pgwire/ConnString.ts"
import { quoteIdentifier } from "../../src/pgwire/quote.ts"
import { startPostgres } from "../support/postgres.ts"

const settings = {
  role: "web",
  default_transaction_read_only: "on",
  search_path: "hostile",
  statement_timeout: "1ms",
  lock_timeout: "1ms",
  idle_in_transaction_session_timeout: "1ms",
  standard_conforming_strings: "off"
}
const superuser = "cloud \\ admin"
const database = 'a "b" c'

const asked = [
  "current_user",
  "current_database()",
  "current_setting('application_name')",
  ...Object.keys(settings).map((name) => `current_setting('${name}')`)
].join(", ")

it.live("role, search path, timeouts and read-only mode are ours; options of the connection string win", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const postgres = yield* startPostgres()
      yield* postgres.rows(`create role ${quoteIdentifier(superuser)} login superuser; create role web`)
      yield* postgres.rows(`create database ${quoteIdentifier(database)}`)
      for (const target of [`role ${quoteIdentifier(superuser)}`, `database ${quoteIdentifier(database)}`])
        for (const [name, value] of Object.entries(settings))
          yield* postgres.rows(`alter ${target} set ${name} = '${value}'`)

      const ask = (more: string, into?: string) => {
        const user = encodeURIComponent(superuser)
        const url = `postgresql://${user}@127.0.0.1:${postgres.port}/${encodeURIComponent(database)}${more}`
        return Effect.scoped(
          Effect.gen(function* () {
            const admin = yield* Admin
            const wire = yield* admin.connect("apply_config", into)
            return (yield* wire.rows(`select ${asked}`))[0]
          })
        ).pipe(Effect.provide(Admin.layer(Result.getOrThrow(parseConnString(url)))))
      }

      const name = "compute_ctl:apply_config"
      const pinned = ["off", "", "0", "0", "0", "on"]
      assert.deepStrictEqual(yield* ask(""), [superuser, database, name, superuser, ...pinned])
      assert.deepStrictEqual(yield* ask("", "postgres"), [superuser, "postgres", name, superuser, ...pinned])
      assert.deepStrictEqual(yield* ask(`?options=${encodeURIComponent("-c lock_timeout=5s")}`), [
        superuser,
        database,
        name,
        superuser,
        ...pinned.with(3, "5s")
      ])
    })
  )
)
