/**
 * The three probes. They depend on nothing but the snapshot, and anybody may ask: where tokens are asked for, what they
 * say is the status and no more, since an error may quote a spec's SQL.
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

export interface ProbeOptions {
  readonly apiVersion: ApiVersion
  /** If not, everybody may hear of errors. */
  readonly asksForTokens: () => boolean
}

const statusText = (status: string, { waitingFor }: Snapshot): string =>
  `compute status is ${status}${waitingFor === null ? "" : `: it waits for ${waitingFor}`}`

const notFollowing = ({ replica }: Snapshot): string | null =>
  (replica?.notFollowing ?? null) === null ? null : `this replica is not ready, because ${replica?.notFollowing}`

const probe =
  (code: string, passes: (vitals: Vitals) => boolean) =>
  ({ apiVersion, asksForTokens }: ProbeOptions, snapshot: Snapshot): ProbeResult => {
    const status = wireStatus(apiVersion, snapshot.status)
    return {
      body: { status },
      refused: passes(vitalsOf(snapshot))
        ? null
        : refusal(
            503,
            code,
            (asksForTokens() ? null : (snapshot.error ?? snapshot.notAccepting ?? notFollowing(snapshot))) ??
              statusText(status, snapshot),
            "GET /status and /conditions say more"
          )
    }
  }

export const livez = probe("not_alive", () => true)
export const readyz = probe("not_ready", isReady)
export const startupz = probe("not_started", isStarted)
