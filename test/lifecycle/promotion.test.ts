/**
 * Promotions through the lifecycle, in virtual time: who is answered what, and what happens to the files.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as TestClock from "effect/testing/TestClock"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { notPromoted, promotionBody, promotionRefusal } from "../../src/compute/promotion.ts"
import { Promotions } from "../../src/compute/Promotions.ts"
import { runLifecycle } from "../../src/lifecycle/Lifecycle.ts"
import { Standby } from "../../src/lifecycle/Promote.ts"
import { ConfigurationCheck } from "../../src/postgres/configurationCheck.ts"
import type { Lsn, TimelineId } from "../../src/spec/identifiers.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { simulationLayer, Simulation } from "../../src/testing/Simulation.ts"
import { emptySpec, localFacts } from "../support/specs.ts"

const compute = simulationLayer.pipe(
  Layer.provideMerge(Layer.mergeAll(Commands.layer, Promotions.layer)),
  Layer.provideMerge(ComputeState.layer)
)
const request = { spec: emptySpec, flushLsn: 100n }

/** A replica that has replayed so far; once promoted it is none. */
const replica = Effect.fnUntraced(function* (behaviour: {
  readonly replayed: Lsn
  readonly promotes?: boolean
  readonly mistake?: boolean
}) {
  const replayed = yield* Ref.make<Lsn | null>(behaviour.replayed)
  const promoted = yield* Ref.make(0)
  const fiber = yield* runLifecycle({ spec: { ...emptySpec, mode: { _tag: "Replica" } }, inputs: localFacts }).pipe(
    Effect.provideService(Standby, {
      replayed: Ref.get(replayed),
      promote: Effect.andThen(
        Ref.update(promoted, (times) => times + 1),
        behaviour.promotes === false ? Effect.succeed(false) : Effect.as(Ref.set(replayed, null), true)
      ),
      takesWrites: Effect.succeed(true)
    }),
    Effect.provideService(ConfigurationCheck, () =>
      Effect.succeed({
        problems:
          behaviour.mistake === true
            ? [{ path: "postgresql.conf line 7", message: "work_mem: setting could not be applied" }]
            : [],
        pending: []
      })
    ),
    Effect.forkChild({ startImmediately: true })
  )
  const state = yield* ComputeState
  yield* state.until("running")
  return { fiber, state, replayed, promoted }
})

