/**
 * What `compute-ctl/testing` exports: peers that speak the real protocols over real sockets, well or badly on demand,
 * and a compute whose Postgres and storage are simulated.
 */
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
export { type Interference, Simulation, simulationLayer, type SimulationStep } from "./Simulation.ts"
