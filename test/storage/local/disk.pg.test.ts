/**
 * A disk that is full, on a file system as small as that: what can be spared goes, and a start succeeds again.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import type { Failure } from "../../../src/errors/Failure.ts"
import { useUp } from "../../support/fullDisk.ts"
import { runAs } from "../../support/postgres.ts"
import { archiving, makeWorld, start, storageFor, until, type World, type WorldOptions } from "./computes.ts"
import { where } from "./containers.ts"

/** Only root can mount, and give files away. */
const whereRoot = (what: string, tests: () => void): void => {
  if (process.getuid?.() === 0) describe(what, tests)
}
const eager = { lookEvery: Duration.millis(50) } as const

const tmpfs = (mount: string) => (disk: string) => execFileSync("mount", ["-t", "tmpfs", "-o", mount, "tmpfs", disk])

/** A world whose storage and PGDATA share a file system of their own, or `below` it. */
const smallWorld = Effect.fnUntraced(function* (
  mount: (disk: string) => unknown,
  options: WorldOptions & { readonly below?: string } = {}
) {
  const world = yield* makeWorld(options)
  const disk = path.join(world.folder, "disk")
  fs.mkdirSync(disk)
  yield* Effect.acquireRelease(
    Effect.sync(() => mount(disk)),
    () => Effect.sync(() => execFileSync("umount", ["-l", disk]))
  )
  const all = path.join(disk, options.below ?? "")
  fs.chmodSync(all, 0o777)
  const templates = path.join(world.directory, "templates")
  const directory = path.join(all, "storage")
  fs.mkdirSync(directory)
  if (runAs !== null) fs.chownSync(directory, runAs.uid, runAs.gid)
  // The seed cluster is not what the disk is full of.
  if (fs.existsSync(templates)) fs.symlinkSync(templates, path.join(directory, "templates"))
  const root = world.root.replace(world.directory, directory)
  const small = { ...world, all, directory, root, pgdata: path.join(all, "pgdata") }
  return { ...small, storage: yield* storageFor(small, options) }
})

/** The first start makes the seed cluster, which later worlds are given. */
const warmUp = Effect.scoped(Effect.flatMap(makeWorld(), (world) => Effect.flatMap(start(world), ({ stop }) => stop)))

const fill = (file: string, leave: number): void => {
  const { bavail, bsize } = fs.statfsSync(path.dirname(file))
  execFileSync("fallocate", ["-l", String(Math.max(bsize, bavail * bsize - leave)), file])
}

const trashIn = (world: World) => fs.readdirSync(world.root).filter((name) => name.startsWith("trash-"))

/** As in a storage that had to give it up before. */
const dropReserve = (world: World): void => {
  for (const file of fs.globSync(`${world.root}/reserve-*`)) fs.rmSync(file)
}

const throwAway = (world: World, megabytes: number): void => {
  const trash = path.join(world.root, "trash-7")
  fs.mkdirSync(trash, { recursive: true })
  execFileSync("fallocate", ["-l", `${megabytes}M`, path.join(trash, "old")])
}

