/**
 * The Prometheus text format 0.0.4: families, histograms, and the families of a snapshot of the compute's state.
 * Counters that others count are not known here.
 *
 * Derived afresh for every scrape, so a status that has passed leaves no sample behind
 * (docs/reference/compute_ctl.md#metrics).
 */
import { displayStatus, type Status } from "../compute/transitions.ts"

export interface Sample {
  /** Of the name, for the parts of a histogram. */
  readonly suffix?: "_bucket" | "_sum" | "_count"
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

export interface Family {
  readonly name: string
  readonly type: "gauge" | "counter" | "histogram"
  readonly help: string
  readonly samples: ReadonlyArray<Sample>
}

const escapeHelp = (text: string): string => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")
export const escapeLabel = (text: string): string => escapeHelp(text).replaceAll('"', '\\"')

const printValue = (value: number): string =>
  Number.isNaN(value) ? "NaN" : value === Infinity ? "+Inf" : value === -Infinity ? "-Inf" : String(value)

/** The line of a sample up to its value. */
export const printSeries = (name: string, { labels, suffix }: Pick<Sample, "labels" | "suffix">): string => {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escapeLabel(text)}"`)
  return `${name}${suffix ?? ""}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} `
}

const printSample = (name: string, sample: Sample): string =>
  `${printSeries(name, sample)}${printValue(sample.value)}\n`

/** Families without samples are left out: an empty one is an error to some scrapers. */
export const printFamilies = (families: ReadonlyArray<Family>): string =>
  families
    .filter(({ samples }) => samples.length > 0)
    .map((family) => `${printHead(family)}${family.samples.map((sample) => printSample(family.name, sample)).join("")}`)
    .join("")

export const printHead = ({ help, name, type }: Pick<Family, "name" | "type" | "help">): string =>
  `# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${type}\n`

/** The part of a snapshot that is measured. */
export interface Measured {
  readonly status: Status
  /** What `/readyz` answers. */
  readonly ready: boolean
  readonly steps: ReadonlyArray<{ readonly name: string; readonly millis: number }>
  readonly downtime: { readonly current: number; readonly total: number }
  readonly totalStartupMillis: number
  /** Milliseconds since the epoch. */
  readonly lastActive: number | null
  /** `null`: the compute does not end by itself. */
  readonly idleExits: { readonly afterSeconds: number | null; readonly count: number } | null
  /** `null`: this is no replica. */
  readonly replica: {
    readonly receiver: string | null
    readonly lagBytes: number
    readonly lagSeconds: number
    /** Milliseconds since the epoch; `null`: never. */
    readonly lastHeard: number | null
    readonly maxLagSeconds: number
  } | null
  /** What is not as it should be while the compute serves. */
  readonly conditions: ReadonlyArray<{ readonly code: string; readonly about?: string }>
}

/** Seconds. A start is a matter of milliseconds at home and of minutes in trouble. */
export const stepBounds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] as const

const one = (value: number): ReadonlyArray<Sample> => [{ labels: {}, value }]

const replicaFamilies = (replica: Measured["replica"]): ReadonlyArray<Family> => {
  if (replica === null) return []
  const gauge = (name: string, help: string, samples: ReadonlyArray<Sample>): Family => ({
    name,
    type: "gauge",
    help,
    samples
  })
  return [
    gauge("compute_ctl_replica_receiver", "1 for the status of the WAL receiver; none: it is not connected", [
      { labels: { status: replica.receiver ?? "none" }, value: 1 }
    ]),
    gauge("compute_ctl_replica_lag_bytes", "WAL that the replica knows of and has not replayed", one(replica.lagBytes)),
    gauge(
      "compute_ctl_replica_lag_seconds",
      "For how long it has known of the oldest WAL that it has not replayed",
      one(replica.lagSeconds)
    ),
    gauge(
      "compute_ctl_replica_max_lag_seconds",
      "Lag or silence after which the replica is not ready; 0: none",
      one(replica.maxLagSeconds)
    ),
    gauge(
      "compute_ctl_replica_last_heard_seconds",
      "When the primary was last heard of, in seconds since the epoch",
      replica.lastHeard === null ? [] : one(replica.lastHeard / 1000)
    )
  ]
}

