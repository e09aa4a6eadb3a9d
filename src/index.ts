/**
 * What the package `compute-ctl` exports: a real compute as a layer, and the parts to build another from.
 */
import * as Effect from "effect/Effect"
import type { Outside } from "./lifecycle/Program.ts"
import type { ProgramOptions } from "./lifecycle/options.ts"
import type { BranchOptions, RemoveOptions } from "./storage/local/named.ts"

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

export type { BranchOptions, RemoveOptions } from "./storage/local/named.ts"
export type { TimelineInfo } from "./storage/local/timelines.ts"

/**
 * Makes a branch of a timeline of local storage, as `compute_ctl branch` does, while its compute runs or not; the LSN
 * at which the two go apart. A compute whose spec has `to` as its `timeline_id` then runs on it.
 *
 * @example
 * ```ts
 * const nightly = branchTimeline({ storage: "/var/lib/compute-ctl", from: "0".repeat(32), to: "1".repeat(32) })
 * const past = branchTimeline({ storage: "/s", from: "0".repeat(32), to: "2".repeat(32), at: "0/1A2B3C4" })
 * ```
 */
export const branchTimeline = (options: BranchOptions) =>
  Effect.flatMap(
    Effect.promise(() => import("./storage/local/named.ts")),
    ({ branchNamed }) => branchNamed(options)
  )

/**
 * The timelines of a local storage: of what each is a branch, what it takes on the disk, and who runs on it.
 *
 * @example
 * ```ts
 * const unused = (storage: string) =>
 *   Effect.map(listTimelines(storage), (all) => all.filter(({ holder }) => holder === null))
 * ```
 */
export const listTimelines = (storage: string) =>
  Effect.flatMap(
    Effect.promise(() => import("./storage/local/timelines.ts")),
    ({ listTimelines: list }) => list(storage)
  )

/**
 * Removes a timeline of local storage that nobody uses; its branches stay whole.
 *
 * @example
 * ```ts
 * const forgotten = removeTimeline({ storage: "/var/lib/compute-ctl", timelineId: "1".repeat(32) })
 * ```
 */
export const removeTimeline = (options: RemoveOptions) =>
  Effect.flatMap(
    Effect.promise(() => import("./storage/local/named.ts")),
    ({ removeNamed }) => removeNamed(options)
  )
