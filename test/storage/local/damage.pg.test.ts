/**
 * Damage to anything that local storage keeps: it is named, nothing damaged is served, and nothing is lost by refusing.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import type { Failure } from "../../../src/errors/Failure.ts"
import { hintOf } from "../../../src/errors/policy.ts"
import { checkStorage } from "../../../src/storage/local/check.ts"
import { makeWorld, start, type Started, until, type World } from "./computes.ts"

interface Published {
  readonly n: number
  readonly folder: string
  readonly format: number
}
const current = (world: World): Published =>
  JSON.parse(fs.readFileSync(`${world.root}/current.json`, "utf8")) as Published

const count = (started: Started) => Effect.map(started.rows("select count(*) from t"), (rows) => Number(rows[0]?.[0]))
const failureOf = (effect: Effect.Effect<unknown, unknown>) =>
  Effect.map(Effect.flip(effect), (failure) => failure as Failure)

/** Changes one bit in the middle of a file. */
const flip = (file: string, at = Math.floor(fs.statSync(file).size / 2)): void => {
  const fd = fs.openSync(file, "r+")
  const byte = Buffer.alloc(1)
  fs.readSync(fd, byte, 0, 1, at)
  fs.writeSync(fd, Buffer.from([(byte[0] ?? 0) ^ 4]), 0, 1, at)
  fs.closeSync(fd)
}

const largestIn = (folder: string): string => {
  const files = fs
    .readdirSync(folder, { recursive: true, encoding: "utf8" })
    .map((name) => path.join(folder, name))
    .filter((name) => fs.statSync(name).isFile())
  return files.reduce((a, b) => (fs.statSync(a).size >= fs.statSync(b).size ? a : b))
}

/** A timeline of 500 rows with a base of its own, killed; without a spare, so that a start needs the base. */
const killedWorld = Effect.gen(function* () {
  const world = yield* makeWorld({ limits: { walBytes: 1 } })
  const first = yield* start(world)
  yield* first.rows("create table t (n int)")
  yield* first.rows("insert into t select generate_series(1, 400)")
  yield* first.stop
  const second = yield* start(world)
  yield* second.rows("insert into t select generate_series(401, 500)")
  yield* second.crash()
  fs.rmSync(`${world.root}/spare.id`, { force: true })
  return world
})

const saved = (world: World) => {
  const copy = `${world.folder}/saved`
  execFileSync("cp", ["-a", world.root, copy])
  return () => {
    fs.rmSync(world.root, { recursive: true })
    execFileSync("cp", ["-a", copy, world.root])
  }
}

/** What ends a damage that is more than the content of a file. */
type Undo = (() => void) | void

const damages: Record<string, (file: string) => Undo> = {
  "cut in half": (file) => fs.truncateSync(file, Math.floor(fs.statSync(file).size / 2)),
  empty: (file) => fs.truncateSync(file, 0),
  garbage: (file) => fs.writeFileSync(file, "\u0001{garbage\n"),
  "with one bit changed": flip,
  "a folder": (file) => {
    fs.rmSync(file)
    fs.mkdirSync(file)
  },
  "a link to nothing": (file) => {
    fs.rmSync(file)
    fs.symlinkSync("/nonexistent/file", file)
  },
  missing: (file) => fs.rmSync(file),
  // The first page of a process's memory is none: EIO, whoever reads. Only root can mount it there.
  "on a broken disk": (file) => {
    if (process.getuid?.() !== 0) return fs.rmSync(file)
    execFileSync("mount", ["--bind", `/proc/${process.pid}/mem`, file])
    return () => void execFileSync("umount", ["-l", file])
  }
}

