/**
 * What is asked of a compute in every status, once, twice and three times; every kind of end; every way in which an
 * actor can be unwell. After each the end has run once and in order, and nothing is left behind.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import { TestClock } from "effect/testing"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import type { Actor } from "../../src/compute/Supervisor.ts"
import { finals, type Status, step } from "../../src/compute/transitions.ts"
import { BasebackupFailed, type Failure, FileFailed } from "../../src/errors/Failure.ts"
import { exitCodeOf } from "../../src/errors/policy.ts"
import type { Ended } from "../../src/lifecycle/shutdown.ts"
import { type Interference, Simulation, type SimulationStep } from "../../src/testing/Simulation.ts"
import { emptySpec } from "../support/specs.ts"
import { begin, compute, computeWith, ends, heldIn, listen, type Parts, recordedLog } from "./fixture.ts"

const endSteps: ReadonlyArray<SimulationStep> = ["stop", "onStopped", "leave", "commitLsn end"]

/** The end runs once, in order, with nothing after it, and Postgres is gone. */
const endedInOrder = Effect.gen(function* () {
  const simulation = yield* Simulation
  const state = yield* ComputeState
  const passed = yield* simulation.passed
  const end = passed.slice(passed.findIndex((one) => endSteps.includes(one)))
  assert.deepStrictEqual(
    end,
    endSteps.filter((one) => end.includes(one)),
    "each step of the end once, in order, and none of anything else"
  )
  assert.isFalse(yield* simulation.alive, "Postgres is gone")
  const { postgresAlive, status } = yield* state.now
  assert.isFalse(postgresAlive)
  assert.include(finals, status)
  return end
})

type Sent = "terminate fast" | "terminate immediate" | "SIGTERM" | "SIGINT" | "escalate"

const send = Effect.fnUntraced(function* (what: Sent, signal: (name: string, number: number) => Effect.Effect<void>) {
  const commands = yield* Commands
  if (what === "SIGTERM") return yield* signal(what, 15)
  if (what === "SIGINT") return yield* signal(what, 2)
  yield* what === "escalate" ? commands.escalate : commands.terminate(what === "terminate fast" ? "fast" : "immediate")
})

describe("an end that is asked for", () => {
  const requests: ReadonlyArray<ReadonlyArray<Sent>> = [
    ["terminate fast"],
    ["terminate immediate"],
    ["SIGTERM"],
    ["terminate fast", "terminate immediate"],
    ["SIGTERM", "SIGINT"],
    ["terminate immediate", "escalate", "escalate"],
    ["SIGTERM", "SIGINT", "SIGTERM"]
  ]
  for (const [status, bring] of Object.entries(heldIn)) {
    for (const asked of requests) {
      it.effect(`by ${asked.join(", then ")} while ${status} comes, and comes once`, () =>
        Effect.gen(function* () {
          const signal = yield* listen
          const fiber = yield* bring
          yield* (yield* ComputeState).until(status as Status)
          for (const what of asked) {
            yield* send(what, signal)
            yield* TestClock.adjust("1 second")
          }
          yield* ends(fiber)
          yield* endedInOrder
          assert.strictEqual((yield* (yield* ComputeState).now).status, "terminated")
        }).pipe(Effect.provide(compute))
      )
    }
  }
})

describe("a command", () => {
  const triggers = { configure: "SpecArrived", refresh: "RefreshAsked" } as const
  for (const [status, bring] of Object.entries(heldIn)) {
    for (const command of ["configure", "refresh"] as const) {
      it.effect(`(${command}) while ${status} is answered: taken as the table says, or refused`, () =>
        Effect.gen(function* () {
          const commands = yield* Commands
          const state = yield* ComputeState
          const fiber = yield* bring
          const { postgresAlive } = yield* state.until(status as Status)
          const asking =
            command === "refresh" ? commands.refresh(Effect.succeed(emptySpec)) : commands.configure(emptySpec)
          const asker = yield* Effect.forkChild(Effect.result(asking), { startImmediately: true })
          yield* TestClock.adjust("1 second")
          const mayBeTaken = Result.isSuccess(step(status as Status, triggers[command]))
          const isTaken = mayBeTaken && (status !== "failed" || postgresAlive)
          const answer = asker.pollUnsafe()
          if (
            !isTaken &&
            !(command === "refresh" && (status === "init" || status === "refresh_configuration_pending"))
          ) {
            assert.isTrue(answer?._tag === "Success" && Result.isFailure(answer.value), "refused at once")
          }
          yield* commands.terminate("immediate")
          yield* ends(fiber)
          yield* endedInOrder
          assert.isDefined(asker.pollUnsafe(), "answered at the latest by the end")
        }).pipe(Effect.provide(compute))
      )
    }
  }
})

