/**
 * When the map is saved, on a clock of our own: by the spec of that time, and only when the cache is worth it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as TestClock from "effect/testing/TestClock"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import type { PrewarmState } from "../../src/compute/prewarm.ts"
import { Lfc, lfcActor } from "../../src/lfc/Lfc.ts"
import { emptySpec } from "../support/specs.ts"

const setUp = Effect.gen(function* () {
  const saved = yield* Ref.make(0)
  const prewarm = yield* Ref.make<PrewarmState>({ status: "not_prewarmed" })
  const lfc = Lfc.of({
    prewarm: () => Effect.void,
    prewarmState: Ref.get(prewarm),
    cancelPrewarm: Effect.void,
    offload: Ref.update(saved, (count) => count + 1),
    offloadState: Effect.succeed({ status: "not_offloaded" })
  })
  const context = yield* Layer.build(Layer.mergeAll(Layer.succeed(Lfc, lfc), Layer.fresh(ComputeState.layer)))
  const state = yield* Effect.provide(ComputeState, context)
  yield* state.send("StartBegan")
  yield* state.send("PostgresReady", { spec: emptySpec })
  const offloading = yield* Effect.forkChild(Effect.provide(lfcActor.run, context), { startImmediately: true })
  const every = (seconds: number | null) => state.note({ spec: { ...emptySpec, offloadLfcIntervalSeconds: seconds } })
  /** Lets the actor see what was noted before time goes on. */
  const passes = (seconds: number) =>
    Effect.andThen(
      Effect.forEach(Array.from({ length: 20 }), () => Effect.yieldNow),
      TestClock.adjust(`${seconds} seconds`)
    )
  return { saved: Ref.get(saved), prewarm, state, offloading, every, passes }
})

describe("the periodic offload", () => {
  it.effect("waits an interval first, then saves every interval, and follows the spec", () =>
    Effect.gen(function* () {
      const { every, offloading, passes, saved } = yield* setUp
      yield* passes(10_000)
      assert.strictEqual(yield* saved, 0)
      yield* every(60)
      yield* passes(59)
      assert.strictEqual(yield* saved, 0)
      yield* passes(1)
      assert.strictEqual(yield* saved, 1)
      yield* passes(120)
      assert.strictEqual(yield* saved, 3)
      yield* every(5)
      yield* passes(10)
      assert.strictEqual(yield* saved, 5)
      yield* every(null)
      yield* passes(1000)
      assert.strictEqual(yield* saved, 5)
      yield* Fiber.interrupt(offloading)
    }).pipe(Effect.scoped)
  )

  it.effect("does not save a cache that is half loaded, or of a compute that is not running", () =>
    Effect.gen(function* () {
      const { every, passes, prewarm, saved, state } = yield* setUp
      yield* every(10)
      for (const status of ["prewarming", "cancelled"] as const) {
        yield* Ref.set(prewarm, { status })
        yield* passes(30)
      }
      yield* Ref.set(prewarm, { status: "failed", error: "x" })
      yield* passes(30)
      assert.strictEqual(yield* saved, 0)
      yield* Ref.set(prewarm, { status: "skipped" })
      yield* passes(10)
      assert.strictEqual(yield* saved, 1)
      yield* state.send("TerminateFastAsked")
      yield* passes(30)
      assert.strictEqual(yield* saved, 1)
    }).pipe(Effect.scoped)
  )
})
