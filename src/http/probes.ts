/**
 * The three probes. They depend on nothing but the snapshot, and anybody may ask: where tokens are asked for, what they
 * say is the status and no more, since an error may quote a spec's SQL.
 */
import type { Snapshot } from "../compute/snapshot.ts"
import type { ServerOptions } from "./options.ts"
import { type Refusal, refusal, wireStatus } from "./refusals.ts"
import { isReady, isStarted, type Vitals, vitalsOf } from "./views.ts"

export interface ProbeResult {
  readonly body: { readonly status: string }
  /** `null`: the probe passes. */
  readonly refused: Refusal | null
}

type ProbeOptions = Pick<ServerOptions, "apiVersion" | "verifier">

const probe =
  (code: string, passes: (vitals: Vitals) => boolean) =>
  ({ apiVersion, verifier }: ProbeOptions, snapshot: Snapshot): ProbeResult => {
    const status = wireStatus(apiVersion, snapshot.status)
    return {
      body: { status },
      refused: passes(vitalsOf(snapshot))
        ? null
        : refusal(
            503,
            code,
            (verifier === null ? (snapshot.error ?? snapshot.notAccepting) : null) ?? `compute status is ${status}`,
            "GET /status and /conditions say more"
          )
    }
  }

export const livez = probe("not_alive", () => true)
export const readyz = probe("not_ready", isReady)
export const startupz = probe("not_started", isStarted)
