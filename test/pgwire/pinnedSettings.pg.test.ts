/**
 * Every setting that a database or a role can have, set by somebody to what would end, bend or stop a session of ours,
 * on every version of Postgres: our sessions begin, and have their own.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { Admin } from "../../src/pgwire/Admin.ts"
import { parseConnString } from "../../src/pgwire/ConnString.ts"
import { installs, startPostgres, type TestPostgres } from "../support/postgres.ts"

const adminOf = (postgres: TestPostgres, user = "cloud_admin") =>
  Admin.layer(Result.getOrThrow(parseConnString(`postgresql://${user}@127.0.0.1:${postgres.port}/postgres`)))

interface Hostile {
  readonly name: string
  readonly value: string
  readonly since?: number
  readonly ours: string
}
const hostile = (name: string, value: string, ours: string, since = 14): Hostile => ({ name, value, since, ours })

/** What an owner of a database may set. */
const byOwner: ReadonlyArray<Hostile> = [
  hostile("role", "web", "cloud_admin"),
  hostile("local_preload_libraries", "nope", ""),
  hostile("transaction_timeout", "1ms", "0", 17),
  hostile("idle_session_timeout", "1ms", "0"),
  hostile("idle_in_transaction_session_timeout", "1ms", "0"),
  hostile("statement_timeout", "1ms", "0"),
  hostile("lock_timeout", "1ms", "0"),
  hostile("client_connection_check_interval", "1ms", "0"),
  hostile("tcp_user_timeout", "1ms", "0"),
  hostile("exit_on_error", "on", "off"),
  hostile("default_transaction_read_only", "on", "off"),
  hostile("default_transaction_isolation", "serializable", "read committed"),
  hostile("default_transaction_deferrable", "on", "off"),
  hostile("search_path", "hostile", ""),
  hostile("row_security", "off", "on"),
  hostile("check_function_bodies", "off", "on"),
  hostile("default_tablespace", "nowhere", ""),
  hostile("temp_tablespaces", "nowhere", ""),
  hostile("default_table_access_method", "nope", "heap"),
  hostile("client_encoding", "LATIN1", "UTF8"),
  hostile("standard_conforming_strings", "off", "on"),
  hostile("transform_null_equals", "on", "off"),
  hostile("quote_all_identifiers", "on", "off"),
  hostile("bytea_output", "escape", "hex"),
  hostile("DateStyle", "SQL, DMY", "ISO, MDY"),
  hostile("TimeZone", "Asia/Tokyo", "UTC"),
  hostile("jit", "on", "off"),
  hostile("debug_print_parse", "on", "off"),
  hostile("restrict_nonsystem_relation_kind", "view", "", 17),
  hostile("createrole_self_grant", "set", "", 16)
]

/** What only a superuser may. */
const bySuperuser: ReadonlyArray<Hostile> = [
  hostile("session_preload_libraries", "nope", ""),
  hostile("event_triggers", "on", "off", 17),
  hostile("temp_file_limit", "0", "-1"),
  hostile("lc_messages", "nowhere", "C"),
  hostile("backtrace_functions", "errfinish", "")
]

/** Any statement may be refused; Postgres 14 to 18 do not refuse the same ones. */
const attempt = (postgres: TestPostgres, user: string, sql: string) =>
  Effect.result(Effect.scoped(Effect.flatMap(postgres.connect(user, "template1"), (wire) => wire.simple(sql)))).pipe(
    Effect.map(Result.isSuccess)
  )

const mostOf = (results: ReadonlyArray<boolean>) => results.filter((one) => one).length

describe("a session of ours", () => {
  for (const { major } of installs)
    it.live(`has its own settings, whatever its database and its role have (Postgres ${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          yield* postgres.rows("create role web login")
          yield* postgres.rows("create database app owner web")
          yield* postgres.rows("alter database postgres owner to web")
          const known = ({ since = 14 }: Hostile) => since <= major
          const owners = byOwner.filter(known)
          const all = [...owners, ...bySuperuser.filter(known)]
          for (const name of ["app", "postgres"]) {
            const set = yield* Effect.forEach(owners, (one) =>
              attempt(postgres, "web", `alter database ${name} set ${one.name} = '${one.value}'`)
            )
            // Not those that name what does not exist.
            assert.isAtLeast(mostOf(set), owners.length - 1)
          }
          for (const target of ["database app", "role all", "role cloud_admin", "role cloud_admin in database app"])
            yield* Effect.forEach(all, (one) =>
              attempt(postgres, "cloud_admin", `alter ${target} set ${one.name} = '${one.value}'`)
            )
          assert.isTrue(Result.isFailure(yield* Effect.result(postgres.rows("select 1", "app"))), "a session of others")

          const shown = all.map(({ name }) => `current_setting('${name}')`).join(", ")
          yield* Effect.gen(function* () {
            const admin = yield* Admin
            for (const purpose of ["apply_config", "compute_monitor", "install_extension"] as const)
              for (const name of ["app", "postgres"]) {
                const rows = yield* Effect.scoped(
                  Effect.flatMap(admin.connect(purpose, name), (wire) => wire.rows(`select ${shown}`))
                )
                assert.deepStrictEqual(
                  rows[0],
                  all.map(({ ours }) => ours),
                  `${purpose} in ${name}`
                )
              }
          }).pipe(Effect.provide(adminOf(postgres)))
        })
      )
    )

  for (const { major } of installs)
    it.live(`meets no event trigger while it changes the catalog (Postgres ${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          yield* postgres.rows(
            "create function no() returns event_trigger language plpgsql as $$ begin raise 'no'; end $$"
          )
          if (major >= 17) {
            yield* postgres.rows("create event trigger at_login on login execute function no()")
            yield* postgres.rows("alter event trigger at_login enable always").pipe(Effect.ignore)
          }
          yield* Effect.gen(function* () {
            const admin = yield* Admin
            if (major < 17) {
              const wire = yield* admin.connect("reconfigure")
              yield* wire.simple("create event trigger on_ddl on ddl_command_start execute function public.no()")
              const other = yield* admin.connect("install_extension")
              assert.isTrue(Result.isFailure(yield* Effect.result(other.simple("create table public.u ()"))))
            }
            const wire = yield* admin.connect("apply_config")
            yield* wire.simple("create table public.t ()")
          }).pipe(Effect.scoped, Effect.provide(adminOf(postgres)))
        })
      )
    )

  for (const { major } of installs)
    it.live(`of a user who is no superuser begins without what only one may set (Postgres ${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          yield* postgres.rows("create role web login")
          yield* postgres.rows("alter role web set idle_session_timeout = '1ms'")
          yield* Effect.gen(function* () {
            const admin = yield* Admin
            for (const told of [null, major, 14, 18]) {
              if (told !== null) yield* admin.expectMajor(told)
              const wire = yield* admin.connect("apply_config")
              const rows = yield* wire.rows("select current_user, current_setting('idle_session_timeout')")
              assert.deepStrictEqual(rows, [["web", "0"]])
            }
          }).pipe(Effect.scoped, Effect.provide(adminOf(postgres, "web")))
        })
      )
    )
})
