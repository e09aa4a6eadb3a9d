/**
 * Sessions that reach another cluster than the stored one: nothing of it is stored, and the storage still starts.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { Admin } from "../../../src/pgwire/Admin.ts"
import { Spawn } from "../../../src/platform/Spawn.ts"
import { layoutOf, readBase } from "../../../src/storage/local/layout.ts"
import { copyRunning } from "../../../src/storage/local/publishBase.ts"
import { runAs, startPostgres, superuser } from "../../support/postgres.ts"
import { makeWorld, start, storageFor } from "./computes.ts"

const noOptions = {
  host: "127.0.0.1",
  password: null,
  database: null,
  options: null,
  applicationName: null
}
const eager = { durability: "process", limits: { walBytes: 1 }, lookEvery: Duration.millis(20) } as const

describe("the archiver", () => {
  it.live("publishes no base, and asks for no change, when its sessions reach another cluster", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld(eager)
        // All that local storage requires, so that only its identity tells it from the stored one.
        const other = yield* startPostgres({
          settings: {
            wal_level: "replica",
            wal_keep_size: "2147483647",
            wal_recycle: "off",
            full_page_writes: "on",
            log_statement: "all"
          }
        })
        const filesOf = () =>
          ["current.json", "reached"].map((name) =>
            fs.existsSync(`${world.root}/${name}`) ? fs.readFileSync(`${world.root}/${name}`, "utf8") : null
          )
        const first = yield* start(world, { storage: yield* storageFor({ ...world, port: other.port }, eager) })
        yield* first.rows("create table kept (n int); insert into kept values (1)")
        const before = filesOf()

        const failure = yield* Effect.flip(first.timeline.keep)
        assert.strictEqual(failure._tag, "StorageDamaged")
        assert.match(failure.message, /system identifier \d+, the cluster stored here has \d+/)
        assert.deepStrictEqual(filesOf(), before)
        assert.notMatch(other.log(), /statement: .*(backup|ALTER SYSTEM)/i)

        yield* first.crash()
        const second = yield* start(world)
        assert.deepStrictEqual(yield* second.rows("select n from kept"), [["1"]])
        yield* second.stop
      })
    )
  )
})

describe("a base", () => {
  it.live("is not even begun over a session with another cluster", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const other = yield* startPostgres({ settings: { log_statement: "all" } })
        const first = yield* start(world)
        const layout = layoutOf(world.root, runAs)
        const base = (yield* readBase(layout)) ?? assert.fail("there is a base")
        const admin = yield* Effect.provide(Admin, Admin.layer({ ...noOptions, port: other.port, user: superuser }))
        const failure = yield* Effect.flip(
          Effect.provide(copyRunning(layout, base, world.pgdata, admin, new Map()), Spawn.layer)
        )
        assert.match(failure.message, /system identifier/)
        assert.deepStrictEqual(yield* readBase(layout), base)
        assert.notMatch(other.log(), /statement: .*backup/i)
        yield* first.stop
      })
    )
  )
})