whereRoot("a full disk", () => {
  it.live("gives up trash and spare, and then starts with everything", () =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* warmUp
        const world = yield* smallWorld(tmpfs("size=300m"))
        const first = yield* start(world)
        yield* first.rows("create table t (n int); insert into t select generate_series(1, 1000)")
        yield* archiving(first)
        yield* Effect.promise(() => until("there is a spare", () => fs.existsSync(`${world.root}/spare.id`)))
        yield* first.crash()
        throwAway(world, 60)
        dropReserve(world)
        useUp(path.join(world.all, "other"))
        assert.throws(() => fs.writeFileSync(path.join(world.root, "lock", "small"), "x"))
        const second = yield* start(world)
        assert.deepStrictEqual(yield* second.rows("select count(*) from t"), [["1000"]])
        assert.deepStrictEqual(trashIn(world), [])
        yield* second.rows("insert into t select generate_series(1, 1000)")
        yield* second.crash()
        const third = yield* start(world)
        assert.deepStrictEqual(yield* third.rows("select count(*) from t"), [["2000"]])
        yield* third.stop
      })
    )
  )

  it.live("also where it is inodes that are used up; not while another compute has them", () =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* warmUp
        const world = yield* smallWorld(tmpfs("size=600m,nr_inodes=5000"))
        const first = yield* start(world)
        yield* first.rows("create table t (n int); insert into t select generate_series(1, 1000)")
        const trash = path.join(world.root, "trash-7")
        fs.mkdirSync(trash)
        dropReserve(world)
        let made = 0
        try {
          for (; ; made++) fs.writeFileSync(path.join(trash, String(made)), "")
        } catch {
          // No more names.
        }
        assert.isAbove(made, 1000)
        const busy = (yield* Effect.flip(start(world))) as Failure
        assert.strictEqual(busy._tag, "TimelineBusy")
        assert.strictEqual(fs.readdirSync(trash).length, made)
        yield* first.crash()
        const second = yield* start(world)
        assert.deepStrictEqual(yield* second.rows("select count(*) from t"), [["1000"]])
        yield* second.stop
      })
    )
  )

  it.live("names what may be deleted when nothing is left to give up", () =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* warmUp
        const world = yield* smallWorld(tmpfs("size=200m"))
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        yield* first.crash()
        fs.rmSync(world.pgdata, { recursive: true })
        fs.mkdirSync(world.pgdata, { mode: 0o700 })
        if (runAs !== null) fs.chownSync(world.pgdata, runAs.uid, runAs.gid)
        fill(path.join(world.folder, "disk", "other"), 256 * 1024)
        const failure = yield* Effect.flip(start(world))
        assert.match(String((failure as { readonly hint?: string }).hint), /may be deleted while no compute runs/)
        fs.rmSync(path.join(world.folder, "disk", "other"))
        const second = yield* start(world)
        yield* second.stop
      })
    )
  )

  it.live("gets a new base where the spare's room is enough for it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* warmUp
        const options = { ...eager, limits: { walBytes: 1024 * 1024 } }
        const world = yield* smallWorld(tmpfs("size=300m"), options)
        const first = yield* start(world)
        const kept = yield* Effect.forkChild(first.timeline.keep)
        yield* Effect.promise(() => until("there is a spare", () => fs.existsSync(`${world.root}/spare.id`)))
        const number = () => (JSON.parse(fs.readFileSync(`${world.root}/current.json`, "utf8")) as { n: number }).n
        const before = number()
        fill(path.join(world.folder, "disk", "other"), 60 * 1024 * 1024)
        yield* first.rows("create table t as select n, repeat('x', 500) x from generate_series(1, 20000) n")
        yield* Effect.raceFirst(
          Effect.promise(() => until("a base was made", () => number() > before)),
          Fiber.join(kept)
        )
        yield* first.crash()
        // The program that made it has died as well.
        yield* Fiber.interrupt(kept)
        const second = yield* start(world)
        assert.deepStrictEqual(yield* second.rows("select count(*) from t"), [["20000"]])
        yield* second.crash()
      })
    )
  )
})

describe("trash", () => {
  it.live("does not pile up over short clean lives", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        let most = 0
        for (let life = 0; life < 12; life++) {
          const compute = yield* start(world)
          yield* compute.stop
          most = Math.max(most, trashIn(world).length)
        }
        assert.isAtMost(most, 3)
      })
    )
  )
})

describe("WAL in a crash loop", () => {
  it.live("is bounded: a base that is overdue is made before users are let in", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ limits: { walBytes: 2 * 1024 * 1024 } })
        const number = () => (JSON.parse(fs.readFileSync(`${world.root}/current.json`, "utf8")) as { n: number }).n
        for (let life = 0; life < 6; life++) {
          // Nobody keeps the storage: the lives are too short for it.
          const compute = yield* start(world)
          yield* compute.rows(`create table t${life} as select repeat('x', 500) x from generate_series(1, 20000) n`)
          yield* compute.crash()
        }
        assert.isAtLeast(number(), 3)
        assert.isAtMost(fs.readdirSync(`${world.root}/wal`).length, 6)
        const last = yield* start(world)
        assert.deepStrictEqual(yield* last.rows("select count(*) from t5"), [["20000"]])
        yield* last.stop
      })
    )
  )
})

const makeQuota = `
truncate -s 1G "$1.image"
mkfs.btrfs -q "$1.image"
mount -o loop "$1.image" "$1"
btrfs quota enable "$1"
btrfs subvolume create "$1/limited"
btrfs qgroup limit 200M "$1/limited"
`
const quota = (disk: string) => execFileSync("sh", ["-ec", makeQuota, "sh", disk], { stdio: "pipe" })

whereRoot("a quota that is used up", () => {
  it.live("is a full disk, of which the file system itself says nothing", () =>
    where(
      ["sh", "-c", "command -v mkfs.btrfs"],
      Effect.scoped(
        Effect.gen(function* () {
          yield* warmUp
          const world = yield* smallWorld(quota, { below: "limited" })
          const first = yield* start(world)
          yield* first.rows("create table t (n int); insert into t select generate_series(1, 1000)")
          yield* first.crash()
          throwAway(world, 60)
          dropReserve(world)
          useUp(path.join(world.all, "other"))
          const { bavail, bsize } = fs.statfsSync(world.root)
          assert.isAbove(bavail * bsize, 500e6)
          const second = yield* start(world)
          assert.deepStrictEqual(yield* second.rows("select count(*) from t"), [["1000"]])
          assert.deepStrictEqual(trashIn(world), [])
          yield* second.stop
        })
      )
    )
  )
})
