/**
 * What a machine, a volume or a restored copy may bring along that is not as one would have it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import type { Failure } from "../../../src/errors/Failure.ts"
import { freePort, runAs } from "../../support/postgres.ts"
import { makeWorld, start, type Started, storageFor, type World } from "./computes.ts"

/** Only root can mount, and give files away. */
const whereRoot = (what: string, tests: () => void): void => {
  if (process.getuid?.() === 0) describe(what, tests)
}
const failureOf = (effect: Effect.Effect<unknown, unknown>) =>
  Effect.map(Effect.flip(effect), (failure) => failure as Failure & { readonly hint?: string })

describe("a machine", () => {
  it.live("without C.UTF-8 gets a cluster with C", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ bare: true })
        const initdb = path.join(world.folder, "initdb")
        fs.writeFileSync(
          initdb,
          `#!/bin/sh\ncase "$*" in *C.UTF-8*)\necho 'initdb: error: invalid locale name "C.UTF-8"' >&2\n` +
            "exit 1;; esac\n" +
            `exec ${world.install.initdb} "$@"\n`,
          { mode: 0o755 }
        )
        const storage = yield* storageFor({ ...world, install: { ...world.install, initdb } })
        const first = yield* start(world, { storage })
        const asked = "select datcollate from pg_database where datname = 'postgres'"
        assert.deepStrictEqual(yield* first.rows(asked), [["C"]])
        yield* first.stop
      })
    )
  )
})

describe("a seed cluster", () => {
  for (const [what, damage] of [
    ["that lost a segment", (folder: string, segment: string) => fs.rmSync(path.join(folder, segment))],
    [
      "with a flipped byte",
      (folder: string) => {
        const file = path.join(folder, "pgdata/base/1/1259")
        const bytes = fs.readFileSync(file)
        bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1
        fs.writeFileSync(file, bytes)
      }
    ]
  ] as const) {
    it.live(`${what} is made anew`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const world = yield* makeWorld()
          const first = yield* start(world)
          yield* first.stop
          const templates = path.join(world.directory, "templates")
          const folder = path.join(templates, fs.readdirSync(templates)[0] ?? "")
          const segment =
            fs.readdirSync(folder).find((name) => name.startsWith("0")) ?? assert.fail("there is a segment")
          damage(folder, segment)
          const second = yield* start(world, { timeline: "2".repeat(32) })
          assert.deepStrictEqual(yield* second.rows("select 1"), [["1"]])
          assert.isTrue(fs.existsSync(path.join(folder, segment)))
          yield* second.stop
        })
      )
    )
  }
})

whereRoot("a storage that root has restored", () => {
  it.live("is refused with its owner and the command", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        yield* first.stop
        execFileSync("chown", ["-R", "0:0", world.directory])
        const failure = yield* failureOf(start(world))
        assert.match(String(failure.cause), /it belongs to the user with id 0, and Postgres runs as nobody/)
        assert.strictEqual(failure.hint, `give it to that user: chown -R ${runAs?.name} ${world.directory}`)
        execFileSync("chown", ["-R", `${runAs?.uid}:${runAs?.gid}`, world.directory])
        const second = yield* start(world)
        yield* second.stop
      })
    )
  )
})

const count = (started: Started) => Effect.map(started.rows("select count(*) from t"), (rows) => Number(rows[0]?.[0]))

/** The same timeline in another folder. */
const elsewhere = Effect.fnUntraced(function* (world: World, name: string) {
  const directory = path.join(world.folder, name)
  const root = world.root.replace(world.directory, directory)
  const there = { ...world, directory, root, pgdata: `${directory}-pgdata`, port: yield* freePort }
  return { ...there, storage: yield* storageFor(there) }
})

describe("a storage that was copied while a compute ran on it", () => {
  it.live("starts beside the original, which runs on, starts again meanwhile, and is moved once it has stopped", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const first = yield* start(world)
        yield* first.rows("create table t (n int); insert into t select generate_series(1, 100)")
        const copy = yield* elsewhere(world, "copy")
        execFileSync("cp", ["-a", world.directory, copy.directory])
        const second = yield* start(copy)
        assert.strictEqual(yield* count(second), 100)
        yield* second.rows("insert into t values (101)")
        assert.strictEqual(yield* count(first), 100)
        yield* first.crash()
        const third = yield* start(world)
        assert.strictEqual(yield* count(third), 100)
        assert.strictEqual(yield* count(second), 101)
        yield* third.stop
        const moved = yield* elsewhere(world, "moved")
        fs.renameSync(world.directory, moved.directory)
        const fourth = yield* start(moved)
        assert.strictEqual(yield* count(fourth), 100)
        yield* fourth.crash()
        yield* second.crash()
      })
    )
  )
})

whereRoot("PGDATA on a mount point", () => {
  it.live("keeps the file system's own lost+found", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        fs.mkdirSync(world.pgdata)
        yield* Effect.acquireRelease(
          Effect.sync(() => execFileSync("mount", ["-t", "tmpfs", "tmpfs", world.pgdata])),
          () => Effect.sync(() => execFileSync("umount", ["-l", world.pgdata]))
        )
        fs.chmodSync(world.pgdata, 0o700)
        if (runAs !== null) fs.chownSync(world.pgdata, runAs.uid, runAs.gid)
        fs.mkdirSync(path.join(world.pgdata, "lost+found"), { mode: 0o700 })
        for (let life = 0; life < 2; life++) {
          const compute = yield* start(world)
          yield* compute.rows("create table if not exists t (n int); insert into t values (1)")
          assert.deepStrictEqual(yield* compute.rows("select count(*) from t"), [[String(life + 1)]])
          yield* life === 0 ? compute.crash() : compute.stop
          assert.isTrue(fs.existsSync(path.join(world.pgdata, "lost+found")))
        }
      })
    )
  )
})

describe("an in-place tablespace", () => {
  it.live("is kept over a crash and over a base", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ limits: { walBytes: 1 } })
        const settings = "allow_in_place_tablespaces = on"
        const first = yield* start(world, { settings })
        yield* first.rows("create tablespace near location ''")
        yield* first.rows("create table t tablespace near as select generate_series(1, 100) n")
        yield* first.crash()
        const second = yield* start(world, { settings })
        assert.deepStrictEqual(yield* second.rows("select count(*) from t"), [["100"]])
        yield* second.stop
        fs.rmSync(`${world.root}/spare.id`, { force: true })
        const third = yield* start(world, { settings })
        assert.deepStrictEqual(yield* third.rows("select count(*) from t"), [["100"]])
        yield* third.crash()
      })
    )
  )
})
