/**
 * The three probes: what each looks at, and what it says. They depend on nothing but the snapshot.
 */
import type { Snapshot } from "../compute/ComputeState.ts"
import { type Dialect, isReady, isStarted, type Refusal, refusal, type Vitals, wireStatus } from "./httpAnswer.ts"
import { vitalsOf } from "./views.ts"

export interface Said {
  readonly body: { readonly status: string }
  /** `null`: the probe passes. */
  readonly refused: Refusal | null
}

const probe = (code: string, passes: (vitals: Vitals) => boolean) => (dialect: Dialect, snapshot: Snapshot): Said => {
  const status = wireStatus(dialect, snapshot.status)
  return {
    body: { status },
    refused: passes(vitalsOf(snapshot))
      ? null
      : refusal(503, code, snapshot.error ?? `compute status is ${status}`, "GET /status says more")
  }
}

export const livez = probe("not_alive", () => true)
export const readyz = probe("not_ready", isReady)
export const startupz = probe("not_started", isStarted)

export const probes = [
  { endpoint: "livez", read: livez },
  { endpoint: "readyz", read: readyz },
  { endpoint: "startupz", read: startupz }
] as const
