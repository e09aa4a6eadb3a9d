/**
 * The starts of a timeline in their file: the latest first, a bounded number, and nothing that could fail a start.
 */
import { assert, describe, it } from "@effect/vitest"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { startHistory } from "../../src/lifecycle/startHistory.ts"
import { temporaryFolder } from "../support/postgres.ts"

const startedAt = "2026-01-31T12:00:00.000Z"
const steps = [{ name: "build PGDATA", startedAt: 4, millis: 6 }]

/** One start of so many milliseconds, in a process of its own; what it learned of those before it. */
const start = (folder: string | null, millis: number) =>
  Effect.gen(function* () {
    const state = yield* ComputeState
    yield* state.note(({ metrics }) => ({
      startTime: DateTime.makeUnsafe(startedAt),
      steps,
      metrics: { ...metrics, total_startup_ms: millis }
    }))
    yield* startHistory(folder === null ? {} : { notes: { folder, owner: null } }).run
    return (yield* state.now).earlierStarts
  }).pipe(Effect.provide(Layer.fresh(ComputeState.layer)))

const millis = (starts: ReadonlyArray<{ readonly millis: number }>) => starts.map((one) => one.millis)

describe("the starts of a timeline", () => {
  it.live("are known to the next one, the latest first, with their steps", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      assert.deepStrictEqual(yield* start(folder, 100), [])
      assert.deepStrictEqual(yield* start(folder, 200), [{ startedAt, millis: 100, steps }])
      assert.deepStrictEqual(millis(yield* start(folder, 300)), [200, 100])
    }).pipe(Effect.scoped)
  )

  it.live("are ten with the present one, however many there were", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      for (let n = 1; n <= 30; n++) yield* start(folder, n)
      assert.deepStrictEqual(millis(yield* start(folder, 31)), [30, 29, 28, 27, 26, 25, 24, 23, 22])
    }).pipe(Effect.scoped)
  )

  it.live("do without a file that is damaged, cannot be written, or has no place", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      for (const damage of ["", "\0\0\0", "[{}]", '{"startedAt":1}', '[{"startedAt":"","millis":1e999,"steps":[]}]']) {
        fs.writeFileSync(`${folder}/past-starts.json`, damage)
        assert.deepStrictEqual(yield* start(folder, 1), [], damage)
        assert.deepStrictEqual(millis(yield* start(folder, 2)), [1], "it is written anew")
      }
      assert.deepStrictEqual(yield* start(`${folder}/missing`, 1), [])
      assert.deepStrictEqual(yield* start(null, 1), [])
    }).pipe(Effect.scoped)
  )
})
