/**
 * A crash at every step that changes the storage: what was committed is there afterwards, and the next base works.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import { crashAt } from "../crashAt.ts"
import { makeWorld, pgTimeline, start, type Started, until, type World } from "./computes.ts"

const baseNumber = (world: World): number =>
  (JSON.parse(fs.readFileSync(`${world.root}/current.json`, "utf8")) as { n: number }).n

const count = (started: Started) => Effect.map(started.rows("select count(*) from t"), (rows) => Number(rows[0]?.[0]))

/** Small enough that every look makes a base. */
const eager = { limits: { walBytes: 1 }, lookEvery: Duration.millis(20) }

describe("a crash", () => {
  it.live.each([
    "first-marked",
    "first-wal",
    "first-copied",
    "base-files-synced",
    "base-manifest-written",
    "base-wal-synced",
    "base-folder-renamed",
    "base-current-written",
    "base-current-renamed"
  ] as const)("of a first start at %s leaves a timeline that starts", (step) =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        yield* Effect.flatMap(crashAt(step, start(world)), ({ interrupt }) => interrupt)
        const started = yield* start(world)
        yield* started.rows("create table t (n int)")
        yield* started.crash()
        const again = yield* start(world)
        assert.strictEqual(yield* count(again), 0)
        assert.isFalse(fs.existsSync(`${world.root}/first`))
        yield* again.stop
      })
    )
  )

  it.live.each([
    "copy-begun",
    "copy-half",
    "base-copied",
    "base-files-synced",
    "base-manifest-written",
    "base-wal-synced",
    "base-folder-renamed",
    "base-current-written",
    "base-current-renamed",
    "base-old-retired",
    "base-old-removed",
    "base-wal-pruned",
    "spare-begun",
    "spare-filled"
  ] as const)("while a base is made, at %s, loses nothing", (step) =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld(eager)
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        yield* first.rows("insert into t select generate_series(1, 500)")
        yield* first.rows("select pg_switch_wal()")
        yield* first.rows("insert into t select generate_series(501, 1000)")
        const kept = yield* crashAt(step, first.timeline.keep)
        yield* first.rows("insert into t select generate_series(1001, 1500)")
        yield* first.crash()
        yield* kept.interrupt

        const second = yield* start(world)
        assert.strictEqual(yield* count(second), 1500)
        assert.strictEqual(yield* pgTimeline(second), 1)
        // The next base is made as if nothing had happened, and is enough to start from.
        const before = baseNumber(world)
        const keep = yield* Effect.forkChild(second.timeline.keep)
        yield* Effect.promise(() => until("there is a new base", () => baseNumber(world) > before))
        yield* second.rows("insert into t values (1501)")
        yield* second.crash()
        yield* Fiber.interrupt(keep)
        const third = yield* start(world)
        assert.strictEqual(yield* count(third), 1501)
        yield* third.stop
      })
    )
  )

  it.live.each(["swap-begun", "swap-half-out", "swap-out", "swap-half-in", "wal-linked"] as const)(
    "of a start that swaps the spare in, at %s, loses nothing",
    (step) =>
      Effect.scoped(
        Effect.gen(function* () {
          const world = yield* makeWorld()
          const first = yield* start(world)
          yield* first.rows("create table t (n int)")
          yield* first.rows("insert into t select generate_series(1, 500)")
          yield* first.stop
          assert.isTrue(fs.existsSync(`${world.root}/spare.id`))
          yield* Effect.flatMap(crashAt(step, start(world)), ({ interrupt }) => interrupt)
          const second = yield* start(world)
          assert.strictEqual(yield* count(second), 500)
          yield* second.rows("insert into t values (501)")
          yield* second.crash()
          const third = yield* start(world)
          assert.strictEqual(yield* count(third), 501)
          yield* third.stop
        })
      )
  )

  it.live.each([
    "copy-half",
    "base-copied",
    "base-manifest-written",
    "base-folder-renamed",
    "base-current-renamed",
    "base-old-retired",
    "base-wal-pruned"
  ] as const)("while leaving, at %s, loses nothing", (step) =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ limits: { walBytes: 1 } })
        const first = yield* start(world)
        yield* first.rows("create table t (n int)")
        yield* first.rows("insert into t select generate_series(1, 500)")
        yield* Effect.flatMap(crashAt(step, first.stop), ({ interrupt }) => interrupt)
        yield* first.letGo
        const second = yield* start(world)
        assert.strictEqual(yield* count(second), 500)
        yield* second.rows("insert into t values (501)")
        yield* second.crash()
        const third = yield* start(world)
        assert.strictEqual(yield* count(third), 501)
        yield* third.stop
      })
    )
  )
})
