/**
 * The empty files in PGDATA by which Postgres knows what kind of start this is. `neon.signal` comes with the
 * basebackup and is not ours.
 */
import type { ComputeMode } from "../spec/ParsedSpec.ts"

export const signalFiles = (mode: ComputeMode): ReadonlyArray<string> =>
  mode._tag === "Primary" ? [] : ["standby.signal"]
