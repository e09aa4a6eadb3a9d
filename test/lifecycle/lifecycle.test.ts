/**
 * The lifecycle over simulated parts, in virtual time: a start, a later spec, and an end in every status.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import { TestClock } from "effect/testing"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { ApplyFailed, BasebackupFailed, type Failure } from "../../src/errors/Failure.ts"
import { longExitDelay, shortExitDelay } from "../../src/lifecycle/shutdown.ts"
import { type SimulationStep, Simulation } from "../../src/testing/Simulation.ts"
import { emptySpec } from "../support/specs.ts"
import { begin, compute, ends } from "./fixture.ts"

const broken: Failure = new ApplyFailed({ failures: ['role "web" could not be created'] })

describe("a compute", () => {
  it.effect("takes the steps of a start in order, and ends clean when asked", () =>
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
        "beforeStart",
        "placeCertificate",
        "spawn",
        "afterSpawn",
        "ready",
        "apply start"
      ]
      const passed = yield* (yield* Simulation).passed
      assert.deepStrictEqual(passed.slice(0, expected.length), expected)
      assert.deepStrictEqual(passed.slice(-4), ["stop", "onStopped", "leave", "commitLsn end"])
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
      assert.include((yield* state.now).waitingFor ?? "", "POST /configure")
      const answer = yield* (yield* Commands).configure(emptySpec)
      assert.strictEqual(answer.status, "running")
      assert.isNull(answer.waitingFor)
      assert.strictEqual((yield* state.now).metrics.wait_for_spec_ms, 5000)
      yield* (yield* Commands).terminate("immediate")
      yield* ends(fiber)
    }).pipe(Effect.provide(compute))
  )

  it.effect("has no exit delay to speak of when it never had a spec", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const fiber = yield* begin(false)
      yield* (yield* Commands).terminate("fast")
      yield* state.until("terminated")
      yield* TestClock.adjust(shortExitDelay)
      assert.deepStrictEqual(yield* Fiber.join(fiber), { exit: null, failure: null })
    }).pipe(Effect.provide(compute))
  )

  it.effect("a start that fails late keeps what was measured before", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const simulation = yield* Simulation
      yield* simulation.pace(Effect.sleep("10 millis"))
      yield* simulation.interfere("secure", broken)
      const fiber = yield* begin()
      yield* TestClock.adjust("1 second")
      yield* state.until("failed")
      const { basebackup_ms, config_ms, start_postgres_ms, total_startup_ms } = (yield* state.now).metrics
      assert.deepStrictEqual(
        { basebackup_ms, config_ms, start_postgres_ms, total_startup_ms },
        {
          basebackup_ms: 10,
          config_ms: 10,
          start_postgres_ms: 10,
          total_startup_ms: 0
        }
      )
      yield* TestClock.adjust(longExitDelay)
      yield* Fiber.join(fiber)
    }).pipe(Effect.provide(compute))
  )

  for (const place of ["claim", "build", "ready", "apply start", "secure"] as const) {
    it.effect(
      `a start that fails at "${place}" is shown with its causes for the whole exit delay, and leaves nothing running`,
      () =>
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

  it.effect("a Postgres that dies by itself ends the compute at once, with its exit and its last log records", () =>
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

  for (const place of ["apply start", "secure"] as const) {
    it.effect(`a Postgres that dies in a start that waits for it ("${place}") fails the start, with its exit`, () =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        const simulation = yield* Simulation
        yield* simulation.interfere(place, "hang")
        const fiber = yield* begin()
        yield* simulation.kill({ _tag: "Signal", signal: "SIGKILL" })
        assert.include((yield* state.until("failed")).error ?? "", "SIGKILL")
        assert.strictEqual((yield* ends(fiber)).failure?._tag, "PostmasterDied")
      }).pipe(Effect.provide(compute))
    )
  }

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

  it.effect("escalated while Postgres is being stopped takes the next shutdown stage, and has no exit delay", () =>
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