describe("a file of a storage", () => {
  const files: Record<string, (world: World) => string> = {
    "current.json": (world) => `${world.root}/current.json`,
    "the manifest": (world) => `${world.root}/${current(world).folder}/manifest`,
    "a relation in the base": (world) => largestIn(`${world.root}/${current(world).folder}/pgdata/base`),
    "pg_control in the base": (world) => `${world.root}/${current(world).folder}/pgdata/global/pg_control`,
    "the note of what was reached": (world) => `${world.root}/reached`,
    "the note of what is not flushed": (world) => `${world.root}/unflushed`,
    "the spare's label": (world) => `${world.root}/spare.id`,
    "the marker of a first start": (world) => `${world.root}/first`,
    "the list of data directories": (world) => `${world.root}/starts`,
    "the lock": (world) => `${world.root}/lock/flock`,
    "the claim of the last compute": (world) => {
      const claims = fs.readdirSync(`${world.root}/lock`).filter((name) => /^\d+$/.test(name))
      return `${world.root}/lock/${Math.max(...claims.map(Number))}`
    }
  }
  for (const [what, fileIn] of Object.entries(files)) {
    it.live(
      `${what}, damaged in any way, is a named failure or costs nothing`,
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const world = yield* killedWorld
            const restore = saved(world)
            for (const [kind, damage] of Object.entries(damages)) {
              const file = fileIn(world)
              if (!fs.existsSync(file)) fs.writeFileSync(file, '{"n": 1}\n')
              const undo = damage(file)
              const started = yield* Effect.result(start(world)).pipe(Effect.ensuring(Effect.sync(() => undo?.())))
              if (started._tag === "Success") {
                assert.strictEqual(yield* count(started.success), 500, `${what}: ${kind}`)
                yield* started.success.crash()
              } else {
                const failure = started.failure as Failure
                assert.include(["StorageDamaged", "FileFailed"], failure._tag, `${what}: ${kind}`)
                assert.include(failure.message, path.basename(file), kind)
                assert.isAbove(hintOf(failure).length, 10)
              }
              restore()
              fs.rmSync(`${world.root}/spare.id`, { force: true })
            }
            const last = yield* start(world)
            assert.strictEqual(yield* count(last), 500)
            yield* last.stop
          })
        ),
      240_000
    )
  }
})

describe("a flipped bit in a base", () => {
  it.live("is never served: the start is refused, and says which file", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* killedWorld
        const base = `${world.root}/${current(world).folder}/pgdata`
        const file = largestIn(`${base}/base`)
        flip(file)
        fs.rmSync(world.pgdata, { recursive: true })
        const refused = yield* failureOf(start(world))
        assert.strictEqual(refused._tag, "StorageDamaged")
        assert.include(refused.message, path.relative(base, file))
        assert.include(hintOf(refused), "compute_ctl check")
        const checked = yield* checkStorage(world.directory)
        assert.isFalse(checked.isWhole)
        assert.include(checked.lines.join("\n"), path.relative(base, file))
        // The bit turned back, everything is there.
        flip(file)
        assert.isTrue((yield* checkStorage(world.directory)).isWhole)
        const second = yield* start(world)
        assert.strictEqual(yield* count(second), 500)
        yield* second.stop
      })
    )
  )

  it.live("is found while the spare is made, and a base of the running cluster takes its place", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ lookEvery: Duration.millis(20) })
        const first = yield* start(world)
        yield* first.rows("create table t as select generate_series(1, 500) n")
        const { folder, n } = current(world)
        // Not the file that the seed cluster has as well.
        const file = largestIn(`${world.root}/${folder}/pgdata/base`)
        fs.copyFileSync(file, `${file}.new`)
        fs.renameSync(`${file}.new`, file)
        flip(file)
        const keep = yield* Effect.forkChild(first.timeline.keep)
        yield* Effect.promise(() => until("there is a new base", () => current(world).n > n, 60_000))
        yield* Effect.promise(() => until("there is a spare", () => fs.existsSync(`${world.root}/spare.id`), 60_000))
        yield* first.crash()
        yield* Fiber.interrupt(keep)
        assert.deepStrictEqual(
          (yield* checkStorage(world.directory)).lines.slice(0, 1).map((line) => line.slice(-5)),
          ["whole"]
        )
        fs.rmSync(`${world.root}/spare.id`)
        const second = yield* start(world)
        assert.strictEqual(yield* count(second), 500)
        yield* second.stop
      })
    )
  )
})

