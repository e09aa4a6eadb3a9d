/**
 * What `compute-ctl/testing` exports: peers that speak the real protocols over real sockets, well or badly on demand,
 * a compute whose Postgres and storage are simulated, and random scenarios for it (`simulateSeeds`), in which actors of
 * one's own can be tried:
 *
 * @example
 * ```ts
 * const blinker = { name: "blinker", kind: "auxiliary", run: Effect.never } as const
 * await Effect.runPromise(simulateSeeds([1, 2, 3], { actors: [blinker] }))
 * ```
 */
export type {
  ComputeScript,
  ComputeStep,
  ControlPlaneScript,
  FakeAddress,
  FakeFaults,
  FakeOptions,
  FakeScript,
  FakeSeen,
  PageserverScript,
  PageserverStep,
  RequestFault,
  SafekeeperScript,
  SafekeeperStep,
  SpecAnswer
} from "./fakes/script.ts"
export { ScriptInvalid } from "./fakes/scriptSchema.ts"
export { Fake, makeFake } from "./fakes/startFake.ts"
export { basebackupOf } from "./peers/NeonPeers.ts"
export {
  type ControlPlaneFault,
  type ControlPlaneOptions,
  type ControlPlaneSeen,
  type FakeControlPlane,
  makeFakeControlPlane
} from "./peers/FakeControlPlane.ts"
export {
  type FakePageserver,
  makeFakePageserver,
  type PageserverFault,
  type PageserverOptions,
  type PageserverSeen
} from "./peers/FakePageserver.ts"
export {
  type FakeSafekeeper,
  makeFakeSafekeeper,
  type SafekeeperMode,
  type SafekeeperOptions,
  type SafekeeperSeen
} from "./peers/FakeSafekeeper.ts"
export {
  type FakePageService,
  makeFakePageService,
  type PageServiceFault,
  type PageServiceOptions,
  type PageServiceSeen
} from "./peers/FakePageService.ts"
export { NeonPeers, type NeonPeersOptions } from "./peers/NeonPeers.ts"
export {
  PromiseBroken,
  runScenario,
  type RunScenarioOptions,
  type ScenarioReport,
  simulateSeeds
} from "./runScenario.ts"
export { printScenario, type Scenario, type ScenarioEvent, scenarioOf } from "./scenario.ts"
export {
  type Interference,
  Simulation,
  simulationLayer,
  type SimulationStep,
  simulationSteps,
  simulationWith
} from "./Simulation.ts"
