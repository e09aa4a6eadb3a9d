/**
 * Lets a scenario happen to a simulated compute, in virtual time, and says which of the lifecycle's promises were
 * broken. Touches nothing outside of memory, and leaves nothing running.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as TestClock from "effect/testing/TestClock"
import { Commands } from "../compute/Commands.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { Promotions } from "../compute/Promotions.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import { type Actor, supervise } from "../compute/Supervisor.ts"
import { finals, type Status, table } from "../compute/transitions.ts"
import { ControlPlaneFailed, type Failure } from "../errors/Failure.ts"
import { runLifecycle } from "../lifecycle/Lifecycle.ts"
import type { Ended } from "../lifecycle/shutdown.ts"
import { type Signal, signalActor } from "../lifecycle/signals.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { parseSpec } from "../spec/parseSpec.ts"
import {
  auxiliaryTrouble,
  type Fetched,
  printScenario,
  type Scenario,
  type ScenarioEvent,
  scenarioOf
} from "./scenario.ts"
import {
  simulatedInputs,
  simulatedStandby,
  Simulation,
  type SimulationStep,
  simulationSteps,
  simulationWith
} from "./Simulation.ts"

export interface RunScenarioOptions {
  /** Actors of one's own, which the compute keeps alive beside its others. */
  readonly actors?: ReadonlyArray<Actor>
}

/** What came of a scenario. */
export interface ScenarioReport {
  readonly scenario: Scenario
  /** Promises that were broken, as sentences; none when all is well. */
  readonly broken: ReadonlyArray<string>
  readonly passed: ReadonlyArray<SimulationStep>
  /** As it was at the end. */
  readonly snapshot: Snapshot
  readonly ended: Exit.Exit<Ended> | null
}

const spec: ParsedSpec = Result.getOrThrow(
  parseSpec(
    { format_version: 1, suspend_timeout_seconds: -1, cluster: { roles: [], databases: [] } },
    { source: "the scenario", storage: "local" }
  )
)

const fetches: Record<Fetched, Effect.Effect<ParsedSpec | null, Failure>> = {
  "a spec": Effect.succeed(spec),
  "no spec": Effect.succeed(null),
  "a failure": Effect.fail(new ControlPlaneFailed({ uri: "http://control.plane", detail: "down", attempts: 1 })),
  "a defect": Effect.die(new Error("a bug in fetching")),
  "no answer": Effect.never
}

/** Everybody who asked for something, to see at the end that each was answered. */
interface Waiters {
  readonly fibers: Array<readonly [string, Fiber.Fiber<unknown, unknown>]>
  readonly requests: Array<string>
}

const numbers = { SIGTERM: 15, SIGINT: 2 } as const

/** One event. Nothing of it may fail or die, whatever the compute is doing. */
const happen = Effect.fnUntraced(function* (
  event: ScenarioEvent,
  life: Fiber.Fiber<Ended>,
  signals: Queue.Queue<Signal>,
  waiters: Waiters
) {
  const commands = yield* Commands
  const simulation = yield* Simulation
  const waits = <A, E>(what: string, effect: Effect.Effect<A, E>) =>
    Effect.map(Effect.forkDetach(effect, { startImmediately: true }), (fiber) => waiters.fibers.push([what, fiber]))
  switch (event._tag) {
    case "Interfere":
      return yield* simulation.interfere(event.step, event.how, event.times)
    case "Configure":
      return yield* waits("configure", commands.configure(spec))
    case "Submit": {
      const accepted = yield* Effect.result(commands.submit({ spec, mayQueue: true, key: null }))
      if (Result.isSuccess(accepted)) waiters.requests.push(accepted.success.id)
      return
    }
    case "Promote":
      return yield* waits("promote", (yield* Promotions).promote({ spec, flushLsn: 0n }))
    case "Refresh":
      return yield* Effect.ignore(commands.refresh(fetches[event.finds]))
    case "Terminate":
      return yield* waits("terminate", commands.terminate(event.mode))
    case "Signal":
      return yield* Queue.offer(signals, { name: event.name, number: numbers[event.name] })
    case "Escalate":
      return yield* commands.escalate
    case "StopFromOutside":
      return yield* simulation.stopFromOutside
    case "Exit":
      return (yield* simulation.alive) ? yield* simulation.kill(event.exit) : undefined
    case "Interrupt":
      return life.interruptUnsafe()
  }
})

