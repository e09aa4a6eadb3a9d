/**
 * Extensions and migrations. Stock servers have no `neon`, `anon` or `pgaudit`: Postgres 18 gets stand-ins.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { Applier } from "../../src/catalog/Applier.ts"
import { migrate } from "../../src/catalog/migrations.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { isRaised } from "../../src/compute/snapshot.ts"
import { installs, startPostgres, temporaryFolder, type TestPostgres } from "../support/postgres.ts"
import { adminOf, applyOn, assertSettled, database, options, role, specOf } from "./fixture.ts"

const preloaded = (value: string) => [{ name: "shared_preload_libraries", value, quoted: true }]

/** A folder with control files and scripts, for `extension_control_path` of Postgres 18. */
const falseExtensions = Effect.map(temporaryFolder, (folder) => {
  const at = path.join(folder, "extension")
  fs.mkdirSync(at)
  const write = (name: string, text: string) => fs.writeFileSync(path.join(at, name), text)
  const extension = (name: string, more = "") => {
    write(`${name}.control`, `comment = 'false'\ndefault_version = '1.0'\n${more}`)
    write(`${name}--1.0.sql`, `create table false_${name} ();`)
  }
  extension("neon", "relocatable = false\n")
  write("neon--1.0--1.1.sql", "create table newer ();")
  extension("pgaudit")
  extension("pgauditlogtofile")
  write("anon.control", "comment = 'false'\ndefault_version = '1.0'\nschema = anon\nrelocatable = false\n")
  write(
    "anon--1.0.sql",
    "create function anon.init() returns boolean language sql as 'select true'; create table anon.t ();"
  )
  fs.chmodSync(folder, 0o755)
  return {
    folder,
    write,
    newer: () => write("neon.control", "comment = 'false'\ndefault_version = '1.1'\nrelocatable = false\n")
  }
})

const versionOf = (postgres: TestPostgres) =>
  postgres.rows(
    "select e.extversion, n.nspname, e.extrelocatable from pg_extension e join pg_namespace n on n.oid = " +
      "e.extnamespace where extname = 'neon'"
  )

