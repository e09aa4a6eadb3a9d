/**
 * What was answered, counted where every answer begins: how often, with what, and how fast; and which connections were
 * dropped. No answer is written without being counted, whatever made it.
 */
import { type OutgoingHttpHeader, type OutgoingHttpHeaders, ServerResponse } from "node:http"
import {
  cumulativeOf,
  emptyHistogram,
  histogramSamples,
  observe,
  printHead,
  printSeries
} from "../telemetry/prometheus.ts"

/** Labels come from small fixed sets, so that a stranger cannot grow them. */
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

const [requestsHead, durationsHead, dropsHead] = [requests, durations, drops].map(printHead)

/** Counts are printed about as often as they are counted up: all that does not change of their lines is at hand. */
interface Counter {
  readonly head: string
  value: number
}

const counterOf = (name: string, labels: Readonly<Record<string, string>>): Counter => ({
  head: printSeries(name, { labels }),
  value: 0
})

const printAll = (head: string | undefined, counters: Iterable<Counter>): string => {
  let text = ""
  for (const counter of counters) text += `${counter.head}${counter.value}\n`
  return text === "" ? "" : `${head}${text}`
}

/** What was answered on one route. */
class RouteTraffic {
  readonly #route: string
  readonly #histogram = emptyHistogram(bounds)
  readonly #heads: ReadonlyArray<string>
  readonly #counters = new Map<string, Map<number, Counter>>()
  #times = ""

  constructor(route: string) {
    this.#route = route
    this.#heads = histogramSamples({ route }, this.#histogram).map((sample) => printSeries(durations.name, sample))
  }

  count(method: string, status: number, seconds: number): void {
    let byStatus = this.#counters.get(method)
    if (byStatus === undefined) this.#counters.set(method, (byStatus = new Map<number, Counter>()))
    let counter = byStatus.get(status)
    if (counter === undefined) {
      counter = counterOf(requests.name, { method, route: this.#route, status: String(status) })
      byStatus.set(status, counter)
    }
    counter.value += 1
    observe(this.#histogram, seconds)
    this.#times = ""
  }

  *counters(): Generator<Counter> {
    for (const byStatus of this.#counters.values()) yield* byStatus.values()
  }

  times(): string {
    if (this.#times === "") {
      const values = cumulativeOf(this.#histogram)
      this.#heads.forEach((head, index) => (this.#times += `${head}${values[index]}\n`))
    }
    return this.#times
  }
}

export const makeTraffic = (): Traffic => {
  const dropped = {
    silent: counterOf(drops.name, { reason: "silent" }),
    slow: counterOf(drops.name, { reason: "slow" })
  }
  const routes = new Map<string, RouteTraffic>()
  return {
    count: (given, path, status, millis) => {
      const method = given !== undefined && methods.has(given) ? given : "other"
      const name = path ?? "unmatched"
      let route = routes.get(name)
      if (route === undefined) routes.set(name, (route = new RouteTraffic(name)))
      route.count(method, status, millis / 1000)
    },
    dropped: (reason) => {
      dropped[reason].value += 1
    },
    text: () => {
      if (routes.size === 0) return printAll(dropsHead, Object.values(dropped))
      const counters = routes.values().flatMap((route) => route.counters())
      let text = `${printAll(requestsHead, counters)}${durationsHead}`
      for (const route of routes.values()) text += route.times()
      return text + printAll(dropsHead, Object.values(dropped))
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
export interface CountedResponse extends ServerResponse {
  known: Known | null
}

type Headers = OutgoingHttpHeaders | Array<OutgoingHttpHeader>

const makeClass = () =>
  class extends ServerResponse implements CountedResponse {
    known: Known | null = null

    override writeHead(status: number, reason?: string, headers?: Headers): this
    override writeHead(status: number, headers?: Headers): this
    override writeHead(status: number, first?: unknown, second?: unknown): this {
      const { known } = this
      const reason = typeof first === "string" ? first : undefined
      const headers = (reason === undefined ? (second ?? first) : second) as Headers | undefined
      if (known === null) return super.writeHead(status, reason, headers)
      this.known = null
      known.traffic.count(this.req.method, known.route, status, performance.now() - known.began)
      const all = Array.isArray(headers)
        ? [...headers, "x-request-id", known.id]
        : { ...headers, "x-request-id": known.id }
      return super.writeHead(status, reason, all)
    }
  }

let made: ReturnType<typeof makeClass> | undefined

/** Made when a server is: a snapshot of the program, which is taken before, cannot hold anything of `node:http`. */
export const countedResponse = (): ReturnType<typeof makeClass> => (made ??= makeClass())
