/**
 * When the inventory is taken, on a clock of our own.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as TestClock from "effect/testing/TestClock"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import type { ApplyReport } from "../../src/compute/snapshot.ts"
import { TimedOut } from "../../src/errors/Failure.ts"
import { inventoryFamily } from "../../src/extensions/countExtensions.ts"
import { InstalledExtensions, inventoryActor } from "../../src/extensions/InstalledExtensions.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { emptySpec } from "../support/specs.ts"

/** Takes are counted, and fail: the actor goes on all the same. */
const setUp = Effect.fnUntraced(function* (spec: ParsedSpec, applyReport: ApplyReport | null) {
  const taken = yield* Ref.make(0)
  const inventory = InstalledExtensions.of({
    options: { apiVersion: "head", intervalSeconds: 100 },
    take: Effect.andThen(
      Ref.update(taken, (count) => count + 1),
      Effect.fail(new TimedOut({ what: "a test", millis: 1 }))
    ),
    readFiles: Effect.void,
    family: Effect.succeed(inventoryFamily([], "head"))
  })
  const context = yield* Layer.build(
    Layer.mergeAll(Layer.succeed(InstalledExtensions, inventory), Layer.fresh(ComputeState.layer))
  )
  const state = yield* Effect.provide(ComputeState, context)
  yield* Effect.forkChild(Effect.provide(inventoryActor.run, context), { startImmediately: true })
  const passes = (seconds: number) =>
    Effect.andThen(
      Effect.forEach(Array.from({ length: 30 }), () => Effect.yieldNow),
      TestClock.adjust(`${seconds} seconds`)
    )
  yield* passes(1000)
  assert.strictEqual(yield* Ref.get(taken), 0)
  yield* state.send("StartBegan")
  yield* state.send("PostgresReady", { spec, applyReport })
  yield* passes(0)
  return { state, passes, taken: Ref.get(taken) }
})

const applied: ApplyReport = {
  kind: "start",
  startedAt: "2026-01-01T00:00:00.000Z",
  millis: 1,
  outcome: "done",
  phases: [],
  operations: [],
  connections: 1,
  roundTrips: 0,
  statements: 0
}

describe("the actor of the inventory", () => {
  it.effect("takes it once a primary runs, and then every other interval of the command line", () =>
    Effect.gen(function* () {
      const { passes, taken } = yield* setUp(emptySpec, null)
      assert.strictEqual(yield* taken, 1)
      yield* passes(199)
      assert.strictEqual(yield* taken, 1)
      yield* passes(1)
      assert.strictEqual(yield* taken, 2)
      yield* passes(400)
      assert.strictEqual(yield* taken, 4)
    }).pipe(Effect.scoped)
  )

  it.effect("lets a replica wait, and follows the applied spec without ever shrinking", () =>
    Effect.gen(function* () {
      const spec: ParsedSpec = { ...emptySpec, mode: { _tag: "Replica" }, suspendTimeoutSeconds: 300 }
      const { passes, state, taken } = yield* setUp(spec, applied)
      assert.strictEqual(yield* taken, 0)
      yield* state.note({ spec: { ...spec, suspendTimeoutSeconds: 10 } })
      yield* passes(600)
      assert.strictEqual(yield* taken, 1)
      yield* passes(599)
      assert.strictEqual(yield* taken, 1)
      yield* passes(1)
      assert.strictEqual(yield* taken, 2)
    }).pipe(Effect.scoped)
  )

  it.effect("waits while the compute does not run", () =>
    Effect.gen(function* () {
      const { passes, state, taken } = yield* setUp(emptySpec, null)
      yield* state.send("TerminateFastAsked")
      yield* passes(1000)
      assert.strictEqual(yield* taken, 1)
    }).pipe(Effect.scoped)
  )
})