describe("compute_ctl check", () => {
  it.live("names a flipped bit, a hole and a foreign segment in the WAL, and a timeline without a base", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        for (let n = 0; n < 3; n++) {
          yield* first.rows("insert into t select generate_series(1, 1000)")
          yield* first.rows("select pg_switch_wal()")
        }
        yield* first.rows("insert into t select generate_series(1, 1000)")
        yield* first.crash()
        const whole = yield* checkStorage(world.directory)
        assert.isTrue(whole.isWhole, whole.lines.join("\n"))

        const wal = `${world.root}/wal`
        const segments = fs.readdirSync(wal).filter((name) => /^[0-9A-F]{24}$/.test(name))
        const [, second = "?", third = "?"] = segments.sort()
        const named = Effect.fnUntraced(function* (text: string) {
          const checked = yield* checkStorage(world.directory)
          assert.isFalse(checked.isWhole)
          assert.include(checked.lines.filter((line) => line.startsWith("  damaged: ")).join("\n"), text)
        })
        flip(`${wal}/${second}`, 20_000)
        yield* named(second)
        flip(`${wal}/${second}`, 20_000)
        flip(`${wal}/${second}`, 24)
        yield* named(`${second} is of another cluster`)
        flip(`${wal}/${second}`, 24)
        fs.renameSync(`${wal}/${third}`, `${world.folder}/${third}`)
        yield* named(third)
        fs.renameSync(`${world.folder}/${third}`, `${wal}/${third}`)
        assert.isTrue((yield* checkStorage(world.directory)).isWhole)
        fs.renameSync(`${world.root}/current.json`, `${world.folder}/current.json`)
        yield* named("current.json")
      })
    )
  )
})

describe("a base of an older version, which is a tar", () => {
  it.live("is read once, and replaced by one that can be verified", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* killedWorld
        const { folder, n, ...rest } = current(world)
        const tar = `base-${n}.tar`
        execFileSync("sh", [
          "-c",
          'cd "$1" && find . -mindepth 1 -printf "%P\\n" | tar --format=ustar --no-recursion -cf "$2" -T -',
          "sh",
          `${world.root}/${folder}/pgdata`,
          `${world.root}/${tar}`
        ])
        fs.rmSync(`${world.root}/${folder}`, { recursive: true })
        const {
          bytes: _bytes,
          digest: _digest,
          manifest: _manifest,
          ...facts
        } = rest as unknown as Record<string, unknown>
        const tarBytes = fs.statSync(`${world.root}/${tar}`).size
        fs.writeFileSync(`${world.root}/current.json`, JSON.stringify({ ...facts, format: 1, n, tar, tarBytes }))

        const first = yield* start(world)
        assert.strictEqual(yield* count(first), 500)
        const keep = yield* Effect.forkChild(first.timeline.keep)
        yield* Effect.promise(() => until("there is a new base", () => current(world).n > n, 60_000))
        yield* Effect.promise(() => until("the tar is gone", () => !fs.existsSync(`${world.root}/${tar}`)))
        yield* first.crash()
        yield* Fiber.interrupt(keep)
        assert.strictEqual(current(world).format, 2)
        const second = yield* start(world)
        assert.strictEqual(yield* count(second), 500)
        yield* second.stop
      })
    )
  )
})

describe("files with two names", () => {
  it.live("are shared between bases and the seed cluster alone: Postgres never writes to one", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ limits: { walBytes: 1 }, lookEvery: Duration.millis(20) })
        const linked = (folder: string) =>
          fs.readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => {
            const stat = fs.lstatSync(`${folder}/${name}`, { throwIfNoEntry: false })
            return stat?.isFile() === true && stat.nlink > 1
          })
        const first = yield* start(world)
        assert.deepStrictEqual(linked(world.pgdata), [])
        yield* first.rows("create table t as select 1 n")
        yield* first.rows("select pg_switch_wal()")
        const keep = yield* Effect.forkChild(first.timeline.keep)
        yield* Effect.promise(() => until("there is a second base", () => current(world).n > 1, 60_000))
        yield* first.rows("select pg_switch_wal()")
        yield* first.rows("insert into t values (2)")
        yield* Effect.promise(() => until("the first base is retired", () => current(world).n > 2, 60_000))
        yield* Effect.promise(() => until("there is a spare", () => fs.existsSync(`${world.root}/spare.id`), 60_000))
        yield* first.crash()
        yield* Fiber.interrupt(keep)
        const second = yield* start(world)
        assert.deepStrictEqual(linked(world.pgdata), [])
        assert.strictEqual(yield* count(second), 2)
        yield* second.stop
      })
    )
  )
})
