/**
 * What every request gets around its route: an id, a line in the log, a count, and a JSON answer when no route matched
 * or a defect would have left it empty. Bodies, queries and headers are never logged: they may hold secrets.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { HttpApiSchemaError } from "effect/http-api/HttpApiError"
import { HttpServerError } from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import { randomUUID } from "node:crypto"
import {
  emptyHistogram,
  type Histogram,
  histogramSamples,
  observe,
  printHead,
  printSample
} from "../telemetry/prometheus.ts"
import { answerOf } from "./answer.ts"
import { internalFault, methodNotAllowed, notFound, refusal } from "./refusals.ts"
import { routePattern, type RouteTable } from "./routes.ts"

/**
 * What was answered: how often, with what, and how fast. Each sample stays printed until it changes, because metrics
 * are read about as often as requests are counted. Labels come from small fixed sets, so that a stranger cannot grow
 * them.
 */
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

const printCounter = (counter: Counter): string => (counter.text ??= printSample(requests.name, counter))
const printTimes = (times: Times): string =>
  (times.text ??= histogramSamples({ route: times.route }, times.histogram)
    .map((sample) => printSample(durations.name, sample))
    .join(""))

export const makeTraffic = (): Traffic => {
  const counters = new Map<string, Counter>()
  const byRoute = new Map<string, Times>()
  return {
    count: (given, path, status, millis) => {
      const method = given !== undefined && methods.has(given) ? given : "other"
      const route = path ?? "unmatched"
      const name = `${method} ${route} ${status}`
      let counter = counters.get(name)
      if (counter === undefined)
        counters.set(name, (counter = { labels: { method, route, status: String(status) }, value: 0, text: null }))
      counter.value += 1
      counter.text = null
      let times = byRoute.get(route)
      if (times === undefined) byRoute.set(route, (times = { route, histogram: emptyHistogram(bounds), text: null }))
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

/** Commands are worth a line each at level info; everything else is polled. */
const loggedPaths = new Set(["/configure", "/terminate"])

const pathOf = (url: string): string => /^[^?#;]*/.exec(url)?.[0] ?? url

export const requestId = (given: string | undefined): string =>
  given !== undefined && /^[\w.:/+=-]{1,128}$/.test(given) ? given : randomUUID()

const fromDefect = (path: string, error: unknown) =>
  Effect.gen(function* () {
    if (HttpServerResponse.isHttpServerResponse(error)) return error
    if (HttpApiSchemaError.is(error) && ["Params", "Headers", "Query"].includes(error.kind)) {
      return answerOf(
        refusal(400, "request_malformed", error.cause.message, "GET /openapi.json says what this route takes")
      )
    }
    yield* Effect.logError(`the request for ${path} met a fault`, error)
    return answerOf(internalFault)
  })

const isRouteNotFound = (error: unknown): boolean =>
  error instanceof HttpServerError && error.reason._tag === "RouteNotFound"

/** Wraps all routes of a port. */
export const middleware = <R>(
  app: Effect.Effect<HttpServerResponse.HttpServerResponse, unknown, R>,
  routes: RouteTable,
  traffic: Traffic
): Effect.Effect<HttpServerResponse.HttpServerResponse, never, R | HttpServerRequest.HttpServerRequest> =>
  Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const id = requestId(request.headers["x-request-id"])
    const path = pathOf(request.url)
    const route = routePattern(routes, path)
    const methods = route === null ? undefined : routes.get(route)
    const line = `request{method=${request.method} uri=${path} version=HTTP/1.1 request_id=${id}}`
    const log = loggedPaths.has(path) ? Effect.logInfo : Effect.logDebug
    const began = yield* Clock.currentTimeNanos
    yield* log(`${line}: started`)

    const noRoute =
      methods === undefined || methods.includes(request.method)
        ? answerOf(notFound(path))
        : HttpServerResponse.setHeader(
            answerOf(methodNotAllowed(request.method, path, methods)),
            "allow",
            methods.join(", ")
          )

    const response = yield* app.pipe(
      Effect.catchCause((cause) => {
        // A caller that went away, or the end of the server: Node knows what to do.
        if (Cause.hasInterruptsOnly(cause)) return Effect.interrupt
        const error = Cause.squash(cause)
        return isRouteNotFound(error) ? Effect.succeed(noRoute) : fromDefect(path, error)
      }),
      Effect.annotateLogs({ request_id: id })
    )

    const millis = Number((yield* Clock.currentTimeNanos) - began) / 1e6
    yield* log(`${line}: finished with ${response.status} in ${Math.round(millis)} ms`)
    traffic.count(request.method, route, response.status, millis)
    return HttpServerResponse.setHeader(response, "x-request-id", id)
  })
