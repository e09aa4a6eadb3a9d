/**
 * The ways in which data was lost, or nearly, while this storage was being thought out: each is a scenario here.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import * as path from "node:path"
import type { Failure } from "../../../src/errors/Failure.ts"
import { makeCluster, temporaryFolder } from "../../support/postgres.ts"
import {
  archiving,
  killAll,
  makeWorld,
  pgTimeline,
  processesIn,
  start,
  type Started,
  storageFor,
  until,
  wireTo,
  type World
} from "./computes.ts"

const count = (started: Started) => Effect.map(started.rows("select count(*) from t"), (rows) => Number(rows[0]?.[0]))
const baseNumber = (world: World): number =>
  (JSON.parse(fs.readFileSync(`${world.root}/current.json`, "utf8")) as { n: number }).n
const failureOf = (effect: Effect.Effect<unknown, unknown>) =>
  Effect.map(Effect.flip(effect), (failure) => failure as Failure & { readonly hint?: string })
const segments = (world: World) =>
  fs
    .readdirSync(`${world.root}/wal`)
    .filter((name) => /^[0-9A-F]{24}$/.test(name))
    .sort()

describe("fencing", () => {
  it.live("a busy backend that outlives its postmaster is ended before a start elsewhere", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        const wire = yield* wireTo(world)
        const busy = yield* Effect.forkChild(
          Effect.exit(wire.simple("do $$ begin loop insert into t values (1); commit; end loop; end $$"))
        )
        yield* Effect.promise(async () => {
          const size = () => fs.statSync(`${world.root}/wal/${segments(world).at(-1)}`).mtimeMs
          const before = size()
          await until("it writes", () => size() > before)
        })
        yield* first.crash("postmaster")
        const survivors = processesIn(world.pgdata)
        assert.isNotEmpty(survivors)

        const elsewhere = path.join(world.folder, "elsewhere")
        const second = yield* start(world, { pgdata: elsewhere })
        assert.isEmpty(processesIn(world.pgdata))
        yield* Fiber.join(busy)
        const rows = yield* count(second)
        assert.isAbove(rows, 0)
        assert.strictEqual(yield* pgTimeline(second), 1)
        yield* second.crash()
        const third = yield* start(world)
        assert.strictEqual(yield* count(third), rows)
        yield* third.stop
      })
    )
  )

  it.live("also when its PGDATA was removed under it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        yield* first.letGo
        fs.rmSync(world.pgdata, { recursive: true })
        assert.isNotEmpty(processesIn(world.pgdata))
        const second = yield* start(world, { pgdata: path.join(world.folder, "elsewhere") })
        assert.isEmpty(processesIn(world.pgdata))
        assert.strictEqual(yield* count(second), 0)
        yield* second.stop
      })
    )
  )

  it.live("a Postgres of a live compute in the same PGDATA is left alone; of a dead one, ended", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const other = "2".repeat(32)
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        const busy = yield* failureOf(
          Effect.scoped(Effect.flatMap(storageFor(world), (storage) => start(world, { timeline: other, storage })))
        )
        assert.strictEqual(busy._tag, "TimelineBusy")
        assert.strictEqual(yield* count(first), 0)
        yield* first.rows("insert into t values (1)")
        yield* first.letGo
        const second = yield* start(world, { timeline: other })
        assert.throws(() => process.kill(first.pid, 0))
        yield* second.stop
        const third = yield* start(world)
        assert.strictEqual(yield* count(third), 1)
        yield* third.stop
      })
    )
  )

  it.live("a second compute on the timeline is kept out", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const first = yield* start(world)
        const busy = yield* failureOf(start(world, { pgdata: path.join(world.folder, "elsewhere") }))
        assert.strictEqual(busy._tag, "TimelineBusy")
        assert.include(busy.message, String(process.pid))
        yield* first.rows("select 1")
        yield* first.stop
      })
    )
  )
})

describe("a base that does not match", () => {
  it.live("a cold base is replayed, whatever its pg_control says", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ limits: { walBytes: 1 } })
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        yield* first.stop
        assert.strictEqual(baseNumber(world), 2)
        const second = yield* start(world)
        yield* second.rows("insert into t select generate_series(1, 100)")
        yield* second.crash()
        // Without the spare, the tar of the cleanly stopped cluster is what a start has.
        fs.rmSync(`${world.root}/spare.id`, { force: true })
        const third = yield* start(world)
        assert.strictEqual(yield* count(third), 100)
        yield* third.stop
      })
    )
  )

  it.live("a spare from before the machine started again is not used", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        yield* first.rows("insert into t select generate_series(1, 100)")
        yield* first.stop
        const id = JSON.parse(fs.readFileSync(`${world.root}/spare.id`, "utf8")) as object
        fs.writeFileSync(`${world.root}/spare.id`, JSON.stringify({ ...id, bootId: "another" }))
        // What a power cut does to files that were never flushed.
        for (const name of fs.readdirSync(`${world.root}/spare/base/5`))
          fs.truncateSync(`${world.root}/spare/base/5/${name}`, 0)
        const second = yield* start(world)
        assert.strictEqual(yield* count(second), 100)
        yield* second.stop
      })
    )
  )

  it.live("PGDATA on another filesystem works, without a spare", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ limits: { walBytes: 1 } })
        const pgdata = yield* Effect.acquireRelease(
          Effect.sync(() => {
            const folder = fs.mkdtempSync("/dev/shm/compute-ctl-")
            // The user Postgres runs as must be able to pass.
            fs.chmodSync(folder, 0o755)
            return folder
          }),
          (folder) =>
            Effect.sync(() => {
              killAll(folder)
              fs.rmSync(folder, { recursive: true, force: true })
            })
        )
        const here = { ...world, pgdata: path.join(pgdata, "pgdata") }
        const first = yield* start(here)
        yield* first.rows("create table t (n int)")
        yield* first.crash()
        const second = yield* start(here)
        assert.strictEqual(yield* count(second), 0)
        yield* second.stop
        const third = yield* start(here)
        yield* third.rows("insert into t values (1)")
        yield* third.crash()
        const home = yield* start(world)
        assert.strictEqual(yield* count(home), 1)
        yield* home.stop
      })
    )
  )

  it.live("a cluster that is not ours is not touched", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const foreign = yield* makeCluster()
        const before = fs.readdirSync(foreign.pgdata)
        const refused = yield* failureOf(start(world, { pgdata: foreign.pgdata }))
        assert.strictEqual(refused._tag, "StorageDamaged")
        assert.include(refused.message, foreign.pgdata)
        assert.deepStrictEqual(fs.readdirSync(foreign.pgdata), before)
      })
    )
  )

  it.live("another major version is refused with a way out", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const first = yield* start(world)
        yield* first.stop
        const storage = yield* storageFor({ ...world, install: { ...world.install, major: 18 } })
        const refused = yield* failureOf(start(world, { storage }))
        assert.strictEqual(refused._tag, "StorageDamaged")
        assert.include(`${refused.message} ${refused.hint}`, "Postgres 17")
      })
    )
  )
})

describe("missing WAL", () => {
  it.live("is refused, wherever the hole is, and nothing is touched", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ lookEvery: Duration.millis(20) })
        const first = yield* start(world)
        yield* archiving(first)
        yield* first.rows("create table t (n int)")
        for (let n = 0; n < 3; n++) {
          yield* first.rows("insert into t values (1)")
          yield* first.rows("select pg_switch_wal()")
        }
        yield* first.rows("insert into t values (1)")
        const [[at] = []] = yield* first.rows("select pg_walfile_name(pg_current_wal_lsn())")
        yield* Effect.promise(() =>
          until(
            "the newest segment is noted",
            () =>
              fs.existsSync(`${world.root}/reached`) &&
              fs.readFileSync(`${world.root}/reached`, "utf8").includes(at ?? "?")
          )
        )
        yield* first.crash()
        const wal = `${world.root}/wal`
        const written = segments(world).filter((name) => name <= (at ?? ""))
        assert.isAtLeast(written.length, 4)
        for (const name of written) {
          // The newest takes those made in advance with it: a hole behind it is what shows otherwise.
          const gone = name === at ? segments(world).filter((one) => one >= name) : [name]
          for (const one of gone) fs.renameSync(`${wal}/${one}`, `${world.folder}/${one}`)
          const refused = yield* failureOf(start(world))
          assert.strictEqual(refused._tag, "StorageDamaged")
          assert.include(refused.message, name)
          assert.isString(refused.hint)
          for (const one of gone) fs.renameSync(`${world.folder}/${one}`, `${wal}/${one}`)
        }
        fs.renameSync(`${world.root}/current.json`, `${world.folder}/current.json`)
        assert.include((yield* failureOf(start(world))).message, "current.json")
        fs.renameSync(`${world.folder}/current.json`, `${world.root}/current.json`)
        const second = yield* start(world)
        assert.strictEqual(yield* count(second), 4)
        yield* second.stop
      })
    )
  )

  it.live("is expected after a power cut where fsync was off, and only there", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ durability: "process" })
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        const written: Array<string> = []
        for (let n = 0; n < 4; n++) {
          yield* first.rows("insert into t values (1)")
          written.push((yield* first.rows("select pg_walfile_name(pg_current_wal_lsn())"))[0]?.[0] ?? "?")
          yield* first.rows("select pg_switch_wal()")
        }
        yield* first.crash()
        const third = written[2] ?? "?"
        fs.truncateSync(`${world.root}/wal/${third}`, 0)
        const refused = yield* failureOf(start(world))
        assert.include(refused.message, third)

        // As if the machine had started again since.
        const note = `${world.root}/unflushed`
        fs.writeFileSync(
          note,
          JSON.stringify({ ...(JSON.parse(fs.readFileSync(note, "utf8")) as object), bootId: "another" })
        )
        const second = yield* start(world)
        assert.strictEqual(yield* count(second), 2)
        assert.include(fs.readdirSync(`${world.root}/aside-1`), third)
        yield* second.rows("insert into t values (1)")
        yield* second.crash()
        const last = yield* start(world)
        assert.strictEqual(yield* count(last), 3)
        yield* last.crash()

        // What was flushed before the start that lost its WAL stays promised.
        fs.rmSync(`${world.root}/wal/${written[1]}`)
        fs.writeFileSync(
          note,
          JSON.stringify({ ...(JSON.parse(fs.readFileSync(note, "utf8")) as object), bootId: "another" })
        )
        assert.include((yield* failureOf(start(world))).message, written[1] ?? "?")
      })
    )
  )
})

describe("settings", () => {
  it.live.each([
    "wal_keep_size = 0",
    "full_page_writes = off",
    "wal_recycle = on",
    "fsync = off",
    "wal_level = minimal\nmax_wal_senders = 0"
  ])("a start with %s is refused", (setting) =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const refused = yield* failureOf(start(world, { settings: setting }))
        assert.strictEqual(refused._tag, "NotSupported")
        assert.include(refused.message, setting.split(" ")[0] ?? "?")
      })
    )
  )

  it.live("ALTER SYSTEM cannot turn fsync or WAL retention off for long, nor across a start", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ lookEvery: Duration.millis(20) })
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        yield* archiving(first)
        yield* first.rows("alter system set wal_keep_size = 0")
        yield* first.rows("alter system set fsync = off")
        yield* first.rows("select pg_reload_conf()")
        const ask = first.rows(
          "select name, setting from pg_settings where name in ('fsync', 'wal_keep_size') order by name"
        )
        const good = [
          ["fsync", "on"],
          ["wal_keep_size", "2147483647"]
        ]
        for (let n = 0, now: unknown = null; JSON.stringify(now) !== JSON.stringify(good); n++) {
          assert.isBelow(n, 500)
          yield* first.rows("insert into t values (1)")
          now = yield* ask
        }
        yield* first.rows("alter system set fsync = off")
        yield* first.crash()
        const second = yield* start(world)
        assert.deepStrictEqual(yield* second.rows("show fsync"), [["on"]])
        yield* second.stop
      })
    )
  )

  it.live("with durability `process` fsync stays off and a kill loses nothing", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ durability: "process" })
        const first = yield* start(world)
        assert.deepStrictEqual(yield* first.rows("show fsync"), [["off"]])
        yield* first.rows("create table t (n int)")
        yield* first.rows("insert into t values (1)")
        yield* first.crash()
        const second = yield* start(world)
        assert.strictEqual(yield* count(second), 1)
        yield* second.stop
      })
    )
  )
})

describe("first starts", () => {
  it.live("at the same time share one seed cluster and get identities of their own", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ bare: true })
        const other = yield* makeWorld({ bare: true })
        // The second world has a port and a PGDATA of its own, in the first one's storage.
        const storage = yield* storageFor({ ...other, directory: world.directory })
        const both = yield* Effect.all([start(world), start(other, { storage, timeline: "2".repeat(32) })], {
          concurrency: 2
        })
        const ids = yield* Effect.forEach(both, (one) => one.rows("select system_identifier from pg_control_system()"))
        assert.notDeepEqual(ids[0], ids[1])
        assert.lengthOf(fs.readdirSync(`${world.directory}/templates`), 1)
        for (const one of both) yield* one.stop
        assert.isTrue(fs.existsSync(yield* temporaryFolder))
      })
    )
  )
})