/** How a compute ended, with whatever is under way answered. */
const endOf = (
  bring: Effect.Effect<unknown, unknown, Parts>,
  expected: (ended: Ended, end: ReadonlyArray<SimulationStep>) => Effect.Effect<void, never, ComputeState>
) =>
  Effect.gen(function* () {
    const commands = yield* Commands
    const simulation = yield* Simulation
    const fiber = yield* begin()
    yield* (yield* ComputeState).until("running", "failed")
    yield* simulation.interfere("apply reconfigure", "hang")
    const waiting = yield* Effect.forkChild(Effect.result(commands.configure(emptySpec)), { startImmediately: true })
    const queued = yield* Effect.result(commands.submit({ spec: emptySpec, mayQueue: true, key: null }))
    yield* bring
    const ended = yield* ends(fiber)
    assert.isDefined(waiting.pollUnsafe(), "who waited is answered")
    if (Result.isSuccess(queued)) {
      assert.isNotNull((yield* commands.requests.find(queued.success.id))?.outcome, "so is who queued")
    }
    yield* expected(ended, yield* endedInOrder)
  }).pipe(Effect.provide(compute))

const statusIs = (status: Status, error: string | null) =>
  Effect.gen(function* () {
    const now = yield* (yield* ComputeState).now
    assert.strictEqual(now.status, status)
    if (error === null) assert.isNull(now.error)
    else assert.include(now.error ?? "", error)
  })

const simulate = <A>(act: (simulation: Simulation["Service"]) => Effect.Effect<A>) => Effect.flatMap(Simulation, act)
const terminate = Effect.flatMap(Commands, (commands) => commands.terminate("immediate"))
const syncFails: Failure = new BasebackupFailed({ lsn: "0/10", attempts: 1, cause: new Error("no quorum") })

describe("every kind of end", () => {
  it.effect("Postgres killed: failed, with the signal in the status, and still a last sync", () =>
    endOf(
      simulate((simulation) => simulation.kill({ _tag: "Signal", signal: "SIGKILL" })),
      ({ exit, failure }, end) => {
        assert.deepStrictEqual(end, endSteps)
        assert.strictEqual(failure?._tag, "PostmasterDied")
        assert.strictEqual(exitCodeOf(exit, failure), 1)
        return statusIs("failed", "SIGKILL")
      }
    )
  )
  it.effect("Postgres left with an exit code: failed, and the code is the process's", () =>
    endOf(
      simulate((simulation) => simulation.kill({ _tag: "Code", code: 3 })),
      ({ exit, failure }, end) => {
        assert.deepStrictEqual(end, endSteps)
        assert.strictEqual(failure?._tag, "PostmasterDied")
        assert.strictEqual(exitCodeOf(exit, failure), 3)
        return statusIs("failed", "exit code 3")
      }
    )
  )
  const fromOutside = {
    "pg_ctl stop -m fast": simulate((simulation) => simulation.kill({ _tag: "Code", code: 0 })),
    "a smart shutdown that waits for its last session": simulate((simulation) => simulation.stopFromOutside)
  }
  for (const [how, bring] of Object.entries(fromOutside)) {
    it.effect(`Postgres stopped by somebody else, by ${how}: in order, with exit code 0 and a last sync`, () =>
      endOf(bring, ({ exit, failure }, end) => {
        assert.deepStrictEqual(end, endSteps)
        assert.isNull(failure)
        assert.strictEqual(exitCodeOf(exit, failure), 0)
        return statusIs("terminated", null)
      })
    )
  }
  it.effect("a last sync that fails: the end is over all the same, and the status says so", () =>
    endOf(
      Effect.andThen(
        simulate((simulation) => simulation.interfere("commitLsn end", syncFails)),
        terminate
      ),
      ({ failure }) => {
        assert.strictEqual(failure?._tag, "BasebackupFailed")
        return statusIs("terminated", "no quorum")
      }
    )
  )
  for (const place of ["stop", "onStopped", "leave", "commitLsn end"] as const) {
    for (const how of ["hang", "defect"] as const) {
      it.effect(`a ${how} in "${place}": the end comes, and no later step is left out that can be taken`, () =>
        endOf(
          Effect.andThen(
            simulate((simulation) => simulation.interfere(place, how)),
            terminate
          ),
          (_, end) => {
            // Nothing is said of the data of a Postgres of which nobody knows how it left.
            assert.deepStrictEqual(end, place === "stop" && how === "defect" ? ["stop", "onStopped"] : endSteps)
            return Effect.void
          }
        )
      )
    }
  }
  it.effect("an interruption of the whole: in order, and every stage is taken", () =>
    Effect.gen(function* () {
      const fiber = yield* begin()
      yield* (yield* ComputeState).until("running")
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* endedInOrder, endSteps)
      yield* statusIs("terminated", null)
    }).pipe(Effect.provide(compute))
  )
})