/** Long enough for every pause between attempts, and for whatever is under way. */
const settleWithin = Duration.seconds(45)
/** All deadlines of the end, one after the other, and the longest exit delay. */
const endWithin = Duration.minutes(15)

/** Where a compute may stay: one that cannot fetch its spec tries for ever. */
const resting: ReadonlyArray<Status> = ["empty", "running", "failed", "terminated", "refresh_configuration_pending"]

/** May something hang for ever, and the status with it? */
const mayHang = ({ events }: Scenario): boolean =>
  events.some(
    ({ event }) =>
      (event._tag === "Interfere" && event.how === "hang") || (event._tag === "Refresh" && event.finds === "no answer")
  )

const run = Effect.fnUntraced(function* (scenario: Scenario) {
  const commands = yield* Commands
  const simulation = yield* Simulation
  const state = yield* ComputeState
  const broken: Array<string> = []
  const waiters: Waiters = { fibers: [], requests: [] }
  let atEnd: Snapshot | null = null
  const signals = yield* Queue.unbounded<Signal>()
  if (scenario.stepMillis > 0) {
    yield* simulation.pace(Effect.flatMap(Random.nextIntBetween(0, scenario.stepMillis), Effect.sleep))
  }
  yield* Effect.forkScoped(supervise([signalActor({ next: Queue.take(signals) })]))
  const began = yield* Deferred.make<void>()
  const first: ParsedSpec = scenario.isReplica ? { ...spec, mode: { _tag: "Replica" } } : spec
  const life = yield* Deferred.await(began).pipe(
    Effect.andThen(runLifecycle({ spec: scenario.specGiven ? first : null, inputs: simulatedInputs })),
    // What is asked of a compute that has ended moves its status, but not its end.
    Effect.ensuring(Effect.map(state.now, (now) => void (atEnd = now))),
    // Detached: one that cannot be ended must not keep its report from being made.
    Effect.forkDetach({ startImmediately: true })
  )

  for (const [index, { after, event }] of scenario.events.entries()) {
    // What is wrong from the beginning is so before anything begins.
    if (after > 0 || event._tag !== "Interfere") yield* Deferred.succeed(began, undefined)
    if (after > 0) yield* TestClock.adjust(after)
    if (life.pollUnsafe() !== undefined) break
    const { postgresAlive, status } = yield* state.now
    if (status === "running" && !postgresAlive) broken.push(`before event ${index + 1} it is running without Postgres`)
    yield* happen(event, life, signals, waiters)
  }
  yield* Deferred.succeed(began, undefined)

  for (const step of simulationSteps) yield* simulation.interfere(step, null)
  yield* TestClock.adjust(settleWithin)
  const settled = (yield* state.now).status
  const isEnding = settled.startsWith("termination")
  if (!mayHang(scenario) && !isEnding && !resting.includes(settled)) broken.push(`it stays ${settled} for ever`)
  if (life.pollUnsafe() === undefined) yield* commands.terminate("immediate")
  yield* TestClock.adjust(endWithin)

  const ended = life.pollUnsafe() ?? null
  for (const [what, fiber] of waiters.fibers) {
    const exit = fiber.pollUnsafe()
    if (exit === undefined) broken.push(`${what} was never answered`)
    else if (Exit.hasDies(exit)) broken.push(`${what} died`)
  }
  for (const id of waiters.requests) {
    if ((yield* commands.requests.find(id))?.outcome === null) broken.push("a submitted spec was never answered")
  }
  if (yield* simulation.alive) broken.push("Postgres was left behind")
  const passed = yield* simulation.passed
  const snapshot = atEnd ?? (yield* state.now)
  return {
    scenario,
    broken: [...broken, ...brokenEnd(passed, snapshot, ended), ...brokenHistory(snapshot)],
    passed,
    snapshot,
    ended
  } satisfies ScenarioReport
})

const count = (passed: ReadonlyArray<SimulationStep>, step: SimulationStep): number =>
  passed.filter((one) => one === step).length

