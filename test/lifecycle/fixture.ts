/**
 * A simulated compute for tests of the lifecycle: begun, held in any status, signalled, and brought to its end.
 */
import { assert } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Queue from "effect/Queue"
import { TestClock } from "effect/testing"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { Promotions } from "../../src/compute/Promotions.ts"
import { type Actor, supervise } from "../../src/compute/Supervisor.ts"
import type { Status } from "../../src/compute/transitions.ts"
import { ApplyFailed, ControlPlaneFailed } from "../../src/errors/Failure.ts"
import { runLifecycle } from "../../src/lifecycle/Lifecycle.ts"
import { Standby } from "../../src/lifecycle/Promote.ts"
import type { Ended } from "../../src/lifecycle/shutdown.ts"
import { type Signal, signalActor } from "../../src/lifecycle/signals.ts"
import { Simulation, simulationWith } from "../../src/testing/Simulation.ts"
import { emptySpec, localFacts } from "../support/specs.ts"

export const computeWith = (actors: ReadonlyArray<Actor>) =>
  simulationWith(actors).pipe(
    Layer.provideMerge(Layer.mergeAll(Commands.layer, Promotions.layer)),
    Layer.provideMerge(ComputeState.layer)
  )
export const compute = computeWith([])
export type Parts = Layer.Success<typeof compute>

export const begin = (specGiven = true) =>
  runLifecycle({ spec: specGiven ? emptySpec : null, inputs: localFacts }).pipe(
    Effect.forkChild({ startImmediately: true })
  )

/** All deadlines of the end pass, and the compute has ended. */
export const ends = Effect.fnUntraced(function* <A>(fiber: Fiber.Fiber<A>) {
  yield* TestClock.adjust("15 minutes")
  assert.isDefined(fiber.pollUnsafe(), "it has ended")
  return yield* Fiber.join(fiber)
})

/** Signals, as the process would get them. */
export const listen = Effect.gen(function* () {
  const queue = yield* Queue.unbounded<Signal>()
  yield* Effect.forkChild(supervise([signalActor({ next: Queue.take(queue) })]), {
    startImmediately: true
  })
  return (name: string, number: number) => Effect.asVoid(Queue.offer(queue, { name, number }))
})

/** Everything that was logged, as `Level: text`. */
export const recordedLog = () => {
  const lines: Array<string> = []
  return {
    lines,
    layer: Logger.layer([
      Logger.make(({ logLevel, message }) => void lines.push(`${logLevel}: ${[message].flat().join(" ")}`))
    ])
  }
}

/** A running compute, in which somebody asks for something and nobody waits for the answer. */
const runningAnd = <E, R>(effect: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function* () {
    const fiber = yield* begin()
    yield* (yield* ComputeState).until("running")
    yield* effect.pipe(Effect.ignore, Effect.forkChild({ startImmediately: true }))
    return fiber
  })

const sendSpec = Effect.flatMap(Commands, (commands) => commands.configure(emptySpec))
const unreachable = new ControlPlaneFailed({ uri: "http://control.plane", detail: "down", attempts: 1 })
const interfere = (...rule: Parameters<Simulation["Service"]["interfere"]>) =>
  Effect.flatMap(Simulation, (simulation) => simulation.interfere(...rule))

/** Brings a compute into a status, in which it stays until somebody asks for something else. */
export const heldIn: Record<Exclude<Status, "terminated">, Effect.Effect<Fiber.Fiber<Ended>, unknown, Parts>> = {
  empty: begin(false),
  init: Effect.andThen(interfere("ready", "hang"), begin()),
  running: begin(),
  // A promotion has its turn, and waits for its Postgres.
  configuration_pending: Effect.gen(function* () {
    const asked = yield* Deferred.make<void>()
    const fiber = yield* runLifecycle({ spec: { ...emptySpec, mode: { _tag: "Replica" } }, inputs: localFacts }).pipe(
      Effect.provideService(Standby, {
        replayed: Effect.andThen(Deferred.succeed(asked, undefined), Effect.never),
        promote: Effect.never,
        takesWrites: Effect.never
      }),
      Effect.forkChild({ startImmediately: true })
    )
    yield* (yield* ComputeState).until("running")
    yield* Effect.forkChild((yield* Promotions).promote({ spec: emptySpec, flushLsn: 0n }))
    yield* Deferred.await(asked)
    yield* Effect.forkChild(Effect.ignore(sendSpec))
    return fiber
  }),
  configuration: Effect.andThen(interfere("apply reconfigure", "hang"), runningAnd(sendSpec)),
  refresh_configuration: runningAnd(Effect.flatMap(Commands, (commands) => commands.refresh(Effect.never))),
  refresh_configuration_pending: Effect.gen(function* () {
    const fiber = yield* runningAnd(Effect.flatMap(Commands, (commands) => commands.refresh(Effect.fail(unreachable))))
    yield* TestClock.adjust("1 second")
    return fiber
  }),
  failed: Effect.andThen(interfere("apply start", new ApplyFailed({ failures: ["no"] })), begin()),
  termination_pending_fast: Effect.andThen(
    interfere("leave", "hang"),
    runningAnd(Effect.flatMap(Commands, (commands) => commands.terminate("fast")))
  ),
  termination_pending_immediate: Effect.andThen(
    interfere("leave", "hang"),
    runningAnd(Effect.flatMap(Commands, (commands) => commands.terminate("immediate")))
  )
}
