/**
 * What was answered, counted where every answer begins: how often, with what, and how fast; and which connections were
 * dropped. No answer is written without being counted, whatever made it.
 */
import { type OutgoingHttpHeader, type OutgoingHttpHeaders, ServerResponse } from "node:http"
import {
  emptyHistogram,
  type Histogram,
  histogramSamples,
  observe,
  printHead,
  printSample
} from "../telemetry/prometheus.ts"

/**
 * Each sample stays printed until it changes, because metrics are read about as often as requests are counted. Labels
 * come from small fixed sets, so that a stranger cannot grow them.
 */
export interface Traffic {
  /** `route` is the declared path; `null`: there is none. */
  readonly count: (method: string | undefined, route: string | null, status: number, millis: number) => void
  /** A connection was closed to keep room: it was silent for the longest time, or did not read what it asked for. */
  readonly dropped: (reason: "silent" | "slow") => void
  /** In the Prometheus text format. */
  readonly text: () => string
}

const methods = new Set(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])

/** Seconds. */
const bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60] as const

const requests = { name: "compute_ctl_http_requests_total", type: "counter", help: "HTTP requests answered" } as const
const durations = {
  name: "compute_ctl_http_request_seconds",
  type: "histogram",
  help: "How long HTTP requests took to be answered; a stream is answered when it begins"
} as const
const drops = {
  name: "compute_ctl_http_connections_dropped_total",
  type: "counter",
  help: "HTTP connections closed to keep room for others: silent for the longest time, or too slow to read"
} as const

interface Counter {
  readonly labels: Readonly<Record<string, string>>
  value: number
  text: string | null
}

interface Times {
  readonly route: string
  readonly histogram: Histogram
  text: string | null
}

const printCounter = (name: string, counter: Counter): string => (counter.text ??= printSample(name, counter))
const printTimes = (times: Times): string =>
  (times.text ??= histogramSamples({ route: times.route }, times.histogram)
    .map((sample) => printSample(durations.name, sample))
    .join(""))

const increment = (counters: Map<string, Counter>, key: string, labels: () => Counter["labels"]): void => {
  let counter = counters.get(key)
  if (counter === undefined) counters.set(key, (counter = { labels: labels(), value: 0, text: null }))
  counter.value += 1
  counter.text = null
}

const printAll = (family: Parameters<typeof printHead>[0], counters: ReadonlyMap<string, Counter>): string => {
  if (counters.size === 0) return ""
  let text = printHead(family)
  for (const counter of counters.values()) text += printCounter(family.name, counter)
  return text
}

export const makeTraffic = (): Traffic => {
  const counters = new Map<string, Counter>()
  const dropped = new Map<string, Counter>()
  const byRoute = new Map<string, Times>()
  return {
    count: (given, path, status, millis) => {
      const method = given !== undefined && methods.has(given) ? given : "other"
      const route = path ?? "unmatched"
      increment(counters, `${method} ${route} ${status}`, () => ({ method, route, status: String(status) }))
      let times = byRoute.get(route)
      if (times === undefined) byRoute.set(route, (times = { route, histogram: emptyHistogram(bounds), text: null }))
      observe(times.histogram, millis / 1000)
      times.text = null
    },
    dropped: (reason) => increment(dropped, reason, () => ({ reason })),
    text: () => {
      let text = printAll(requests, counters)
      if (byRoute.size > 0) text += printHead(durations)
      for (const times of byRoute.values()) text += printTimes(times)
      return text + printAll(drops, dropped)
    }
  }
}

/** What is known of a request before it is answered. */
interface Known {
  readonly traffic: Traffic
  readonly id: string
  readonly route: string | null
  readonly began: number
}

/** The response of every server of ours: when its head is written it is counted, and tells the request's id. */
export class CountedResponse extends ServerResponse {
  known: Known | null = null

  override writeHead(status: number, reason?: string, headers?: OutgoingHttpHeaders | Array<OutgoingHttpHeader>): this
  override writeHead(status: number, headers?: OutgoingHttpHeaders | Array<OutgoingHttpHeader>): this
  override writeHead(status: number, first?: unknown, second?: unknown): this {
    const { known } = this
    const reason = typeof first === "string" ? first : undefined
    const headers = (reason === undefined ? (second ?? first) : second) as OutgoingHttpHeaders | undefined
    if (known === null) return super.writeHead(status, reason, headers)
    this.known = null
    known.traffic.count(this.req.method, known.route, status, performance.now() - known.began)
    return super.writeHead(status, reason, { ...headers, "x-request-id": known.id })
  }
}