/** The end runs once, in order, and nothing goes on after it. */
const brokenEnd = (
  passed: ReadonlyArray<SimulationStep>,
  { error, postgresAlive, status }: Snapshot,
  ended: Exit.Exit<Ended> | null
): ReadonlyArray<string> => {
  const broken: Array<string> = []
  const endSteps: ReadonlyArray<SimulationStep> = ["stop", "onStopped", "leave", "commitLsn end"]
  const first = passed.findIndex((step) => endSteps.includes(step))
  const end = first === -1 ? [] : passed.slice(first)
  for (const step of endSteps) if (count(passed, step) > 1) broken.push(`the end took "${step}" twice`)
  for (const step of end) if (!endSteps.includes(step)) broken.push(`"${step}" was taken after the end began`)
  if (end.indexOf("leave") > end.indexOf("commitLsn end")) broken.push("the last sync came before storage was left")
  if (postgresAlive) broken.push("it says that Postgres is alive, after its end")
  if (ended === null) return [...broken, "it never ended"]
  if (!(finals as ReadonlyArray<Status>).includes(status)) broken.push(`it ended in ${status}`)
  if (Exit.hasDies(ended)) return [...broken, "the lifecycle itself died"]
  if (Exit.isFailure(ended)) return broken
  const { exit, failure } = ended.value
  if (exit !== null && end.at(-1) !== "commitLsn end") broken.push("the last sync was left out")
  const isFailure = failure !== null && failure._tag !== "Abandoned"
  if (isFailure && error === null) broken.push(`it ended by ${failure._tag}, and the status says no error`)
  return broken
}

/** Only rows of the table are taken, one after the other, and an auxiliary actor is never the reason. */
const brokenHistory = ({ error, history }: Snapshot): ReadonlyArray<string> => {
  const broken = history.flatMap((change, index) => {
    const isRow = table.some(
      (row) => row.from === change.from && row.to === change.to && row.because === change.because
    )
    const before = history[index - 1]
    return [
      ...(isRow ? [] : [`${change.from} became ${change.to}, which is no row of the table`]),
      ...(before !== undefined && before.to !== change.from ? [`${before.to} became ${change.from} unseen`] : [])
    ]
  })
  const errors = [error, ...history.map((change) => change.error)]
  return errors.some((text) => text?.includes(auxiliaryTrouble))
    ? [...broken, "an auxiliary actor changed the status"]
    : broken
}

const layerOf = ({ actors = [] }: RunScenarioOptions) =>
  Layer.mergeAll(simulationWith(actors), Layer.mergeAll(Commands.layer, Promotions.layer), simulatedStandby).pipe(
    Layer.provideMerge(ComputeState.layer),
    Layer.provideMerge(Layer.mergeAll(TestClock.layer(), Logger.layer([])))
  )

/**
 * Lets one scenario happen. The same scenario has the same report, whenever and wherever it is run.
 *
 * @example
 * ```ts
 * const { broken } = await Effect.runPromise(runScenario(scenarioOf(7)))
 * ```
 */
export const runScenario = (scenario: Scenario, options: RunScenarioOptions = {}): Effect.Effect<ScenarioReport> =>
  Effect.scoped(run(scenario)).pipe(Effect.provide(layerOf(options)), Random.withSeed(scenario.seed))

/**
 * A seed whose scenario broke a promise: its message has the seed, the scenario and the promises.
 *
 * @example
 * ```ts
 * const ended = await Effect.runPromise(Effect.result(simulateSeeds([7])))
 * const broken = Result.isFailure(ended) && ended.failure instanceof PromiseBroken
 * ```
 */
export class PromiseBroken extends Error {
  override readonly name = "PromiseBroken"
  readonly report: ScenarioReport
  constructor(report: ScenarioReport) {
    const { broken, passed, scenario, snapshot } = report
    const ways = snapshot.history.map(({ to }) => to).join(", ")
    super([...broken, printScenario(scenario), `statuses: ${ways}`, `steps: ${passed.join(", ")}`].join("\n"))
    this.report = report
  }
}

/**
 * Runs the scenarios of these seeds, one after the other, and fails with the first that breaks a promise of the
 * lifecycle. `actors` are kept alive in each of them, and fail, die and hang like the compute's own.
 *
 * @example
 * ```ts
 * const blinker = { name: "blinker", kind: "auxiliary", run: Effect.never } as const
 * await Effect.runPromise(simulateSeeds([1, 2, 3], { actors: [blinker] }))
 * ```
 */
export const simulateSeeds = (
  seeds: Iterable<number>,
  options: RunScenarioOptions = {}
): Effect.Effect<void, PromiseBroken> =>
  Effect.forEach(
    seeds,
    (seed) =>
      Effect.flatMap(runScenario(scenarioOf(seed), options), (report) =>
        report.broken.length === 0 ? Effect.void : Effect.fail(new PromiseBroken(report))
      ),
    { discard: true }
  )
