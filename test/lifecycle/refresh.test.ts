/**
 * A spec that is looked for again, and specs that wait in line, through the whole lifecycle in virtual time.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import { TestClock } from "effect/testing"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { Promotions } from "../../src/compute/Promotions.ts"
import { ApplyFailed, ControlPlaneFailed, type Failure } from "../../src/errors/Failure.ts"
import { runLifecycle } from "../../src/lifecycle/Lifecycle.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { simulationLayer, Simulation } from "../../src/testing/Simulation.ts"
import { emptySpec, localFacts } from "../support/specs.ts"

const compute = simulationLayer.pipe(
  Layer.provideMerge(Layer.mergeAll(Commands.layer, Promotions.layer)),
  Layer.provideMerge(ComputeState.layer)
)

const named = (operationId: string): ParsedSpec => ({ ...emptySpec, operationId })
const unreachable: Failure = new ControlPlaneFailed({ uri: "http://control.plane", detail: "no answer", attempts: 1 })

const running = Effect.gen(function* () {
  const state = yield* ComputeState
  const fiber = yield* runLifecycle({ spec: named("first"), inputs: localFacts }).pipe(
    Effect.forkChild({ startImmediately: true })
  )
  yield* state.until("running")
  return fiber
})

const specNow = Effect.gen(function* () {
  return (yield* (yield* ComputeState).now).spec?.operationId
})

describe("refresh", () => {
  it.effect("fetches, applies, and runs again", () =>
    Effect.gen(function* () {
      const commands = yield* Commands
      const state = yield* ComputeState
      yield* running
      yield* commands.refresh(Effect.succeed(named("fresh")))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* state.now).status, "running")
      assert.strictEqual(yield* specNow, "fresh")
      const ways = (yield* state.now).history.map(({ to }) => to)
      assert.deepStrictEqual(ways.slice(-3), ["refresh_configuration_pending", "refresh_configuration", "running"])
    }).pipe(Effect.provide(compute))
  )

  it.effect("takes no spec that would make another compute of it, says so, and goes on asking", () =>
    Effect.gen(function* () {
      const commands = yield* Commands
      const state = yield* ComputeState
      yield* running
      const passed = Effect.map((yield* Simulation).passed, (steps) => steps.length)
      const before = yield* passed
      const answers = yield* Ref.make<ParsedSpec>({ ...named("stale"), mode: { _tag: "Replica" } })
      yield* commands.refresh(Ref.get(answers))
      yield* TestClock.adjust("1 second")
      const { degraded, spec } = yield* state.now
      assert.include(degraded[0]?.message, "spec.mode: this compute is a primary, so a replica needs a compute")
      assert.deepStrictEqual([spec?.operationId, yield* passed], ["first", before])
      yield* Ref.set(answers, named("fresh"))
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual([yield* specNow, (yield* state.now).degraded], ["fresh", []])
    }).pipe(Effect.provide(compute))
  )

  it.effect("tries again every four to six seconds, and asking again meanwhile is no fault", () =>
    Effect.gen(function* () {
      const commands = yield* Commands
      const state = yield* ComputeState
      yield* running
      const tries = yield* Ref.make(0)
      yield* commands.refresh(
        Effect.flatMap(
          Ref.updateAndGet(tries, (n) => n + 1),
          (n) => (n < 4 ? Effect.fail(unreachable) : Effect.succeed(named("at last")))
        )
      )
      yield* TestClock.adjust("12 seconds")
      assert.strictEqual(yield* Ref.get(tries), 3)
      assert.strictEqual((yield* state.now).status, "refresh_configuration_pending")
      yield* commands.refresh(Effect.die("it is pending already"))
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual((yield* state.now).status, "running")
      assert.strictEqual(yield* specNow, "at last")
    }).pipe(Effect.provide(compute))
  )

  it.effect("a spec in line is fresher than one that is fetched, and need not wait for the next attempt", () =>
    Effect.gen(function* () {
      const commands = yield* Commands
      yield* running
      yield* commands.refresh(Effect.fail(unreachable))
      yield* TestClock.adjust("1 second")
      const { id } = yield* commands.submit({ spec: named("sent"), mayQueue: true, key: null })
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* specNow, "sent")
      const operation = yield* commands.requests.find(id)
      assert.isTrue(operation !== null && operation.outcome !== null && Result.isSuccess(operation.outcome))
      assert.strictEqual((yield* (yield* ComputeState).now).status, "running")
    }).pipe(Effect.provide(compute))
  )

  it.effect("without a spec for us any more the compute ends in order", () =>
    Effect.gen(function* () {
      const commands = yield* Commands
      const fiber = yield* running
      yield* commands.refresh(Effect.succeed(null))
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(yield* Fiber.join(fiber), { exit: { _tag: "Code", code: 0 }, failure: null })
      assert.strictEqual((yield* (yield* ComputeState).now).status, "terminated")
    }).pipe(Effect.provide(compute))
  )

  it.effect("an end that is asked for while it is fetched, or between attempts, is not kept waiting", () =>
    Effect.gen(function* () {
      for (const fetch of [Effect.never, Effect.fail(unreachable)]) {
        yield* Effect.gen(function* () {
          const commands = yield* Commands
          const fiber = yield* running
          yield* commands.refresh(fetch)
          yield* TestClock.adjust("1 second")
          yield* commands.terminate("immediate")
          yield* TestClock.adjust("10 seconds")
          assert.deepStrictEqual((yield* Fiber.join(fiber)).failure, null)
        }).pipe(Effect.provide(Layer.fresh(compute)))
      }
    })
  )
})

describe("the line", () => {
  it.effect("what was sent during the start is applied after it, the latest alone", () =>
    Effect.gen(function* () {
      const commands = yield* Commands
      const state = yield* ComputeState
      const simulation = yield* Simulation
      yield* simulation.interfere("ready", "hang")
      yield* runLifecycle({ spec: null, inputs: localFacts }).pipe(Effect.forkChild({ startImmediately: true }))
      yield* commands.submit({ spec: named("first"), mayQueue: true, key: null })
      yield* state.until("init")
      const early = yield* commands.submit({ spec: named("early"), mayQueue: true, key: null })
      const later = yield* commands.submit({ spec: named("later"), mayQueue: true, key: null })
      const superseded = yield* commands.requests.settled(early.id)
      assert.isTrue(
        superseded !== null &&
          superseded.outcome !== null &&
          Result.isFailure(superseded.outcome) &&
          superseded.outcome.failure._tag === "Superseded"
      )
      // The start that hangs is left, so the end answers whoever is still in line.
      yield* commands.terminate("immediate")
      yield* TestClock.adjust("2 minutes")
      const abandoned = yield* commands.requests.settled(later.id)
      assert.isTrue(
        abandoned !== null &&
          abandoned.outcome !== null &&
          Result.isFailure(abandoned.outcome) &&
          abandoned.outcome.failure._tag === "Abandoned"
      )
    }).pipe(Effect.provide(compute))
  )

  it.effect("a failed spec keeps Postgres running, and the one in line heals it", () =>
    Effect.gen(function* () {
      const commands = yield* Commands
      const state = yield* ComputeState
      const simulation = yield* Simulation
      yield* running
      yield* simulation.interfere("apply reconfigure", new ApplyFailed({ failures: ["no"] }))
      const bad = yield* commands.submit({ spec: named("bad"), mayQueue: true, key: null })
      yield* commands.requests.settled(bad.id)
      assert.strictEqual((yield* state.now).status, "failed")
      yield* simulation.interfere("apply reconfigure", null)
      const good = yield* commands.submit({ spec: named("good"), mayQueue: true, key: null })
      const settled = yield* commands.requests.settled(good.id)
      assert.isTrue(settled !== null && settled.outcome !== null && Result.isSuccess(settled.outcome))
      assert.strictEqual((yield* state.now).status, "running")
    }).pipe(Effect.provide(compute))
  )
})
