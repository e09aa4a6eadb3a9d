/**
 * What a compute is from its first spec to its end: a later spec is about the same tenant and timeline, in the same
 * mode, or it is refused before anything is done with it. Decides only.
 */
import { SpecConflict } from "../errors/Failure.ts"
import { printLsn } from "../spec/identifiers.ts"
import { type ComputeMode, modeName, type ParsedSpec } from "../spec/ParsedSpec.ts"

type Problem = SpecConflict["problems"][number]

/** Where the spec says whose it is: in a field, or with Neon's storage in a setting. */
const placeOf = (spec: ParsedSpec, what: "tenant" | "timeline"): string => {
  const index = spec.settings?.findIndex(({ name }) => name.toLowerCase() === `neon.${what}_id`) ?? -1
  const inSettings = spec.neon?.fromSettings.has(what) === true && index >= 0
  return inSettings ? `spec.cluster.settings[${index}].value` : `spec.${what}_id`
}

const identityProblems = (running: ParsedSpec, next: ParsedSpec): ReadonlyArray<Problem> =>
  (["tenant", "timeline"] as const)
    .filter((what) => running[what] !== next[what])
    .map((what) => ({
      path: placeOf(next, what),
      message: `this compute runs ${what} ${running[what]}, so ${next[what]} needs a compute of its own`
    }))

const modeMessage = (running: ComputeMode, next: ComputeMode): string | null => {
  if (running._tag === "Static" && next._tag === "Static")
    return running.lsn === next.lsn
      ? null
      : `this compute reads at ${printLsn(running.lsn)}, so ${printLsn(next.lsn)} needs a compute of its own`
  if (running._tag === next._tag) return null
  return running._tag === "Replica" && next._tag === "Primary"
    ? "this compute is a replica: POST /promote makes a primary of it"
    : `this compute is a ${modeName(running)}, so a ${modeName(next)} needs a compute of its own`
}

const conflictOf = (problems: ReadonlyArray<Problem>): SpecConflict | null =>
  problems.length === 0 ? null : new SpecConflict({ problems })

/** Of a spec to be applied to what runs; `null`: none, also when nothing runs yet. */
export const configureConflict = (running: ParsedSpec | null, next: ParsedSpec): SpecConflict | null => {
  if (running === null) return null
  const mode = modeMessage(running.mode, next.mode)
  return conflictOf([
    ...identityProblems(running, next),
    ...(mode === null ? [] : [{ path: "spec.mode", message: mode }])
  ])
}

/** Of a spec that may change the mode: the one that a replica is promoted with. */
export const identityConflict = (running: ParsedSpec | null, next: ParsedSpec): SpecConflict | null =>
  running === null ? null : conflictOf(identityProblems(running, next))