const startFamilies = (measured: Measured): ReadonlyArray<Family> => {
  // A step may pass twice; two samples with the same labels would spoil the whole scrape.
  const steps = new Map(measured.steps.map(({ millis, name }) => [name, millis]))
  const passes = Map.groupBy(measured.steps, ({ name }) => name)
  return [
    {
      name: "compute_ctl_start_ms",
      type: "gauge",
      help: "How long the start took",
      samples: measured.totalStartupMillis > 0 ? one(measured.totalStartupMillis) : []
    },
    {
      name: "compute_ctl_step_ms",
      type: "gauge",
      help: "How long a step took when it last passed",
      samples: [...steps].map(([step, value]) => ({ labels: { step }, value }))
    },
    {
      name: "compute_ctl_step_seconds",
      type: "histogram",
      help: "How long the steps of the start took",
      samples: [...passes].flatMap(([step, times]) =>
        histogramSamples(
          { step },
          histogramOf(
            stepBounds,
            times.map(({ millis }) => millis / 1000)
          )
        )
      )
    }
  ]
}

export const familiesOf = (measured: Measured, buildTag: string): ReadonlyArray<Family> => [
  {
    name: "compute_ctl_up",
    type: "gauge",
    help: "1 for the status this compute has",
    samples: [{ labels: { build_tag: buildTag, status: displayStatus(measured.status) }, value: 1 }]
  },
  {
    name: "compute_ctl_ready",
    type: "gauge",
    help: "1 while users' connections are worth sending here, as GET /readyz says",
    samples: one(measured.ready ? 1 : 0)
  },
  {
    name: "compute_ctl_condition",
    type: "gauge",
    help: "1 for each condition that GET /conditions tells",
    samples: measured.conditions.map(({ about, code }) => ({
      labels: { code, ...(about === undefined ? {} : { about }) },
      value: 1
    }))
  },
  ...replicaFamilies(measured.replica),
  {
    name: "compute_pg_current_downtime_ms",
    type: "gauge",
    help: "How long Postgres has not answered the activity monitor; 0 while it answers",
    samples: one(measured.downtime.current)
  },
  {
    name: "compute_pg_downtime_ms_total",
    type: "counter",
    help: "How long Postgres has not answered the activity monitor, in all",
    samples: one(measured.downtime.total)
  },
  ...startFamilies(measured),
  {
    name: "compute_ctl_last_active_seconds",
    type: "gauge",
    help: "When Postgres was last used, in seconds since the epoch",
    samples: measured.lastActive === null ? [] : one(measured.lastActive / 1000)
  },
  {
    name: "compute_ctl_exit_when_idle_seconds",
    type: "gauge",
    help: "After so long without use the compute ends by itself",
    samples: measured.idleExits?.afterSeconds == null ? [] : one(measured.idleExits.afterSeconds)
  },
  {
    name: "compute_ctl_idle_exits_total",
    type: "counter",
    help: "1 once the compute ends because nobody has used it",
    samples: measured.idleExits === null ? [] : one(measured.idleExits.count)
  }
]

/**
 * Counts of values by size. Labels and names are the caller's. Changed in place, because it is counted up per request.
 */
export interface Histogram {
  /** Upper ends, rising; what is larger than all is counted beyond them. */
  readonly bounds: ReadonlyArray<number>
  /** One more than `bounds`; not cumulative. */
  readonly counts: Array<number>
  sum: number
}

export const emptyHistogram = (bounds: ReadonlyArray<number>): Histogram => ({
  bounds,
  counts: Array.from({ length: bounds.length + 1 }, () => 0),
  sum: 0
})

export const observe = (histogram: Histogram, value: number): void => {
  const found = histogram.bounds.findIndex((bound) => value <= bound)
  const index = found === -1 ? histogram.bounds.length : found
  histogram.counts[index] = (histogram.counts[index] ?? 0) + 1
  histogram.sum += value
}

export const histogramOf = (bounds: ReadonlyArray<number>, values: ReadonlyArray<number>): Histogram => {
  const histogram = emptyHistogram(bounds)
  for (const value of values) observe(histogram, value)
  return histogram
}

/** The values of the samples of a histogram: cumulative buckets, then the sum and the count. */
export const cumulativeOf = ({ counts, sum }: Histogram): ReadonlyArray<number> => {
  let below = 0
  const values = counts.map((count) => (below += count))
  values.push(sum, below)
  return values
}

export const histogramSamples = (labels: Sample["labels"], histogram: Histogram): ReadonlyArray<Sample> => {
  const ends = [...histogram.bounds.map(String), "+Inf"]
  return cumulativeOf(histogram).map((value, index): Sample => {
    const le = ends[index]
    if (le !== undefined) return { suffix: "_bucket", labels: { ...labels, le }, value }
    return { suffix: index === ends.length ? "_sum" : "_count", labels, value }
  })
}
