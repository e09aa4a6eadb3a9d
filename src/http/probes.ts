/**
 * The three probes. They depend on nothing but the snapshot.
 */
import type { Snapshot } from "../compute/snapshot.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { type Refusal, refusal, wireStatus } from "./refusals.ts"
import { isReady, isStarted, type Vitals, vitalsOf } from "./views.ts"

export interface ProbeResult {
  readonly body: { readonly status: string }
  /** `null`: the probe passes. */
  readonly refused: Refusal | null
}

const probe =
  (code: string, passes: (vitals: Vitals) => boolean) =>
  (apiVersion: ApiVersion, snapshot: Snapshot): ProbeResult => {
    const status = wireStatus(apiVersion, snapshot.status)
    return {
      body: { status },
      refused: passes(vitalsOf(snapshot))
        ? null
        : refusal(
            503,
            code,
            snapshot.error ?? snapshot.notAccepting ?? `compute status is ${status}`,
            "GET /status and /conditions say more"
          )
    }
  }

export const livez = probe("not_alive", () => true)
export const readyz = probe("not_ready", isReady)
export const startupz = probe("not_started", isStarted)
