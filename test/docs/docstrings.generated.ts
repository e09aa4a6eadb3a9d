/** What docstrings.wire.test.ts makes of the docstrings: see there. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { PlanInputs, ProgramOptions } from "compute-ctl"
import {
  Commands,
  Compute,
  ComputeState,
  Failure,
  Promotions,
  Simulation,
  Status,
  branchTimeline,
  explain,
  hintOf,
  listTimelines,
  parseSpec,
  program,
  removeTimeline,
  runLifecycle,
  simulationLayer,
  toMermaid,
  verifierOf
} from "compute-ctl"
import {
  Fake,
  NeonPeers,
  PromiseBroken,
  ScriptInvalid,
  basebackupOf,
  makeFake,
  makeFakeControlPlane,
  makeFakePageService,
  makeFakePageserver,
  makeFakeSafekeeper,
  printScenario,
  runScenario,
  scenarioOf,
  simulateSeeds,
  simulationSteps,
  simulationWith
} from "compute-ctl/testing"
import {
  databaseAt,
  makeAncestor,
  startCompute,
  startFake
} from "compute-ctl/promise"

declare const inputs: PlanInputs
const wire: unknown = { format_version: 1, cluster: { roles: [], databases: [] } }
const spec = wire
const url: string = "postgresql://127.0.0.1/postgres"
const migrate = async (url: string) => url
const simulated = Layer.provideMerge(
  Layer.mergeAll(simulationLayer, Commands.layer, Promotions.layer),
  ComputeState.layer
)

const run = <A, E>(it: Effect.Effect<A, E, Layer.Success<typeof simulated> | Scope.Scope>) =>
  Effect.runPromise(Effect.scoped(it).pipe(Effect.provide(simulated)))
export const cases: ReadonlyArray<readonly [string, () => Promise<unknown>]> = [
  ["program", async () => {
      const main = (options: ProgramOptions) =>
        Effect.map(program(options), ({ failure }) => (failure === null ? "ended in order" : explain(failure)))
      return [main]
  }],
  ["branchTimeline", async () => {
      const nightly = branchTimeline({ storage: "/var/lib/compute-ctl", from: "0".repeat(32), to: "1".repeat(32) })
      const past = branchTimeline({ storage: "/s", from: "0".repeat(32), to: "2".repeat(32), at: "0/1A2B3C4" })
      return [nightly, past]
  }],
  ["listTimelines", async () => {
      const unused = (storage: string) =>
        Effect.map(listTimelines(storage), (all) => all.filter(({ holder }) => holder === null))
      return [unused]
  }],
  ["removeTimeline", async () => {
      const forgotten = removeTimeline({ storage: "/var/lib/compute-ctl", timelineId: "1".repeat(32) })
      return [forgotten]
  }],
  ["Compute", async () => {
      const orders = Effect.gen(function* () {
        const compute = yield* Compute
        const wire = yield* compute.connect("shop")
        return yield* wire.rows("SELECT current_database()")
      })
      const answer = orders.pipe(Effect.scoped, Effect.provide(Compute.layer({ spec })))
      return [orders, answer]
  }],
  ["Compute.ancestor", async () => {
      const seeded = Compute.ancestor({ spec }, (compute) =>
        Effect.scoped(Effect.flatMap(compute.connect("shop"), (wire) => wire.rows("CREATE TABLE orders ()")))
      )
      const branch = Layer.unwrap(Effect.map(seeded, (branchOf) => Compute.layer({ branchOf })))
      return [seeded, branch]
  }],
  ["Compute.layer", async () => {
      const shop = Compute.layer({ spec, postgres: 17, log: "silent" })
      return [shop]
  }],
  ["Compute.sql", async () => {
      const shop = Compute.sql("shop", "web").pipe(Layer.provideMerge(Compute.layer({ spec })))
      return [shop]
  }],
  ["verifierOf", async () => {
      const roles = [{ name: "web", encrypted_password: verifierOf("a password of the test") }]
      return [roles]
  }],
  ["runLifecycle", () => run(Effect.gen(function* () {
      const spec = yield* Effect.fromResult(parseSpec(wire, { source: "a test", storage: "local" }))
      const parts = Layer.mergeAll(simulationLayer, Commands.layer, Promotions.layer)
      const ended = yield* runLifecycle({ spec, inputs }).pipe(
        Effect.provide(Layer.provideMerge(parts, ComputeState.layer))
      )
      return [spec, parts, ended]
  }))],
  ["ComputeState", () => run(Effect.gen(function* () {
      const state = yield* ComputeState
      const { status } = yield* state.now
      return [state, status]
  }))],
  ["Commands", () => run(Effect.gen(function* () {
      const commands = yield* Commands
      yield* commands.terminate("immediate")
      return [commands]
  }))],
  ["Promotions", async () => {
      const compute = Effect.provide(Effect.void, Promotions.layer)
      return [compute]
  }],
  ["parseSpec", async () => {
      const parsed = parseSpec(wire, { source: "spec.json", storage: "local" })
      const roles = Result.isSuccess(parsed) ? parsed.success.roles : parsed.failure.problems
      return [parsed, roles]
  }],
  ["Failure", async () => {
      const isFailure = Schema.is(Failure)
      const known = isFailure(new Error("of somebody else"))
      return [isFailure, known]
  }],
  ["Status", async () => {
      const names: ReadonlyArray<string> = Status.literals
      return [names]
  }],
  ["explain", async () => {
      const text = (failure: Failure) => explain(failure)
      return [text]
  }],
  ["hintOf", async () => {
      const advice = (failure: Failure) => `${explain(failure)}; ${hintOf(failure)}`
      return [advice]
  }],
  ["toMermaid", async () => {
      const diagram = toMermaid().startsWith("stateDiagram-v2")
      return [diagram]
  }],
  ["Simulation", () => run(Effect.gen(function* () {
      const simulation = yield* Simulation
      yield* simulation.interfere("commitLsn start", "hang")
      return [simulation]
  }))],
  ["simulationLayer", async () => {
      const parts = Layer.mergeAll(simulationLayer, Commands.layer, Promotions.layer)
      const compute = Layer.provideMerge(parts, ComputeState.layer)
      return [parts, compute]
  }],
  ["ScriptInvalid", () => run(Effect.gen(function* () {
      const made = yield* Effect.result(makeFake(JSON.parse('{ "kind": "compute", "stepz": [] }')))
      const wrong = Result.isFailure(made) && made.failure instanceof ScriptInvalid
      return [made, wrong]
  }))],
  ["Fake", async () => {
      const layer = Fake.layer({ kind: "compute", steps: [{ at: "start", delay: "2s" }] })
      const status = Effect.gen(function* () {
        const { address } = yield* Fake
        return yield* Effect.promise(() => fetch(`${address.url}/status`).then((answer) => answer.json()))
      })
      return [layer, status]
  }],
  ["makeFake", () => run(Effect.gen(function* () {
      const { address } = yield* makeFake({ kind: "compute", steps: [{ at: "start", delay: "2s" }] })
      return [address]
  }))],
  ["basebackupOf", () => run(Effect.gen(function* () {
      const archive = yield* basebackupOf("/var/lib/postgresql/17/main")
      return [archive]
  }))],
  ["makeFakeControlPlane", () => run(Effect.gen(function* () {
      const answer = () => ({ status: "empty", compute_ctl_config: { jwks: { keys: [] } } })
      const { uri } = yield* makeFakeControlPlane({ computeId: "compute-1", answer, fault: "503", failFirst: 2 })
      return [answer, uri]
  }))],
  ["makeFakePageserver", () => run(Effect.gen(function* () {
      const ids = { tenant: "a".repeat(32), timeline: "b".repeat(32) }
      const { url } = yield* makeFakePageserver({ ...ids, archive: new Uint8Array(), fault: "hang" })
      return [ids, url]
  }))],
  ["makeFakeSafekeeper", () => run(Effect.gen(function* () {
      const ids = { tenant: "a".repeat(32), timeline: "b".repeat(32) }
      const { address } = yield* makeFakeSafekeeper({ ...ids, flush: 0x20n, mode: "ok" })
      return [ids, address]
  }))],
  ["makeFakePageService", () => run(Effect.gen(function* () {
      const ids = { tenant: "a".repeat(32), timeline: "b".repeat(32) }
      const { url } = yield* makeFakePageService({ ...ids, archive: new Uint8Array() })
      return [ids, url]
  }))],
  ["NeonPeers", async () => {
      const storage = Effect.map(NeonPeers, ({ storageFields }) => storageFields)
      const fields = storage.pipe(Effect.provide(NeonPeers.layer({ archive: new Uint8Array() })), Effect.scoped)
      return [storage, fields]
  }],
  ["PromiseBroken", async () => {
      const ended = await Effect.runPromise(Effect.result(simulateSeeds([7])))
      const broken = Result.isFailure(ended) && ended.failure instanceof PromiseBroken
      return [ended, broken]
  }],
  ["runScenario", async () => {
      const { broken } = await Effect.runPromise(runScenario(scenarioOf(7)))
      return [broken]
  }],
  ["simulateSeeds", async () => {
      const blinker = { name: "blinker", kind: "auxiliary", run: Effect.never } as const
      await Effect.runPromise(simulateSeeds([1, 2, 3], { actors: [blinker] }))
      return [blinker]
  }],
  ["printScenario", async () => {
      const text = printScenario(scenarioOf(7))
      return [text]
  }],
  ["scenarioOf", async () => {
      const scenario = scenarioOf(7)
      return [scenario]
  }],
  ["simulationSteps", async () => {
      const first: string = simulationSteps[0]
      return [first]
  }],
  ["simulationWith", async () => {
      const meter = { name: "meter", kind: "auxiliary", run: Effect.never } as const
      const parts = simulationWith([meter])
      return [meter, parts]
  }],
  ["databaseAt", async () => {
      await using database = await databaseAt(url, { migrate })
      return [database]
  }],
  ["makeAncestor", async () => {
      await using made = await makeAncestor({ spec }, (pg) => migrate(pg.urlOf("shop", "web")))
      await using pg = await startCompute({ branchOf: made.ancestor })
      return [made, pg]
  }],
  ["startCompute", async () => {
      await using pg = await startCompute({
        spec: { format_version: 1, cluster: { roles: [{ name: "web" }], databases: [{ name: "shop", owner: "web" }] } }
      })
      const url = pg.urlOf("shop", "web")
      return [pg, url]
  }],
  ["startFake", async () => {
      await using compute = await startFake({ kind: "compute", steps: [{ at: "start", delay: "2s" }] })
      const status = await fetch(`${compute.url}/status`)
      return [compute, status]
  }]
]
