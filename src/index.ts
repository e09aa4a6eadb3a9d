/**
 * What the package `compute-ctl` exports: a real compute as a layer, and the parts to build another from.
 */
export { Compute, type ComputeOptions } from "./testing/Compute.ts"
export { type LifecycleOptions, runLifecycle } from "./lifecycle/Lifecycle.ts"
export type { Ended } from "./lifecycle/shutdown.ts"
export { ComputeState } from "./compute/ComputeState.ts"
export type { ApplyReport, Snapshot, Step } from "./compute/snapshot.ts"
export { Commands, type TerminateMode } from "./compute/Commands.ts"
export { type Promoted, Promotions } from "./compute/Promotions.ts"
export { program, type Listening, type ProgramOptions } from "./lifecycle/Program.ts"
export type { ParsedSpec } from "./spec/ParsedSpec.ts"
export { parseSpec } from "./spec/parseSpec.ts"
export { Failure } from "./errors/Failure.ts"
export { Status } from "./compute/transitions.ts"
export { explain, hintOf } from "./errors/policy.ts"
export { toMermaid } from "./compute/transitions.ts"
export type { PlanInputs } from "./postgres/PlanInputs.ts"
export { Simulation, simulationLayer, type SimulationStep } from "./testing/Simulation.ts"
