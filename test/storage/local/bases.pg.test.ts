/**
 * New bases while clients write: nothing is lost, old WAL goes, needed WAL stays, and the program stays responsive.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { installs } from "../../support/postgres.ts"
import { archiving, lost, makeWorld, pgTimeline, start, until, wireTo, type World, writers } from "./computes.ts"

interface Published {
  readonly n: number
  readonly folder: string
  readonly label: string
}
const current = (world: World): Published =>
  JSON.parse(fs.readFileSync(`${world.root}/current.json`, "utf8")) as Published
const segments = (world: World) =>
  fs
    .readdirSync(`${world.root}/wal`)
    .filter((name) => /^[0-9A-F]{24}$/.test(name))
    .sort()
const startFile = (world: World) => /file ([0-9A-F]{24})/.exec(current(world).label)?.[1] ?? "?"
const measure = process.env["MEASURE"] !== undefined

describe("a base of the running cluster", () => {
  for (const { major } of installs) {
    it.live(`Postgres ${major}: made under load, starts with everything, and old WAL is gone`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const world = yield* makeWorld({
            major,
            limits: { walBytes: 4 * 1024 * 1024 },
            lookEvery: Duration.millis(50)
          })
          const load = writers(world, 4)
          const first = yield* start(world)
          yield* first.rows("create table acks (writer int, n int, filler text)")
          const writing = yield* Effect.forkChild(load.run(0))
          const delay = monitorEventLoopDelay({ resolution: 1 })
          delay.enable()
          const began = performance.now()
          const keep = yield* Effect.forkChild(first.timeline.keep)
          yield* Effect.promise(() => until("two bases were made", () => current(world).n >= 3, 60_000))
          delay.disable()
          if (measure)
            process.stderr.write(
              `${major}: ${current(world).n - 1} bases in ${(performance.now() - began).toFixed(0)} ms, ` +
                `loop delay p99 ${(delay.percentile(99) / 1e6).toFixed(0)} max ${(delay.max / 1e6).toFixed(0)} ms\n`
            )
          yield* first.crash()
          yield* Fiber.interrupt(keep)
          load.end()
          yield* Fiber.join(writing)

          const second = yield* start(world)
          if (measure)
            process.stderr.write(
              `${major}: ${load.acknowledged.length} rows, total ${second.millis.total.toFixed(0)} ms\n`
            )
          assert.strictEqual(yield* lost(second, load.acknowledged), 0)
          assert.strictEqual(yield* pgTimeline(second), 1)
          // Removed up to the segment in which the base begins, which stays; one base, the published one.
          assert.strictEqual(segments(world)[0], startFile(world))
          assert.deepStrictEqual(
            fs.readdirSync(world.root).filter((name) => name.startsWith("base-")),
            [current(world).folder]
          )
          yield* second.stop
        })
      )
    )
  }

  it.live("comes after many databases, and the next start does not replay them", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ lookEvery: Duration.millis(20) })
        const first = yield* start(world)
        yield* archiving(first)
        const wire = yield* wireTo(world)
        for (let n = 0; n < 10; n++) yield* wire.simple(`create database d${n} strategy file_copy`)
        yield* Effect.promise(() => until("there is a new base", () => current(world).n > 1))
        yield* first.crash()
        const second = yield* start(world)
        assert.deepStrictEqual(yield* second.rows("select count(*) from pg_database where datname like 'd_'"), [["10"]])
        yield* second.stop
      })
    )
  )

  it.live("a slot that still reads keeps its WAL; a tablespace elsewhere is refused, and its data survives", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ limits: { walBytes: 1024 * 1024 }, lookEvery: Duration.millis(20) })
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        yield* first.rows("select pg_create_physical_replication_slot('s', true)")
        const [[held] = []] = yield* first.rows("select pg_walfile_name(restart_lsn) from pg_replication_slots")
        for (let n = 0; n < 2; n++) {
          yield* first.rows("insert into t select generate_series(1, 100)")
          yield* first.rows("select pg_switch_wal()")
        }
        const keep = yield* Effect.forkChild(first.timeline.keep)
        yield* Effect.promise(() => until("there is a new base", () => current(world).n > 1))
        yield* Effect.promise(() => until("older WAL was looked at", () => segments(world)[0] === held))
        assert.isBelow((held ?? "").localeCompare(startFile(world)), 0)
        yield* Fiber.interrupt(keep)

        const place = `${world.folder}/place`
        fs.mkdirSync(place, { mode: 0o700 })
        const owner = fs.statSync(world.pgdata)
        fs.chownSync(place, owner.uid, owner.gid)
        yield* first.rows(`create tablespace elsewhere location '${place}'`)
        yield* first.rows("create table far tablespace elsewhere as select generate_series(1, 1000) n")
        yield* first.rows("select pg_switch_wal()")
        const before = current(world).n
        const again = yield* Effect.forkChild(first.timeline.keep)
        yield* Effect.promise(() => until("the copy was refused", () => fs.existsSync(`${world.root}/spare.id`)))
        yield* first.rows("insert into far values (1001)")
        yield* first.crash()
        yield* Fiber.interrupt(again)
        assert.strictEqual(current(world).n, before)
        const second = yield* start(world)
        assert.deepStrictEqual(yield* second.rows("select count(*) from far"), [["1001"]])
        yield* second.stop
        assert.strictEqual(current(world).n, before)
        const third = yield* start(world)
        assert.deepStrictEqual(yield* third.rows("select count(*) from far"), [["1001"]])
        yield* third.stop
      })
    )
  )
})
