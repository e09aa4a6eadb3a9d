/**
 * A timeline's first start, its next ones, and what each way of ending leaves behind; on every Postgres there is.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import { installs } from "../../support/postgres.ts"
import { lost, makeWorld, pgTimeline, start, until, type World, writers } from "./computes.ts"

const baseNumber = (world: World): number =>
  (JSON.parse(fs.readFileSync(`${world.root}/current.json`, "utf8")) as { n: number }).n

const show = (label: string, started: { readonly millis: Record<string, number> }) =>
  process.env["MEASURE"] === undefined
    ? undefined
    : process.stderr.write(
        `${label}: ${Object.entries(started.millis)
          .map(([name, ms]) => `${name} ${ms.toFixed(0)}`)
          .join(", ")}\n`
      )

describe("local storage", () => {
  for (const { major } of installs) {
    it.live(`Postgres ${major} starts, crashes, stops and starts again with everything`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const world = yield* makeWorld({ major })
          const first = yield* start(world)
          show(`${major} first`, first)
          yield* first.rows("create table t (n int)")
          yield* first.rows("insert into t select generate_series(1, 1000)")
          yield* first.crash()

          const second = yield* start(world)
          show(`${major} after a crash`, second)
          assert.deepStrictEqual(yield* second.rows("select count(*) from t"), [["1000"]])
          assert.strictEqual(yield* pgTimeline(second), 1)
          yield* second.rows("insert into t values (1001)")
          yield* second.stop
          assert.isTrue(fs.existsSync(`${world.root}/spare.id`))

          const third = yield* start(world)
          show(`${major} after a stop`, third)
          assert.deepStrictEqual(yield* third.rows("select count(*) from t"), [["1001"]])
          assert.strictEqual(yield* pgTimeline(third), 1)
          yield* third.rows("insert into t values (1002)")
          yield* third.crash()
          const fourth = yield* start(world)
          show(`${major} after a swap and a crash`, fourth)
          assert.deepStrictEqual(yield* fourth.rows("select count(*) from t"), [["1002"]])
          yield* fourth.stop
        })
      )
    )
  }

  it.live(
    "survives kill -9 under load, again and again, on one Postgres timeline",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const cycles = Number(process.env["CYCLES"] ?? 8)
          const world = yield* makeWorld({ major: Number(process.env["MAJOR"] ?? 17) })
          const load = writers(world, 4)
          const survivors: Array<Fiber.Fiber<void>> = []
          for (let cycle = 0; cycle < cycles; cycle++) {
            const started = yield* start(world)
            show(`cycle ${cycle}`, started)
            if (cycle === 0) yield* started.rows("create table acks (writer int, n int, filler text)")
            load.end()
            yield* Effect.forEach(survivors.splice(0), Fiber.join)
            assert.strictEqual(yield* lost(started, load.acknowledged), 0, `cycle ${cycle}`)
            assert.strictEqual(yield* pgTimeline(started), 1)
            const before = load.acknowledged.length
            const writing = yield* Effect.forkChild(load.run(cycle))
            yield* Effect.promise(() =>
              until("enough was written", () => load.acknowledged.length - before > 200 + cycle * 37)
            )
            // With only the postmaster gone the clients go on, until the next start has fenced them.
            yield* started.crash(cycle % 2 === 0 ? "group" : "postmaster")
            survivors.push(writing)
          }
          const last = yield* start(world)
          load.end()
          yield* Effect.forEach(survivors, Fiber.join)
          assert.strictEqual(yield* lost(last, load.acknowledged), 0)
          if (process.env["MEASURE"] !== undefined) {
            process.stderr.write(
              `${cycles} cycles, ${load.acknowledged.length} rows, 0 lost, ` +
                `Postgres timeline ${yield* pgTimeline(last)}\n`
            )
          }
          yield* last.stop
        })
      ),
    600_000
  )

  it.live(
    "survives every kind of end in turn, while bases are made all the time",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const cycles = Number(process.env["CYCLES"] ?? 8)
          const limits = { walBytes: 1024 * 1024 }
          const world = yield* makeWorld({
            major: Number(process.env["MAJOR"] ?? 17),
            limits,
            lookEvery: Duration.millis(20)
          })
          const load = writers(world, 4)
          let background: ReadonlyArray<Fiber.Fiber<unknown, unknown>> = []
          for (let cycle = 0; cycle <= cycles; cycle++) {
            const started = yield* start(world)
            show(`cycle ${cycle}, base ${baseNumber(world)}`, started)
            load.end()
            yield* Effect.forEach(background, Fiber.interrupt)
            if (cycle === 0) yield* started.rows("create table acks (writer int, n int, filler text)")
            assert.strictEqual(yield* lost(started, load.acknowledged), 0, `cycle ${cycle}`)
            assert.strictEqual(yield* pgTimeline(started), 1)
            const before = load.acknowledged.length
            background = [yield* Effect.forkChild(load.run(cycle)), yield* Effect.forkChild(started.timeline.keep)]
            yield* Effect.promise(() =>
              until("enough was written", () => load.acknowledged.length - before > 300 + ((cycle * 101) % 700))
            )
            const end = cycle === cycles ? 3 : cycle % 5
            // A backend that still commits while bases are no longer made; the program gone before Postgres; a clean
            // stop.
            if (end === 0) yield* started.crash("group")
            if (end === 1) yield* started.crash("postmaster")
            if (end === 2) yield* started.letGo
            // The program's own upkeep ends with the program, wherever it is; clients go on until they are fenced.
            yield* Effect.forEach(background.slice(1), Fiber.interrupt)
            if (end >= 3) yield* started.stop
            if (end === 4) fs.rmSync(world.pgdata, { recursive: true })
          }
          const last = yield* start(world)
          assert.strictEqual(yield* lost(last, load.acknowledged), 0)
          assert.isAbove(baseNumber(world), 1)
          if (process.env["MEASURE"] !== undefined) {
            process.stderr.write(
              `${cycles} mixed cycles, ${load.acknowledged.length} rows, ${baseNumber(world)} bases, 0 lost\n`
            )
          }
          yield* last.stop
        })
      ),
    600_000
  )
})
