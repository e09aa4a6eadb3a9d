/**
 * Passwords: the three states, both kinds of verifier, real logins, and that none of it is shown anywhere.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { connect } from "../../src/pgwire/Wire.ts"
import { applySpec } from "../../src/catalog/apply.ts"
import { printPlan } from "../../src/catalog/planText.ts"
import { startPostgres, type TestPostgres } from "../support/postgres.ts"
import {
  adminOf,
  applyOn,
  assertSettled,
  database,
  noPassword,
  options,
  planOn,
  role,
  scram,
  specOf,
  unmanaged,
  verifier
} from "./fixture.ts"

const md5 = (name: string, password: string) =>
  `md5${createHash("md5")
    .update(password + name)
    .digest("hex")}`

const demandPasswords = Effect.fnUntraced(function* (postgres: TestPostgres, method: string) {
  const lines = ["host all cloud_admin 127.0.0.1/32 trust", `host all all 127.0.0.1/32 ${method}`, ""]
  fs.writeFileSync(path.join(postgres.pgdata, "pg_hba.conf"), lines.join("\n"))
  yield* postgres.rows("select pg_reload_conf()")
})

const login = (postgres: TestPostgres, user: string, password: string) =>
  Effect.scoped(
    Effect.flatMap(connect({ ...postgres.config(user), password: Redacted.make(password) }), (wire) =>
      wire.rows("select current_user")
    )
  )

const refused = (postgres: TestPostgres, user: string, password: string) =>
  Effect.map(Effect.flip(login(postgres, user, password)), (failure) =>
    assert.strictEqual("sqlState" in failure ? failure.sqlState : "", "28P01")
  )

const stored = (postgres: TestPostgres) =>
  Effect.map(
    postgres.rows("select rolname, rolpassword from pg_authid where rolname !~ '^(pg_|neon|cloud)' order by 1"),
    (rows) => Object.fromEntries(rows)
  )

describe("passwords on a real Postgres", () => {
  for (const major of [16, 18]) {
    it.live(`a role logs in with its verifier, and with the next one (Postgres ${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          const first = specOf({
            roles: [
              role("s'", verifier(scram("pencil"))),
              role("m", verifier(md5("m", "pencil"))),
              role("n", noPassword),
              role("u", unmanaged)
            ]
          })
          assert.strictEqual((yield* applyOn(postgres, first)).outcome, "done")
          yield* assertSettled(postgres, first)
          yield* demandPasswords(postgres, "md5")
          assert.deepStrictEqual(yield* login(postgres, "s'", "pencil"), [["s'"]])
          assert.deepStrictEqual(yield* login(postgres, "m", "pencil"), [["m"]])
          yield* refused(postgres, "s'", "pen")
          yield* refused(postgres, "n", "")

          const second = specOf({
            roles: [
              role("s'", verifier(scram("quill"))),
              role("m", noPassword),
              role("n", verifier(scram("quill"))),
              role("u", unmanaged)
            ]
          })
          yield* postgres.rows("alter role u password 'mine'")
          const before = yield* stored(postgres)
          const applyReport = yield* applyOn(postgres, second)
          assert.deepStrictEqual(
            applyReport.operations
              .filter(({ outcome }) => outcome === "done")
              .map(({ action, object }) => [object, action]),
            [
              ['role "s\'"', "alter password"],
              ['role "m"', "alter password"],
              ['role "n"', "alter password"]
            ]
          )
          const after = yield* stored(postgres)
          assert.deepStrictEqual(after["u"], before["u"])
          assert.isNull(after["m"])
          yield* demandPasswords(postgres, "scram-sha-256")
          assert.deepStrictEqual(yield* login(postgres, "s'", "quill"), [["s'"]])
          assert.deepStrictEqual(yield* login(postgres, "n", "quill"), [["n"]])
          assert.deepStrictEqual(yield* login(postgres, "u", "mine"), [["u"]])
          yield* refused(postgres, "s'", "pencil")
          yield* assertSettled(postgres, second)
        })
      )
    )
  }

  it.live("drift of what the spec says is repaired; attributes that it does not name stay as they are", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const limit = [{ name: "CONNECTION LIMIT", value: "5", quoted: false }]
        const spec = specOf({ roles: [role("r", verifier(scram("x")), limit), role("free", verifier(scram("y")))] })
        yield* applyOn(postgres, spec)
        yield* postgres.rows(
          "alter role r nologin connection limit 1 password 'other'; alter role free nobypassrls nocreatedb; " +
            "revoke neon_superuser from free"
        )
        const applyReport = yield* applyOn(postgres, spec)
        assert.deepStrictEqual(
          applyReport.operations.filter(({ outcome }) => outcome === "done").map(({ action }) => action),
          ["alter attributes and password"]
        )
        assert.deepStrictEqual(
          yield* postgres.rows(
            "select rolname, rolcanlogin, rolconnlimit, rolbypassrls, rolcreatedb from pg_roles where rolname " +
              "in ('r', 'free') order by 1"
          ),
          [
            ["free", "t", "-1", "f", "f"],
            ["r", "t", "5", "t", "t"]
          ]
        )
        yield* assertSettled(postgres, spec)
      })
    )
  )

  it.live("a renamed role keeps SCRAM and gets md5 anew; the second time nothing is renamed", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* applyOn(
          postgres,
          specOf({
            roles: [role("a", verifier(scram("x"))), role("m", verifier(md5("m", "x")))],
            databases: [database("d", "a")]
          })
        )
        const [before] = yield* postgres.rows("select oid from pg_roles where rolname = 'a'")
        const spec = specOf({
          roles: [role("b", verifier(scram("x"))), role("k", verifier(md5("k", "x"))), role("a", noPassword)],
          databases: [database("d", "b")],
          deltas: [
            { _tag: "RenameRole", name: "a", to: "b" },
            { _tag: "RenameRole", name: "m", to: "k" },
            { _tag: "RenameRole", name: "gone", to: "x" }
          ]
        })
        yield* applyOn(postgres, spec)
        assert.deepStrictEqual(yield* postgres.rows("select oid from pg_roles where rolname = 'b'"), [before ?? []])
        yield* assertSettled(postgres, spec)
        yield* demandPasswords(postgres, "md5")
        assert.deepStrictEqual(yield* login(postgres, "b", "x"), [["b"]])
        assert.deepStrictEqual(yield* login(postgres, "k", "x"), [["k"]])
      })
    )
  )

  it.live("no verifier is in the log, the report, the plan, the statistics or the activity, even when it fails", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const contrib = {
          shared_preload_libraries: "'pg_stat_statements'",
          "pg_stat_statements.track": "all",
          "pg_stat_statements.track_utility": "on"
        }
        const postgres = yield* startPostgres({
          major: 17,
          settings: {
            log_statement: "'all'",
            log_min_duration_statement: "0",
            log_min_error_statement: "'debug5'",
            ...contrib
          }
        })
        const canary = scram("canary", "Y2FuYXJ5Y2FuYXJ5Y2E=")
        yield* postgres.rows("create extension pg_stat_statements")
        const bad = [{ name: "VALID UNTIL", value: "the 32nd", quoted: true }]
        const spec = specOf({ roles: [role("good", verifier(canary)), role("bad", verifier(canary), bad)] })
        const plan = yield* planOn(postgres, spec)
        const applyReport = yield* applyOn(postgres, spec)
        assert.strictEqual(applyReport.outcome, "failed")
        yield* applyOn(postgres, specOf({ roles: [role("good", noPassword)] }))
        yield* applyOn(postgres, specOf({ roles: [role("good", verifier(canary))] }))
        const statistics = yield* postgres.rows("select query from pg_stat_statements")
        assert.isNotEmpty(statistics)
        const [, salt = ""] = canary.split("4096:")
        for (const text of [
          postgres.log(),
          JSON.stringify(applyReport),
          printPlan(plan),
          JSON.stringify(plan),
          JSON.stringify(statistics)
        ]) {
          assert.notInclude(text, salt.slice(0, 20))
        }
        assert.strictEqual((yield* stored(postgres))["good"], canary)
      })
    )
  )

  it.live("whoever is no superuser sets passwords with the PASSWORD form", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* postgres.rows(
          "create role neon_superuser createdb createrole replication bypassrls; create role boss login " +
            "createrole createdb replication bypassrls; " +
            "grant neon_superuser to boss with admin option; grant create on database postgres to boss; grant " +
            "create on schema public to boss"
        )
        const spec = specOf({ roles: [role("r", verifier(scram("pencil"))), role("n", noPassword)] })
        const applyReport = yield* Effect.provide(
          applySpec({ kind: "start", spec }, options),
          adminOf(postgres, "boss")
        )
        assert.deepStrictEqual(
          applyReport.operations.filter(({ outcome }) => outcome === "failed"),
          []
        )
        yield* demandPasswords(postgres, "scram-sha-256")
        assert.deepStrictEqual(yield* login(postgres, "r", "pencil"), [["r"]])
      })
    )
  )

  it.live("the superuser may get a password, and nothing else of it is changed", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const spec = specOf({
          roles: [
            role("cloud_admin", verifier(md5("cloud_admin", "cloud_admin"))),
            role("neon_superuser", noPassword),
            role("pg_monitor")
          ],
          deltas: [
            { _tag: "DropRole", name: "cloud_admin" },
            { _tag: "RenameRole", name: "neon_superuser", to: "x" }
          ]
        })
        assert.strictEqual((yield* applyOn(postgres, spec)).outcome, "done")
        yield* assertSettled(postgres, spec)
        const rows = yield* postgres.rows("select rolpassword, rolsuper from pg_authid where rolname = 'cloud_admin'")
        assert.deepStrictEqual(rows, [[md5("cloud_admin", "cloud_admin"), "t"]])
        yield* applyOn(postgres, specOf({ roles: [role("cloud_admin", noPassword)] }))
        assert.deepStrictEqual(
          yield* postgres.rows("select rolpassword is null from pg_authid where rolname = 'cloud_admin'"),
          [["f"]]
        )
      })
    )
  )
})