describe("a start", () => {
  const steps = [
    "claim",
    "begin",
    "commitLsn start",
    "build",
    "beforeStart",
    "placeCertificate",
    "spawn",
    "afterSpawn",
    "ready",
    "rewrite",
    "reload",
    "apply start",
    "secure"
  ] as const
  for (const place of steps) {
    const failures: ReadonlyArray<readonly [string, Interference, string]> = [
      ["fails", new FileFailed({ operation: "write", path: "/full" }), "/full"],
      ["dies of a bug", "defect", `a bug in ${place}`]
    ]
    for (const [how, interference, says] of failures) {
      it.effect(`whose step "${place}" ${how} is failed, says why, answers who sent the spec, and ends in order`, () =>
        Effect.gen(function* () {
          const commands = yield* Commands
          yield* (yield* Simulation).interfere(place, interference)
          const fiber = yield* begin(false)
          const asker = yield* Effect.forkChild(Effect.result(commands.configure(emptySpec)), {
            startImmediately: true
          })
          const { error } = yield* (yield* ComputeState).until("failed")
          assert.include(error ?? "", says)
          const answer = yield* Fiber.join(asker)
          assert.isTrue(Result.isFailure(answer), "refused with the cause")
          const { failure } = yield* ends(fiber)
          assert.isNotNull(failure)
          yield* endedInOrder
        }).pipe(Effect.provide(compute))
      )
    }
  }
})

describe("an auxiliary actor", () => {
  const trouble = new FileFailed({ operation: "write", path: "/wal" })
  const ways: ReadonlyArray<readonly [string, Interference, number, ReadonlyArray<string>]> = [
    ["fails once", trouble, 1, ["cannot write /wal"]],
    ["fails for a minute", trouble, 8, ["cannot write /wal"]],
    ["dies of a bug", "defect", 3, ["a bug in "]],
    ["hangs", "hang", Infinity, []]
  ]
  for (const place of ["keep", "actor", "onRunning"] as const) {
    for (const [how, interference, times, says] of ways) {
      it.effect(`(${place}) that ${how} leaves the status as it is; it is shown until it is well again`, () => {
        const log = recordedLog()
        const watcher: Actor = { name: "watcher", kind: "auxiliary", run: Effect.never }
        return Effect.gen(function* () {
          const commands = yield* Commands
          const state = yield* ComputeState
          yield* (yield* Simulation).interfere(place, interference, times)
          const fiber = yield* begin()
          yield* state.until("running")
          yield* TestClock.adjust("10 millis")
          const { degraded } = yield* state.now
          assert.deepStrictEqual(
            degraded.map(({ code }) => code),
            says.map(() => "actor_failing")
          )
          for (const text of says) assert.include(degraded[0]?.message ?? "", text)
          assert.strictEqual((yield* commands.configure(emptySpec)).status, "running", "it serves all the same")
          yield* TestClock.adjust("2 minutes")
          const after = yield* state.now
          assert.deepStrictEqual([after.status, after.error, after.degraded], ["running", null, []])
          assert.lengthOf(
            log.lines.filter((line) => line.startsWith("Warn")),
            says.length
          )
          yield* commands.terminate("immediate")
          yield* ends(fiber)
          assert.deepStrictEqual(yield* endedInOrder, endSteps)
        }).pipe(Effect.provide(computeWith([watcher]).pipe(Layer.provideMerge(log.layer))))
      })
    }
  }
})
