/**
 * A replica on its way to a primary: its steps, when it may begin, and what the outside reads of them
 * (docs/reference/compute_ctl.md#promote). Decides only; `lifecycle/Promote.ts` does it.
 */
import { specValue } from "../postgres/postgresqlConf.ts"
import type { Lsn } from "../spec/identifiers.ts"
import type { GenericOption, ParsedSpec } from "../spec/ParsedSpec.ts"
import type { PrewarmState } from "./prewarm.ts"

export type PromotionStep = "waiting for the WAL" | "preparing the files" | "promoting Postgres" | "applying the spec"

export type Promotion =
  | { readonly _tag: "NotPromoted" }
  | { readonly _tag: "Promoting"; readonly step: PromotionStep }
  /** Milliseconds of each step; 0 for one that an earlier attempt had taken already. */
  | { readonly _tag: "Completed"; readonly lsnWait: number; readonly promote: number; readonly reconfigure: number }
  /** It may be asked for again: nothing is done twice. `at` is the step that failed; `null`: none was begun. */
  | { readonly _tag: "Failed"; readonly error: string; readonly at: PromotionStep | null }

export const notPromoted: Promotion = { _tag: "NotPromoted" }

/** What is asked of a replica. */
export interface PromotionRequest {
  /** The primary's, as it was until now. */
  readonly spec: ParsedSpec
  /** Where the primary's WAL ended. */
  readonly flushLsn: Lsn
}

/**
 * Why this compute cannot be promoted; `null`: it can. A promotion that only lacks its spec can be finished. Where
 * there is a store to warm the file cache from, a cold one is not let in (docs/reference/compute_ctl.md#promote); one
 * whose warming failed is.
 */
export const promotionRefusal = (spec: ParsedSpec, last: Promotion, prewarm: PrewarmState["status"]): string | null => {
  if (last._tag === "Failed" && last.at === "applying the spec") return null
  if (spec.mode._tag !== "Replica") return `compute mode "${spec.mode._tag}" is not replica`
  const cold = prewarm === "not_prewarmed" ? "NotPrewarmed" : prewarm === "prewarming" ? "Prewarming" : null
  return cold !== null && spec.endpointStorage.address !== null ? `compute ${cold}` : null
}

const standbyNames = "synchronous_standby_names"

/**
 * The spec that the new primary runs by. The walproposer is its synchronous standby from the first commit on, also
 * when the spec leaves that to others. In the file, where the next spec replaces it; what ALTER SYSTEM writes would
 * win over all later specs.
 */
export const promotedSpec = (spec: ParsedSpec): ParsedSpec => {
  const primary: ParsedSpec = { ...spec, mode: { _tag: "Primary" } }
  if (spec.neon === null || spec.neon.safekeepers.length === 0 || specValue(spec)(standbyNames) !== null) return primary
  const setting: GenericOption = { name: standbyNames, value: "walproposer", quoted: true }
  return { ...primary, settings: [...(spec.settings ?? []), setting] }
}

/** What `/promote` answers, in the reference's words; while it is under way it is not promoted yet. */
export const promotionBody = (promotion: Promotion) => {
  switch (promotion._tag) {
    case "NotPromoted":
      return { status: "not_promoted" } as const
    case "Promoting":
      return { status: "not_promoted", step: promotion.step } as const
    case "Completed":
      return {
        status: "completed",
        lsn_wait_time_ms: promotion.lsnWait,
        pg_promote_time_ms: promotion.promote,
        reconfigure_time_ms: promotion.reconfigure
      } as const
    case "Failed":
      return { status: "failed", error: promotion.error } as const
  }
}
