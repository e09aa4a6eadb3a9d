/**
 * What the vm-monitor counts, and how it looks in the Prometheus text format. The original counts nothing.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import type { Family, Sample } from "../telemetry/prometheus.ts"

/** Counts since the process began, and the last known values. */
export interface Tally {
  /** Agents connected now: 0 or 1, or more for the moment of a replacement. */
  readonly connected: number
  readonly connections: number
  readonly replaced: number
  readonly refused: number
  readonly healthChecks: number
  readonly upscaleRequests: number
  readonly upscalesConfirmed: number
  readonly upscalesFailed: number
  readonly downscalesGranted: number
  readonly downscalesDenied: number
  readonly downscalesFailed: number
  readonly unusableMessages: number
  readonly complaints: number
  readonly samples: number
  readonly sampleFailures: number
  /** `null`: not known, or not managed. */
  readonly meanBytes: number | null
  readonly thresholdBytes: number | null
  readonly cacheBytes: number | null
}

export const zeroTally: Tally = {
  connected: 0,
  connections: 0,
  replaced: 0,
  refused: 0,
  healthChecks: 0,
  upscaleRequests: 0,
  upscalesConfirmed: 0,
  upscalesFailed: 0,
  downscalesGranted: 0,
  downscalesDenied: 0,
  downscalesFailed: 0,
  unusableMessages: 0,
  complaints: 0,
  samples: 0,
  sampleFailures: 0,
  meanBytes: null,
  thresholdBytes: null,
  cacheBytes: null
}

const plain = (value: number | null): ReadonlyArray<Sample> => (value === null ? [] : [{ labels: {}, value }])

const by = (label: string, values: Readonly<Record<string, number>>): ReadonlyArray<Sample> =>
  Object.entries(values).map(([text, value]) => ({ labels: { [label]: text }, value }))

const counter = (name: string, help: string, samples: ReadonlyArray<Sample>): Family => ({
  name,
  type: "counter",
  help,
  samples
})
const gauge = (name: string, help: string, samples: ReadonlyArray<Sample>): Family => ({
  name,
  type: "gauge",
  help,
  samples
})

export const vmFamilies = (tally: Tally): ReadonlyArray<Family> => [
  gauge("compute_vm_agents_connected", "Autoscaler agents connected now", plain(tally.connected)),
  counter(
    "compute_vm_connections_total",
    "Connections of autoscaler agents, and how many of them a newer one replaced or we refused",
    by("what", { accepted: tally.connections, replaced: tally.replaced, refused: tally.refused })
  ),
  counter("compute_vm_health_checks_total", "Health checks answered", plain(tally.healthChecks)),
  counter("compute_vm_upscale_requests_total", "Times more memory was asked for", plain(tally.upscaleRequests)),
  counter(
    "compute_vm_upscales_total",
    "Notifications of more memory",
    by("outcome", { confirmed: tally.upscalesConfirmed, failed: tally.upscalesFailed })
  ),
  counter(
    "compute_vm_downscales_total",
    "Requests to give memory back",
    by("outcome", { granted: tally.downscalesGranted, denied: tally.downscalesDenied, failed: tally.downscalesFailed })
  ),
  counter(
    "compute_vm_unusable_messages_total",
    "Messages that one side could not use",
    by("whose", { agent: tally.unusableMessages, ours: tally.complaints })
  ),
  counter(
    "compute_vm_memory_samples_total",
    "Looks at the memory of the cgroup",
    by("outcome", { ok: tally.samples, failed: tally.sampleFailures })
  ),
  gauge(
    "compute_vm_memory_mean_bytes",
    "Anonymous memory of the cgroup, mean of the last samples",
    plain(tally.meanBytes)
  ),
  gauge("compute_vm_memory_threshold_bytes", "Memory use at which more is asked for", plain(tally.thresholdBytes)),
  gauge("compute_vm_file_cache_limit_bytes", "Size the local file cache was set to", plain(tally.cacheBytes))
]

// ---------------------------------------------------------------------------------------------------------------------
// What the vm-monitor has seen and decided, for whoever renders metrics. Lost with the process.
// ---------------------------------------------------------------------------------------------------------------------

/** The names of the tally's counts; the values that may be unknown are not among them. */
type Count = { [K in keyof Tally]: null extends Tally[K] ? never : K }[keyof Tally]

export class VmTally extends Context.Service<
  VmTally,
  {
    readonly now: Effect.Effect<Tally>
    readonly count: (what: Count, by?: number) => Effect.Effect<void>
    readonly note: (values: Partial<Pick<Tally, "meanBytes" | "thresholdBytes" | "cacheBytes">>) => Effect.Effect<void>
  }
>()("compute/vm/VmTally") {
  static readonly layer: Layer.Layer<VmTally> = Layer.effect(
    VmTally,
    Effect.gen(function* () {
      const ref = yield* Ref.make(zeroTally)
      return VmTally.of({
        now: Ref.get(ref),
        count: (what, by = 1) => Ref.update(ref, (old) => ({ ...old, [what]: old[what] + by })),
        note: (values) => Ref.update(ref, (old) => ({ ...old, ...values }))
      })
    })
  )
}