describe("promotions", () => {
  it.effect("wait for the WAL as long as it comes, and 20 seconds for WAL that does not", () =>
    Effect.gen(function* () {
      const { replayed, state } = yield* replica({ replayed: 1n })
      const promotions = yield* Promotions
      const late = yield* Effect.forkChild(promotions.promote(request), { startImmediately: true })
      yield* TestClock.adjust("19 seconds")
      assert.deepStrictEqual((yield* state.now).promotion, { _tag: "Promoting", step: "waiting for the WAL" })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.join(late), {
        _tag: "Failed",
        error: "the replica was not promoted: didn't catch up with primary in 20 retries",
        at: "waiting for the WAL"
      })
      assert.strictEqual((yield* state.now).status, "running")

      const second = yield* Effect.forkChild(promotions.promote(request), { startImmediately: true })
      yield* TestClock.adjust("3 seconds")
      yield* Ref.set(replayed, 100n)
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* Fiber.join(second), { _tag: "Completed", lsnWait: 4000 })
      assert.strictEqual((yield* state.now).spec?.mode._tag, "Primary")
    }).pipe(Effect.provide(compute))
  )

  it.effect("are one, however many ask", () =>
    Effect.gen(function* () {
      const { promoted } = yield* replica({ replayed: 100n })
      const promotions = yield* Promotions
      const outcomes = yield* Effect.all(
        [1, 2, 3].map(() => promotions.promote(request)),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        outcomes.map(({ _tag }) => _tag),
        ["Completed", "Completed", "Completed"]
      )
      assert.strictEqual((yield* promotions.promote(request))._tag, "Completed")
      assert.strictEqual(yield* Ref.get(promoted), 1)
    }).pipe(Effect.provide(compute))
  )

  it.effect("that Postgres does not take put the replica's files back", () =>
    Effect.gen(function* () {
      const { promoted } = yield* replica({ replayed: 100n, promotes: false })
      const promotions = yield* Promotions
      const simulation = yield* Simulation
      assert.deepInclude(yield* promotions.promote(request), { _tag: "Failed", at: "promoting Postgres" })
      assert.strictEqual(yield* Ref.get(promoted), 1)
      assert.deepStrictEqual(
        (yield* simulation.passed).slice(-5),
        ["placeCertificate", "rewrite", "reload", "rewrite", "reload"],
        "its certificate comes before the files that speak of it"
      )
    }).pipe(Effect.provide(compute))
  )

  it.effect("with a mistake in their settings never get as far as Postgres", () =>
    Effect.gen(function* () {
      const { promoted } = yield* replica({ replayed: 100n, mistake: true })
      const outcome = yield* (yield* Promotions).promote(request)
      assert.deepInclude(outcome, { _tag: "Failed", at: "preparing the files" })
      assert.strictEqual(yield* Ref.get(promoted), 0)
      assert.deepStrictEqual(
        (yield* (yield* Simulation).passed).slice(-2),
        ["rewrite", "rewrite"],
        "nothing is reloaded"
      )
    }).pipe(Effect.provide(compute))
  )

  it("need a warm cache where there is a store to warm it from", () => {
    const spec: ParsedSpec = {
      ...emptySpec,
      mode: { _tag: "Replica" },
      endpointStorage: { address: "store:80", token: null }
    }
    assert.strictEqual(promotionRefusal(spec, notPromoted, "not_prewarmed"), "compute NotPrewarmed")
    assert.strictEqual(promotionRefusal(spec, notPromoted, "prewarming"), "compute Prewarming")
    for (const status of ["completed", "failed", "skipped", "cancelled"] as const) {
      assert.isNull(promotionRefusal(spec, notPromoted, status))
    }
    assert.isNull(
      promotionRefusal({ ...spec, endpointStorage: { address: null, token: null } }, notPromoted, "not_prewarmed")
    )
    assert.strictEqual(promotionRefusal(emptySpec, notPromoted, "completed"), 'compute mode "Primary" is not replica')
    assert.isNull(promotionRefusal(emptySpec, { _tag: "Failed", error: "", at: "applying the spec" }, "not_prewarmed"))
  })

  it("are answered in the original's words", () => {
    assert.deepStrictEqual(promotionBody({ _tag: "Completed", lsnWait: 1, promote: 2, reconfigure: 3 }), {
      status: "completed",
      lsn_wait_time_ms: 1,
      pg_promote_time_ms: 2,
      reconfigure_time_ms: 3
    })
    assert.deepStrictEqual(promotionBody({ _tag: "Failed", error: "no", at: null }), { status: "failed", error: "no" })
    assert.deepStrictEqual(promotionBody(notPromoted), { status: "not_promoted" })
    assert.strictEqual(promotionBody({ _tag: "Promoting", step: "promoting Postgres" }).status, "not_promoted")
  })

  it.effect("of nothing that runs are refused at once", () =>
    Effect.gen(function* () {
      yield* runLifecycle({ spec: null, inputs: localFacts }).pipe(Effect.forkChild({ startImmediately: true }))
      const outcome = yield* (yield* Promotions).promote(request)
      assert.deepStrictEqual(outcome, { _tag: "Failed", error: "there is no running Postgres to promote", at: null })
    }).pipe(Effect.provide(compute))
  )

  it.effect("take turns with new specs", () =>
    Effect.gen(function* () {
      const { replayed, state } = yield* replica({ replayed: 1n })
      const promoting = yield* Effect.forkChild((yield* Promotions).promote(request), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      const configuring = yield* Effect.forkChild((yield* Commands).configure(emptySpec), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* state.now).status, "configuration_pending", "it waits for the promotion")
      yield* Ref.set(replayed, 100n)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(promoting))._tag, "Completed")
      assert.strictEqual((yield* Fiber.join(configuring)).status, "running")
    }).pipe(Effect.provide(compute))
  )

  it.effect("refuse the replica's specs that come after them, and nothing else changes", () =>
    Effect.gen(function* () {
      const { replayed, state } = yield* replica({ replayed: 1n })
      const promoting = yield* Effect.forkChild((yield* Promotions).promote(request), { startImmediately: true })
      const late = { ...emptySpec, mode: { _tag: "Replica" } } as const
      const configuring = yield* Effect.forkChild(Effect.flip((yield* Commands).configure(late)), {
        startImmediately: true
      })
      yield* TestClock.adjust("2 seconds")
      yield* Ref.set(replayed, 100n)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(promoting))._tag, "Completed")
      assert.include((yield* Fiber.join(configuring)).message, "spec.mode: this compute is a primary")
      const { error, spec, status } = yield* state.now
      assert.deepStrictEqual([status, error, spec?.mode._tag], ["running", null, "Primary"])
    }).pipe(Effect.provide(compute))
  )

  it.effect("with another's spec are refused, also when one is under way", () =>
    Effect.gen(function* () {
      const { replayed } = yield* replica({ replayed: 1n })
      const promotions = yield* Promotions
      const promoting = yield* Effect.forkChild(promotions.promote(request), { startImmediately: true })
      const foreign = { ...request, spec: { ...emptySpec, timeline: "2".repeat(32) as TimelineId } }
      const refused = yield* Effect.flip(promotions.promote(foreign))
      assert.deepStrictEqual(
        refused.problems.map(({ path }) => path),
        ["spec.timeline_id"]
      )
      yield* Ref.set(replayed, 100n)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(promoting))._tag, "Completed")
    }).pipe(Effect.provide(compute))
  )

  it.effect("end with the compute", () =>
    Effect.gen(function* () {
      yield* replica({ replayed: 1n })
      const promoting = yield* Effect.forkChild((yield* Promotions).promote(request), { startImmediately: true })
      yield* TestClock.adjust("2 seconds")
      yield* (yield* Commands).terminate("immediate")
      yield* TestClock.adjust("2 minutes")
      assert.deepInclude(yield* Fiber.join(promoting), { _tag: "Failed", error: "the compute is ending" })
    }).pipe(Effect.provide(compute))
  )
})
