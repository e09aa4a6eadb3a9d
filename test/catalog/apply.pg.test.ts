/**
 * Specs applied to real servers of every version: what the catalog says afterwards, and that once is enough.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { installs, startPostgres } from "../support/postgres.ts"
import { applyOn, assertSettled, database, noPassword, role, scram, specOf, unmanaged, verifier } from "./fixture.ts"

const hostile = [
  'a"b',
  "it's",
  "back\\slash",
  "$x$ $1 $$",
  "100%",
  "new\nline",
  "日本語",
  "UPPER",
  "a b",
  "''';--",
  "é".repeat(31)
]

describe("an apply on a real Postgres", () => {
  for (const { major } of installs) {
    it.live(`hostile names are applied once, and again changes nothing (Postgres ${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          const spec = specOf({
            roles: hostile.map((name, index) => role(name, [verifier(scram(name)), noPassword, unmanaged][index % 3])),
            databases: hostile.map((name) => database(name, name))
          })
          const applyReport = yield* applyOn(postgres, spec)
          assert.deepStrictEqual(
            applyReport.operations.filter(({ outcome }) => outcome === "failed"),
            []
          )
          yield* assertSettled(postgres, spec)
          const rows = yield* postgres.rows(
            "select d.datname, r.rolname, r.rolcanlogin, r.rolcreatedb, r.rolbypassrls, pg_has_role(r.oid, " +
              "'neon_superuser', 'member'), " +
              "has_database_privilege('neon_superuser', d.oid, 'create') " +
              "from pg_database d join pg_roles r on r.oid = d.datdba where d.datname <> 'template_compute_ctl' " +
              "and not datistemplate and datname <> 'postgres'"
          )
          assert.deepStrictEqual(
            rows.map((row) => row.join("|")).sort(),
            hostile.map((name) => [name, name, "t", "t", "t", "t", "t"].join("|")).sort()
          )
          const again = yield* applyOn(postgres, spec)
          assert.deepStrictEqual([again.connections, again.roundTrips], [1, 1])
          assert.isEmpty(again.operations.filter(({ outcome }) => outcome === "done"))
        })
      )
    )
  }
})
