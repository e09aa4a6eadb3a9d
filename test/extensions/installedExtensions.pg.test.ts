/**
 * The inventory of a real Postgres: many databases, few sessions, none of it activity, and a gauge that forgets.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { readSample, sampleSql } from "../../src/activity/ActivityMonitor.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { isRaised } from "../../src/compute/snapshot.ts"
import { inventoryBody } from "../../src/extensions/countExtensions.ts"
import { InstalledExtensions, inventoryActor } from "../../src/extensions/InstalledExtensions.ts"
import { Admin } from "../../src/pgwire/Admin.ts"
import type { ApiVersion } from "../../src/spec/ParsedSpec.ts"
import { printFamilies } from "../../src/telemetry/prometheus.ts"
import { startPostgres, superuser, temporaryFolder } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"
import { eventually } from "../support/waiting.ts"

const setUp = Effect.fnUntraced(function* (
  apiVersion: ApiVersion = "head",
  major?: number,
  settings: Readonly<Record<string, string>> = {}
) {
  const postgres = yield* startPostgres({
    ...(major === undefined ? {} : { major }),
    settings: { autovacuum: "off", log_connections: "on", ...settings }
  })
  const owner = yield* postgres.connect()
  const admin = Admin.layer({
    host: "127.0.0.1",
    port: postgres.port,
    user: superuser,
    password: null,
    database: "postgres",
    options: null,
    applicationName: null
  })
  const context = yield* Layer.build(
    InstalledExtensions.layer({ apiVersion, intervalSeconds: 3600 }).pipe(
      Layer.provideMerge(Layer.mergeAll(admin, Layer.fresh(ComputeState.layer)))
    )
  )
  const inventory = yield* Effect.provide(InstalledExtensions, context)
  const state = yield* Effect.provide(ComputeState, context)
  const gauge = Effect.map(inventory.family, (family) =>
    printFamilies([family])
      .split("\n")
      .filter((line) => !line.startsWith("#") && line !== "")
  )
  const ours = yield* Effect.provide(Admin, context)
  return { postgres, owner, inventory, state, context, gauge, admin: ours }
})

describe("the inventory", () => {
  it.live("counts what each database has, whoever owns it, and forgets what is gone", () =>
    Effect.gen(function* () {
      const { gauge, inventory, owner, postgres } = yield* setUp()
      assert.deepStrictEqual(yield* gauge, [])
      for (const sql of [
        "create role tenant login",
        'create database "one\'s \\"""',
        "create database two owner tenant",
        "create database closed with allow_connections false"
      ]) {
        yield* owner.simple(sql)
      }
      const two = yield* postgres.connect("tenant", "two")
      yield* two.simple("create extension citext")
      const one = yield* postgres.connect(superuser, "one's \\\"")
      yield* one.simple("create extension citext version '1.4'; create extension hstore")
      assert.deepStrictEqual(inventoryBody(yield* inventory.take, "head"), {
        extensions: [
          { extname: "citext", version: "1.4", n_databases: 1, owned_by_superuser: "1" },
          { extname: "citext", version: "1.6", n_databases: 1, owned_by_superuser: "0" },
          { extname: "hstore", version: "1.8", n_databases: 1, owned_by_superuser: "1" },
          { extname: "plpgsql", version: "1.0", n_databases: 4, owned_by_superuser: "1" }
        ]
      })
      assert.include(
        yield* gauge,
        'compute_installed_extensions{extension_name="citext",version="1.4",owned_by_superuser="1"} 1'
      )
      yield* one.simple("drop extension citext")
      yield* inventory.take
      assert.lengthOf(
        (yield* gauge).filter((line) => line.includes("citext")),
        1
      )
    }).pipe(Effect.scoped)
  )

  it.live("asks many databases with two sessions at most, and is not activity", () =>
    Effect.gen(function* () {
      const { admin, inventory, owner } = yield* setUp()
      for (let at = 0; at < 30; at++) yield* owner.simple(`create database many_${at} strategy file_copy`)
      const look = Effect.flatMap(owner.rows(sampleSql(superuser)), (rows) =>
        Effect.fromOption(readSample(rows[0], { before: admin.sessions.counts(), after: admin.sessions.counts() }))
      )
      const active: Array<unknown> = []
      let most = 0
      const watching = yield* Effect.forkChild(
        Effect.forever(
          Effect.andThen(
            Effect.map(
              owner.rows(
                "select count(*) from pg_stat_activity where application_name = 'compute_ctl:get_installed_extensions'"
              ),
              (rows) => void (most = Math.max(most, Number(rows[0]?.[0])))
            ),
            Effect.map(
              look,
              ({ busy, idleSince }) => void (busy > 0 || idleSince !== null ? active.push({ busy, idleSince }) : 0)
            )
          )
        )
      )
      const counts = yield* inventory.take
      yield* Fiber.interrupt(watching)
      assert.deepInclude(counts, { name: "plpgsql", version: "1.0", ownedBySuperuser: true, databases: 32 })
      // A session that has just left may still be listed together with the next one.
      assert.isAtLeast(most, 1)
      assert.isAtMost(most, 4)
      assert.deepStrictEqual(active, [])
    }).pipe(Effect.scoped)
  )

  it.live("leaves a database out that cannot be asked", () =>
    Effect.gen(function* () {
      const { inventory, owner } = yield* setUp()
      yield* owner.simple("create database broken")
      yield* owner.simple("update pg_database set dattablespace = 4711 where datname = 'broken'")
      const counts = yield* inventory.take
      assert.deepInclude(counts, { name: "plpgsql", version: "1.0", ownedBySuperuser: true, databases: 2 })
    }).pipe(Effect.scoped)
  )

  it.live("tells of a control file anywhere that makes the list of extensions fail, until it is mended", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const file = path.join(folder, "extension", "broken.control")
      fs.mkdirSync(path.dirname(file))
      fs.chmodSync(folder, 0o755)
      fs.writeFileSync(file, "default_version = '1.0\n")
      const { context, state } = yield* setUp("head", 18, { extension_control_path: `'${folder}:$system'` })
      yield* state.send("StartBegan")
      yield* state.send("PostgresReady", { spec: emptySpec })
      const look = Effect.forkChild(Effect.provide(inventoryActor.run, context))
      const told = (wanted: boolean) =>
        state.changes.pipe(
          Stream.filter(({ degraded }) => isRaised(degraded, "extension_unusable") === wanted),
          Stream.runHead,
          Effect.timeout("20 seconds")
        )
      const first = yield* look
      yield* told(true)
      assert.match((yield* state.now).degraded[0]?.message ?? "", /broken\.control" line 1/)
      yield* Fiber.interrupt(first)
      fs.writeFileSync(file, "default_version = '1.0'\n")
      yield* look
      yield* told(false)
    }).pipe(Effect.scoped)
  )

  it.live("is logged once after the start, in the line that log pipelines look for", () =>
    Effect.gen(function* () {
      for (const apiVersion of ["2024", "head"] as const) {
        const lines: Array<string> = []
        const { context, inventory, state } = yield* setUp(apiVersion)
        const logged = Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))])
        const running = yield* Effect.forkChild(
          inventoryActor.run.pipe(Effect.provide(context), Effect.provide(logged))
        )
        yield* state.send("StartBegan")
        yield* state.send("PostgresReady", { spec: emptySpec })
        yield* eventually("the line", () => lines.length > 0)
        yield* Fiber.interrupt(running)
        const more =
          apiVersion === "head"
            ? { version: "1.0", n_databases: 2, owned_by_superuser: "1" }
            : { versions: ["1.0"], n_databases: 2 }
        assert.deepStrictEqual(lines, [
          `[NEON_EXT_STAT] ${JSON.stringify({ extensions: [{ extname: "plpgsql", ...more }] })}`
        ])
        assert.match(
          printFamilies([yield* inventory.family]),
          apiVersion === "head" ? /^compute_installed_extensions\{/m : /^installed_extensions\{/m
        )
      }
    }).pipe(Effect.scoped)
  )
})
