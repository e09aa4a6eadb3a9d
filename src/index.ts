/**
 * What the package `compute-ctl` exports: a real compute as a layer, and the parts to build another from.
 */
export { Compute, type LiveOptions } from "./testing/LiveCompute.ts"
export { life, type Ended } from "./Compute.ts"
export { ComputeState, type Snapshot, type Step } from "./ComputeState.ts"
export { Orders, type TerminateMode } from "./Orders.ts"
export { type Promoted, Promotions } from "./Promotions.ts"
export { program, type Listening, type ProgramOptions } from "./Program.ts"
export type { ParsedSpec } from "./domain/ParsedSpec.ts"
export { parseSpec } from "./domain/parseSpec.ts"
export { Failure } from "./domain/Failure.ts"
export { Status } from "./lifecycle/Status.ts"
export { explain, hintOf } from "./lifecycle/explain.ts"
export { toMermaid } from "./lifecycle/diagram.ts"
export type { Receipt } from "./domain/Receipt.ts"
export type { Facts } from "./plan/conf/Facts.ts"
export { memoryRooms, type Place, World } from "./testing/memoryRooms.ts"
