/**
 * The corridor over in-memory rooms, in virtual time: every status and everything that can interrupt it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import { TestClock } from "effect/testing"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { Promotions } from "../../src/compute/Promotions.ts"
import type { Status } from "../../src/compute/transitions.ts"
import { ApplyFailed, BasebackupFailed, type Failure } from "../../src/errors/Failure.ts"
import { runLifecycle } from "../../src/lifecycle/Lifecycle.ts"
import { type Ended, longExitDelay, shortExitDelay } from "../../src/lifecycle/shutdown.ts"
import { simulationLayer, type SimulationStep, Simulation } from "../../src/testing/Simulation.ts"
import { emptySpec, localFacts } from "../support/specs.ts"

const asked = Layer.mergeAll(Commands.layer, Promotions.layer)
const compute = simulationLayer.pipe(Layer.provideMerge(asked), Layer.provideMerge(ComputeState.layer))

const begin = (given = true) =>
  runLifecycle({ spec: given ? emptySpec : null, inputs: localFacts }).pipe(
    Effect.forkChild({ startImmediately: true })
  )

const broken: Failure = new ApplyFailed({ failures: ['role "web" could not be created'] })

const ends = Effect.fnUntraced(function* (fiber: Fiber.Fiber<Ended>) {
  yield* TestClock.adjust("2 minutes")
  return yield* Fiber.join(fiber)
})

/** Brings a compute into a status and holds it there. */
const hold: Record<
  Exclude<Status, "terminated" | "refresh_configuration" | "refresh_configuration_pending" | "configuration_pending">,
  Effect.Effect<Fiber.Fiber<Ended>, unknown, Layer.Success<typeof compute>>
> = {
  empty: begin(false),
  init: Effect.gen(function* () {
    const simulation = yield* Simulation
    yield* simulation.interfere("ready", "hang")
    return yield* begin()
  }),
  running: begin(),
  configuration: Effect.gen(function* () {
    const simulation = yield* Simulation
    const commands = yield* Commands
    const state = yield* ComputeState
    yield* simulation.interfere("apply reconfigure", "hang")
    const fiber = yield* begin()
    yield* state.until("running")
    yield* commands.configure(emptySpec).pipe(Effect.ignore, Effect.forkChild({ startImmediately: true }))
    yield* state.until("configuration")
    return fiber
  }),
  failed: Effect.gen(function* () {
    const simulation = yield* Simulation
    yield* simulation.interfere("apply start", broken)
    const fiber = yield* begin()
    yield* (yield* ComputeState).until("failed")
    return fiber
  }),
  termination_pending_fast: Effect.gen(function* () {
    const simulation = yield* Simulation
    yield* simulation.interfere("leave", "hang")
    const fiber = yield* begin()
    yield* (yield* ComputeState).until("running")
    yield* (yield* Commands).terminate("fast")
    return fiber
  }),
  termination_pending_immediate: Effect.gen(function* () {
    const simulation = yield* Simulation
    yield* simulation.interfere("leave", "hang")
    const fiber = yield* begin()
    yield* (yield* ComputeState).until("running")
    yield* (yield* Commands).terminate("immediate")
    return fiber
  })
}

