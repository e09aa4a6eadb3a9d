/**
 * The counters and gauges of the vm-monitor, and their Prometheus families. The original counts nothing.
 *
 * Kept in memory: lost with the process, shared by all connections. Renders no text; `telemetry/prometheus.ts` does.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import type { Family, Sample } from "../telemetry/prometheus.ts"

/** Counts since the process began, and the last known values. */
export interface VmCounts {
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
  readonly agentErrors: number
  readonly samples: number
  readonly sampleFailures: number
  /** `null`: not known, or not managed. */
  readonly meanBytes: number | null
  readonly thresholdBytes: number | null
  readonly cacheBytes: number | null
}

export const zeroCounts: VmCounts = {
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
  agentErrors: 0,
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

export const vmFamilies = (counts: VmCounts): ReadonlyArray<Family> => [
  gauge("compute_vm_agents_connected", "Autoscaler agents connected now", plain(counts.connected)),
  counter(
    "compute_vm_connections_total",
    "Connections of autoscaler agents, and how many of them a newer one replaced or we refused",
    by("what", { accepted: counts.connections, replaced: counts.replaced, refused: counts.refused })
  ),
  counter("compute_vm_health_checks_total", "Health checks answered", plain(counts.healthChecks)),
  counter("compute_vm_upscale_requests_total", "Times more memory was asked for", plain(counts.upscaleRequests)),
  counter(
    "compute_vm_upscales_total",
    "Notifications of more memory",
    by("outcome", { confirmed: counts.upscalesConfirmed, failed: counts.upscalesFailed })
  ),
  counter(
    "compute_vm_downscales_total",
    "Requests to give memory back",
    by("outcome", {
      granted: counts.downscalesGranted,
      denied: counts.downscalesDenied,
      failed: counts.downscalesFailed
    })
  ),
  counter(
    "compute_vm_unusable_messages_total",
    "Messages that one side could not use",
    by("whose", { agent: counts.unusableMessages, ours: counts.agentErrors })
  ),
  counter(
    "compute_vm_memory_samples_total",
    "Looks at the memory of the cgroup",
    by("outcome", { ok: counts.samples, failed: counts.sampleFailures })
  ),
  gauge(
    "compute_vm_memory_mean_bytes",
    "Anonymous memory of the cgroup, mean of the last samples",
    plain(counts.meanBytes)
  ),
  gauge("compute_vm_memory_threshold_bytes", "Memory use at which more is asked for", plain(counts.thresholdBytes)),
  gauge("compute_vm_file_cache_limit_bytes", "Size the local file cache was set to", plain(counts.cacheBytes))
]

/** Names of the counters; the gauges, which may be unknown, are not among them. */
type Count = { [K in keyof VmCounts]: null extends VmCounts[K] ? never : K }[keyof VmCounts]

export class VmMetrics extends Context.Service<
  VmMetrics,
  {
    readonly now: Effect.Effect<VmCounts>
    readonly count: (what: Count, by?: number) => Effect.Effect<void>
    readonly note: (
      values: Partial<Pick<VmCounts, "meanBytes" | "thresholdBytes" | "cacheBytes">>
    ) => Effect.Effect<void>
  }
>()("compute/vm/VmMetrics") {
  static readonly layer: Layer.Layer<VmMetrics> = Layer.effect(
    VmMetrics,
    Effect.gen(function* () {
      const ref = yield* Ref.make(zeroCounts)
      return VmMetrics.of({
        now: Ref.get(ref),
        count: (what, by = 1) => Ref.update(ref, (old) => ({ ...old, [what]: old[what] + by })),
        note: (values) => Ref.update(ref, (old) => ({ ...old, ...values }))
      })
    })
  )
}
