/**
 * Counts what was answered: how often, with what, and how fast. Kept as text already, because it is read as often as
 * it is counted.
 *
 * Labels come from small fixed sets, so that a stranger can not grow them.
 */
import { emptyHistogram, type Histogram, histogramSamples, observe } from "../telemetry/histogram.ts"
import { printHead, printSample } from "../telemetry/prometheus.ts"

export interface Traffic {
  /** `route` is the declared path; `null`: there is none. */
  readonly count: (method: string | undefined, route: string | null, status: number, millis: number) => void
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

const printCounter = (counter: Counter): string => counter.text ??= printSample(requests.name, counter)
const printTimes = (times: Times): string =>
  times.text ??= histogramSamples({ route: times.route }, times.histogram).map((sample) => printSample(durations.name, sample)).join("")

export const makeTraffic = (): Traffic => {
  const counters = new Map<string, Counter>()
  const byRoute = new Map<string, Times>()
  return {
    count: (given, path, status, millis) => {
      const method = given !== undefined && methods.has(given) ? given : "other"
      const route = path ?? "unmatched"
      const name = `${method} ${route} ${status}`
      let counter = counters.get(name)
      if (counter === undefined) counters.set(name, counter = { labels: { method, route, status: String(status) }, value: 0, text: null })
      counter.value += 1
      counter.text = null
      let times = byRoute.get(route)
      if (times === undefined) byRoute.set(route, times = { route, histogram: emptyHistogram(bounds), text: null })
      observe(times.histogram, millis / 1000)
      times.text = null
    },
    text: () => {
      if (counters.size === 0) return ""
      let text = printHead(requests)
      for (const counter of counters.values()) text += printCounter(counter)
      text += printHead(durations)
      for (const times of byRoute.values()) text += printTimes(times)
      return text
    }
  }
}