describe("extensions and migrations on a real Postgres", () => {
  it.live("what a stock Postgres lacks is skipped with the reason, but an audit is refused", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const spec = specOf({
          settings: preloaded("neon, pg_stat_statements"),
          features: new Set(["anon_extension"]),
          auditLevel: "Full"
        })
        const applyReport = yield* applyOn(postgres, spec)
        const about = (outcome: string) =>
          applyReport.operations.filter((one) => one.outcome === outcome).map(({ object }) => object)
        assert.deepStrictEqual(about("skipped"), [
          "extension neon",
          'database "postgres"',
          "table neon_migration.migration_id"
        ])
        assert.deepStrictEqual(about("failed"), ["extension pgaudit", "extension pgauditlogtofile"])
        assert.include(about("done"), "extension pg_stat_statements")
        assert.include(about("done"), "table public.health_check")
        assert.deepStrictEqual(yield* postgres.rows("select id from public.health_check"), [["1"]])
        yield* assertSettled(postgres, { ...spec, auditLevel: "Disabled" })
      })
    )
  )

  it.live("neon is created, moved, updated; anon and the audit are installed", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { folder, newer, write } = yield* falseExtensions
        // Somebody else's: every look at all the files fails, and nothing else.
        write("other.control", "default_version = '1.0\n")
        const postgres = yield* startPostgres({
          major: 18,
          settings: { extension_control_path: `'${folder}:$system'` }
        })
        const spec = specOf({
          roles: [role("r'")],
          databases: [database("d", "r'")],
          settings: preloaded("neon,anon"),
          features: new Set(["anon_extension"]),
          auditLevel: "Hipaa"
        })
        const applyReport = yield* applyOn(postgres, spec)
        assert.deepStrictEqual(
          applyReport.operations.filter(({ outcome }) => outcome !== "done").map(({ action }) => action),
          ["run migrations 1 to 12"]
        )
        assert.deepStrictEqual(yield* versionOf(postgres), [["1.0", "neon", "t"]])
        assert.deepStrictEqual(
          yield* postgres.rows("select proowner::regrole::text from pg_proc where proname = 'init'", "d"),
          [['"r\'"']]
        )
        assert.deepStrictEqual(
          yield* postgres.rows(
            "select setconfig::text from pg_db_role_setting s join pg_database d on d.oid = setdatabase where " +
              "datname = 'postgres'"
          ),
          [["{pgaudit.log=none}"]]
        )
        yield* assertSettled(postgres, spec)
        yield* postgres.rows("drop extension neon; create extension neon schema public")
        newer()
        assert.strictEqual((yield* applyOn(postgres, spec)).outcome, "done")
        assert.deepStrictEqual(yield* versionOf(postgres), [["1.1", "neon", "t"]])
        yield* assertSettled(postgres, spec)
        write("neon.control", "comment = 'false'\ndefault_version = 1.0 # the files of 1.1 are there, too\n")
        assert.deepStrictEqual(
          (yield* applyOn(postgres, spec)).operations.map(({ action, outcome }) => [action, outcome]),
          [
            ["update to 1.0", "failed"],
            ["run migrations 1 to 12", "skipped"]
          ]
        )
        assert.match((yield* Effect.flip(postgres.rows("select from pg_available_extensions"))).message, /other/)
      })
    )
  )

  it.live("a wanted extension whose files cannot be used is skipped with Postgres's reason, an audit is refused", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { folder, write } = yield* falseExtensions
        const postgres = yield* startPostgres({
          major: 18,
          settings: { extension_control_path: `'${folder}:$system'` }
        })
        write("neon.control", "'no setting'\n")
        write("anon.control", "unheard_of = 1\n")
        write("pgaudit.control", "schema = a\nrelocatable = true\n")
        const spec = specOf({
          settings: preloaded("neon,anon"),
          features: new Set(["anon_extension"]),
          auditLevel: "Base"
        })
        const { operations } = yield* applyOn(postgres, spec)
        const reasons = operations.flatMap(({ object, outcome, reason }) =>
          object.startsWith("extension") ? [`${object} ${outcome}: ${reason}`] : []
        )
        assert.lengthOf(reasons, 3)
        for (const [index, wanted] of [
          /^extension anon skipped: its files cannot be used: unrecognized parameter "unheard_of" in file/,
          /^extension neon skipped: its files cannot be used: syntax error in file ".*neon.control" line 1/,
          /^extension pgaudit failed: its files cannot be used: .*relocatable/
        ].entries())
          assert.match(reasons.toSorted().at(index) ?? "", wanted, reasons.join("|"))
      })
    )
  )

  for (const { major } of installs) {
    it.live(`migrations run once on Postgres ${major}`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          const lines: Array<string> = []
          const logger = Logger.make(
            ({ message }) => void lines.push(String(Array.isArray(message) ? message[0] : message))
          )
          const spec = specOf({ roles: [role("in")], jwksRoles: new Set(["out"]) })
          yield* applyOn(postgres, spec)
          yield* postgres.rows('create role outsider bypassrls login; alter role "in" noinherit')
          const run = Effect.provide(migrate("neon_superuser"), [adminOf(postgres), Logger.layer([logger])])
          assert.strictEqual(yield* run, 12)
          assert.deepStrictEqual(
            lines.filter((line) => line.startsWith("Skipping")),
            [5, 6, 7, 8, 9].map((id) => `Skipping migration id=${id}`)
          )
          for (const id of [1, 2, 3, 4, 10, 11, 12])
            assert.includeMembers(lines, [`Running migration id=${id}`, `Finished migration id=${id}`])
          assert.deepStrictEqual(
            yield* postgres.rows(
              "select rolname, rolinherit, rolbypassrls from pg_roles where rolname in ('in', 'outsider') order by 1"
            ),
            [
              ["in", "t", "t"],
              ["outsider", "t", "f"]
            ]
          )
          assert.deepStrictEqual(yield* postgres.rows("select key, id from neon_migration.migration_id"), [["0", "12"]])
          assert.deepStrictEqual(
            yield* postgres.rows(
              "select has_schema_privilege('in', 'neon_migration', 'usage'), pg_has_role('neon_superuser', " +
                "'pg_signal_backend', 'member')"
            ),
            [[major >= 0 ? "t" : "", "t"]]
          )
          lines.length = 0
          assert.strictEqual(yield* run, 12)
          assert.isEmpty(lines)
        })
      )
    )
  }

  it.live("a migration that fails is where the next run begins", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* applyOn(postgres, specOf({}))
        yield* postgres.rows("alter role neon_superuser rename to elsewhere")
        const run = Effect.provide(migrate("neon_superuser"), adminOf(postgres))
        assert.include((yield* Effect.flip(run)).message, "neon_superuser")
        assert.deepStrictEqual(yield* postgres.rows("select id from neon_migration.migration_id"), [["0"]])
        yield* postgres.rows("alter role elsewhere rename to neon_superuser")
        assert.strictEqual(yield* run, 12)
      })
    )
  )

  it.live("tables that a tenant planted where ours belong are neither read nor written", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* postgres.rows("create role tenant login; alter database postgres owner to tenant")
        yield* postgres.rows(
          "set role tenant; create schema neon; create schema neon_migration; create table public.stolen (id int); " +
            "create function neon.steal() returns trigger language plpgsql as 'begin alter role tenant " +
            "superuser; return new; end'; " +
            "create table neon.drop_subscriptions_done (id int primary key, timeline_id text); " +
            "create table neon_migration.migration_id (key int primary key, id bigint); " +
            "create trigger t before insert on neon.drop_subscriptions_done for each row execute function " +
            "neon.steal(); " +
            "create trigger t before insert on neon_migration.migration_id for each row execute function neon.steal()"
        )
        const applyReport = yield* applyOn(postgres, specOf({ dropSubscriptions: true }))
        assert.include(JSON.stringify(applyReport.operations), "does not belong to a superuser")
        yield* Effect.flip(Effect.provide(migrate("neon_superuser"), adminOf(postgres)))
        assert.deepStrictEqual(yield* postgres.rows("select rolsuper from pg_roles where rolname = 'tenant'"), [["f"]])
      })
    )
  )

  it.live("after the start nothing is migrated unless the catalog was applied", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* Effect.gen(function* () {
          const applier = yield* Applier
          yield* applier.afterStart.run
          assert.deepStrictEqual(
            yield* postgres.rows("select 1 from pg_namespace where nspname = 'neon_migration'"),
            []
          )
          yield* Effect.forkChild(applier.actor.run)
          yield* applier.apply({ kind: "start", spec: specOf({}) })
          yield* applier.afterStart.run
          assert.deepStrictEqual(yield* postgres.rows("select id from neon_migration.migration_id"), [["12"]])
        }).pipe(
          Effect.provide(Layer.provideMerge(Applier.layer(options), Layer.merge(adminOf(postgres), ComputeState.layer)))
        )
      })
    )
  )

  it.live(
    "a migration that fails is a condition, is counted and tried again, and ends as one line when it is done",
    () => {
      const { layer, lines } = recorded()
      return Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major: 17 })
          yield* Effect.gen(function* () {
            const applier = yield* Applier
            const state = yield* ComputeState
            yield* Effect.forkChild(applier.actor.run)
            yield* applier.apply({ kind: "start", spec: specOf({}) })
            yield* postgres.rows("alter role neon_superuser rename to elsewhere")
            const actor = yield* Effect.forkChild(applier.afterStart.run)
            yield* state.changes.pipe(
              Stream.filter(({ degraded }) => isRaised(degraded, "migration_failed", "migrations")),
              Stream.runHead
            )
            const [condition] = (yield* state.now).degraded
            assert.match(
              condition?.message ?? "",
              /the migrations after the start failed \(.*"neon_superuser" does not exist/
            )
            const counter = (yield* Metric.snapshot).find(({ id }) => id === "compute_ctl_db_migration_failed_total")
            assert.deepInclude(counter?.attributes, { migration_id: "1" })
            yield* postgres.rows("alter role elsewhere rename to neon_superuser")
            yield* Fiber.join(actor)
            assert.deepStrictEqual((yield* state.now).degraded, [])
            assert.deepStrictEqual(yield* postgres.rows("select id from neon_migration.migration_id"), [["12"]])
            assert.lengthOf(
              lines.filter((line) => line.startsWith("the migrations after the start failed")),
              1
            )
            assert.lengthOf(
              lines.filter((line) => line.startsWith("no longer true: the migrations")),
              1
            )
          }).pipe(
            Effect.provide(
              Layer.provideMerge(Applier.layer(options), Layer.merge(adminOf(postgres), ComputeState.layer))
            ),
            Effect.provide(layer)
          )
        })
      )
    }
  )
})

/** What is logged. */
const recorded = () => {
  const lines: Array<string> = []
  return { lines, layer: Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))]) }
}
