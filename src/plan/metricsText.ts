/**
 * What a snapshot says in the Prometheus text format 0.0.4. Counters that others count are not known here.
 *
 * Derived afresh for every scrape, so a status that has passed leaves no sample behind (reference section 7.5).
 */
import type { Status } from "../lifecycle/Status.ts"
import { displayStatus } from "../lifecycle/Status.ts"

export interface Sample {
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

export interface Family {
  readonly name: string
  readonly type: "gauge" | "counter"
  readonly help: string
  readonly samples: ReadonlyArray<Sample>
}

const escapeHelp = (text: string): string => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n")
export const escapeLabel = (text: string): string => escapeHelp(text).replaceAll("\"", "\\\"")

const printValue = (value: number): string =>
  Number.isNaN(value) ? "NaN" : value === Infinity ? "+Inf" : value === -Infinity ? "-Inf" : String(value)

const printSample = (name: string, { labels, value }: Sample): string => {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escapeLabel(text)}"`)
  return `${name}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} ${printValue(value)}\n`
}

/** Families without samples are left out: an empty one is an error to some scrapers. */
export const printFamilies = (families: ReadonlyArray<Family>): string =>
  families.filter(({ samples }) => samples.length > 0).map(({ help, name, samples, type }) =>
    `# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${type}\n${samples.map((sample) => printSample(name, sample)).join("")}`
  ).join("")

/** The part of a snapshot that is measured. */
export interface Measured {
  readonly status: Status
  readonly steps: ReadonlyArray<{ readonly name: string; readonly millis: number }>
  readonly downtime: { readonly current: number; readonly total: number }
  readonly totalStartupMillis: number
  /** Milliseconds since the epoch. */
  readonly lastActive: number | null
}

const one = (value: number): ReadonlyArray<Sample> => [{ labels: {}, value }]

export const familiesOf = (measured: Measured, buildTag: string): ReadonlyArray<Family> => {
  // A step may pass twice; two samples with the same labels would spoil the whole scrape.
  const steps = new Map(measured.steps.map(({ millis, name }) => [name, millis]))
  return [
    {
      name: "compute_ctl_up",
      type: "gauge",
      help: "1 for the status this compute has",
      samples: [{ labels: { build_tag: buildTag, status: displayStatus(measured.status) }, value: 1 }]
    },
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
      name: "compute_ctl_last_active_seconds",
      type: "gauge",
      help: "When Postgres was last used, in seconds since the epoch",
      samples: measured.lastActive === null ? [] : one(measured.lastActive / 1000)
    }
  ]
}