describe("the life of a compute", () => {
  it.effect("passes the rooms in order, and ends clean when asked", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const fiber = yield* begin()
      yield* state.until("running")
      yield* (yield* Commands).terminate("immediate")
      assert.deepStrictEqual(yield* ends(fiber), { exit: { _tag: "Code", code: 0 }, failure: null })
      const expected: ReadonlyArray<SimulationStep> = [
        "claim",
        "begin",
        "commitLsn start",
        "build",
        "spawn",
        "ready",
        "apply start"
      ]
      const passed = yield* (yield* Simulation).passed
      assert.deepStrictEqual(passed.slice(0, expected.length), expected)
      assert.deepStrictEqual(passed.slice(-3), ["stop", "leave", "commitLsn end"])
      const last = yield* state.now
      assert.strictEqual(last.status, "terminated")
      assert.strictEqual(last.flushLsn, 32n)
    }).pipe(Effect.provide(compute))
  )

  it.effect("waits for a spec, then answers who sent it", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const fiber = yield* begin(false)
      yield* TestClock.adjust("5 seconds")
      const answer = yield* (yield* Commands).configure(emptySpec)
      assert.strictEqual(answer.status, "running")
      assert.strictEqual((yield* state.now).metrics.wait_for_spec_ms, 5000)
      yield* (yield* Commands).terminate("immediate")
      yield* ends(fiber)
    }).pipe(Effect.provide(compute))
  )

  for (const place of ["claim", "build", "ready", "apply start", "secure"] as const) {
    it.effect(`a start that fails at "${place}" is told with its causes, lingers, and leaves nothing running`, () =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        const simulation = yield* Simulation
        yield* simulation.interfere(
          place,
          new BasebackupFailed({ lsn: "0/10", attempts: 3, cause: new Error("failpoint hit") })
        )
        const fiber = yield* begin()
        const failed = yield* state.until("failed")
        assert.include(failed.error ?? "", "failpoint hit")
        yield* TestClock.adjust(Duration.subtract(longExitDelay, Duration.seconds(1)))
        assert.isUndefined(fiber.pollUnsafe(), "the failure can be read for the whole time")
        yield* TestClock.adjust("2 seconds")
        const ended = yield* Fiber.join(fiber)
        assert.strictEqual(ended.failure?._tag, "BasebackupFailed")
        assert.isFalse((yield* state.now).postgresAlive)
      }).pipe(Effect.provide(compute))
    )
  }

  it.effect("a failed reconfiguration leaves Postgres running, and a later good one heals it", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const commands = yield* Commands
      const simulation = yield* Simulation
      const fiber = yield* begin()
      yield* state.until("running")
      yield* simulation.interfere("apply reconfigure", broken)
      const refused = yield* Effect.flip(commands.configure(emptySpec))
      assert.strictEqual(refused._tag, "ApplyFailed")
      const failed = yield* state.now
      assert.strictEqual(failed.status, "failed")
      assert.include(failed.error ?? "", 'role "web"')
      assert.isTrue(failed.postgresAlive)
      yield* simulation.interfere("apply reconfigure", null)
      const healed = yield* commands.configure(emptySpec)
      assert.strictEqual(healed.status, "running")
      assert.isNull(healed.error)
      yield* commands.terminate("immediate")
      yield* ends(fiber)
    }).pipe(Effect.provide(compute))
  )

  it.effect("a Postgres that dies by itself ends the compute at once, with the story told", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const fiber = yield* begin()
      yield* state.until("running")
      yield* (yield* Simulation).kill({ _tag: "Signal", signal: "SIGKILL" })
      const failed = yield* state.until("failed")
      assert.include(failed.error ?? "", "SIGKILL")
      assert.include(failed.error ?? "", "LOG:  simulated")
      yield* TestClock.adjust(shortExitDelay)
      const ended = yield* Fiber.join(fiber)
      assert.deepStrictEqual(ended.exit, { _tag: "Signal", signal: "SIGKILL" })
    }).pipe(Effect.provide(compute))
  )

  it.effect("only one of two specs sent at once is accepted", () =>
    Effect.gen(function* () {
      const commands = yield* Commands
      const state = yield* ComputeState
      const fiber = yield* begin()
      yield* state.until("running")
      // An imaginary apply takes no time at all, so this one is made to last.
      yield* (yield* Simulation).interfere("apply reconfigure", "hang")
      const answers = yield* Effect.all(
        [Effect.result(commands.configure(emptySpec)), Effect.result(commands.configure(emptySpec))],
        {
          concurrency: "unbounded"
        }
      ).pipe(Effect.forkChild({ startImmediately: true }))
      yield* state.until("configuration")
      yield* commands.terminate("immediate")
      yield* ends(fiber)
      const failures = (yield* Fiber.join(answers)).map((answer) =>
        Result.isFailure(answer) ? answer.failure._tag : "applied"
      )
      assert.deepStrictEqual(failures.sort(), ["Abandoned", "IllegalTransition"])
    }).pipe(Effect.provide(compute))
  )

  for (const [status, bring] of Object.entries(hold)) {
    for (const mode of ["fast", "immediate"] as const) {
      it.effect(`asked to terminate (${mode}) while ${status}, it does`, () =>
        Effect.gen(function* () {
          const state = yield* ComputeState
          const commands = yield* Commands
          const fiber = yield* bring
          assert.strictEqual((yield* state.until(status as Status)).status, status)
          yield* commands.terminate(mode)
          yield* commands.escalate
          yield* ends(fiber)
          assert.strictEqual((yield* state.now).status, "terminated")
          assert.isFalse((yield* state.now).postgresAlive)
        }).pipe(Effect.provide(compute))
      )
    }
  }

  it.effect("a second signal takes the next rung and cuts the lingering", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const commands = yield* Commands
      const simulation = yield* Simulation
      yield* simulation.interfere("stop", "hang")
      const fiber = yield* begin()
      yield* state.until("running")
      yield* commands.terminate("fast")
      yield* state.until("termination_pending_fast")
      yield* commands.escalate
      yield* state.until("terminated")
      yield* Fiber.join(fiber)
      assert.strictEqual(yield* simulation.escalations, 1)
    }).pipe(Effect.provide(compute))
  )
})
