/**
 * What the package `compute-ctl` exports: a real compute as a layer, and the parts to build another from.
 */
import * as Effect from "effect/Effect"
import type { Outside } from "./lifecycle/Program.ts"
import type { ProgramOptions } from "./lifecycle/options.ts"

export { Compute } from "./testing/Compute.ts"
export type { Ancestor, ComputeOptions, LogOption, TestDatabase } from "./testing/options.ts"
export { verifierOf } from "./testing/passwords.ts"
export type { DatabaseOptions } from "./testing/testDatabases.ts"
export { type LifecycleOptions, runLifecycle } from "./lifecycle/Lifecycle.ts"
export type { Ended } from "./lifecycle/shutdown.ts"
export { ComputeState } from "./compute/ComputeState.ts"
export type { ApplyReport, Snapshot, Step } from "./compute/snapshot.ts"
export { Commands, type TerminateMode } from "./compute/Commands.ts"
export { type Promoted, Promotions } from "./compute/Promotions.ts"
export type { ProgramOptions } from "./lifecycle/options.ts"
export type { Listening } from "./lifecycle/Program.ts"
export type { ParsedSpec } from "./spec/ParsedSpec.ts"
export { parseSpec } from "./spec/parseSpec.ts"
export { Failure } from "./errors/Failure.ts"
export { Status } from "./compute/transitions.ts"
export { explain, hintOf } from "./errors/policy.ts"
export { toMermaid } from "./compute/transitions.ts"
export type { PlanInputs } from "./postgres/PlanInputs.ts"
export { Simulation, simulationLayer, type SimulationStep } from "./testing/Simulation.ts"

/**
 * Runs one compute to its end, as `compute_ctl` does, and tells how it ended. Fails only with what kept the compute
 * from having a life at all.
 *
 * @example
 * ```ts
 * const main = (options: ProgramOptions) =>
 *   Effect.map(program(options), ({ failure }) => (failure === null ? "ended in order" : explain(failure)))
 * ```
 */
export const program = (options: ProgramOptions, outside: Outside = {}) =>
  Effect.flatMap(
    Effect.promise(() => import("./lifecycle/Program.ts")),
    ({ program: run }) => run(options, outside)
  )
