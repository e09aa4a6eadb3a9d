/**
 * The shortest way for what is asked most: the probes, `/status` and `/metrics`, answered from bytes that are made once
 * per snapshot, without a fiber.
 *
 * Only the plainest form takes it: GET or HEAD, no query, no body, and on `/status` a
 * token that was checked before, or none asked for. Everything else, and so every rule, is the declared route's; both
 * answer through the same views. These requests are counted, not logged.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import * as Result from "effect/Result"
import type { IncomingMessage, ServerResponse } from "node:http"
import type { ComputeState, Snapshot } from "../compute/ComputeState.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { bodyOf, isReady, isStarted, type Refusal, refusal, type Vitals, wireStatus } from "./answer.ts"
import { authorize } from "./Auth.ts"
import { requestId, type Traffic } from "./middleware.ts"
import type { EndpointOptions } from "./Server.ts"
import type { Verifier } from "./Verifier.ts"
import { metricsText, statusBody, vitalsOf } from "./views.ts"

// ---------------------------------------------------------------------------------------------------------------------
// The three probes: what each looks at, and what it says. They depend on nothing but the snapshot.
// ---------------------------------------------------------------------------------------------------------------------

export interface Said {
  readonly body: { readonly status: string }
  /** `null`: the probe passes. */
  readonly refused: Refusal | null
}

const probe =
  (code: string, passes: (vitals: Vitals) => boolean) =>
  (apiVersion: ApiVersion, snapshot: Snapshot): Said => {
    const status = wireStatus(apiVersion, snapshot.status)
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

// ---------------------------------------------------------------------------------------------------------------------
// The paths that are answered before the API is declared, and the types of answers that are no JSON.
//
// `Api.ts` declares its routes with these very words.
// ---------------------------------------------------------------------------------------------------------------------

export const paths = {
  livez: "/livez",
  readyz: "/readyz",
  startupz: "/startupz",
  metrics: "/metrics",
  status: "/status"
} as const

export const metricsType = "text/plain; version=0.0.4"
export const eventsType = "text/event-stream"
export const sqlType = "text/plain; charset=utf-8"

// ---------------------------------------------------------------------------------------------------------------------

/** True: it is answered. */
export type Quick = (request: IncomingMessage, response: ServerResponse) => boolean

interface Ready {
  readonly status: number
  readonly type: string
  readonly body: Buffer
}

const json = (body: unknown, status = 200): Ready => ({
  status,
  type: "application/json",
  body: Buffer.from(JSON.stringify(body))
})

type View = (snapshot: Snapshot) => Ready

const bearer = /^bearer ([^ ]+)$/i

/** `control`: who may ask the control plane's routes on this port; `null`: they are not on it. */
export const quickAnswers = Effect.fnUntraced(function* (
  options: Pick<EndpointOptions, "apiVersion" | "buildTag" | "computeId" | "otherMetrics">,
  state: ComputeState["Service"],
  traffic: Traffic,
  control: { readonly verifier: Verifier | null } | null
) {
  const context = yield* Effect.context<never>()
  const { apiVersion } = options

  const views = new Map<string, View>(
    probes.map(({ endpoint, read }) => [
      paths[endpoint],
      (snapshot) => {
        const said = read(apiVersion, snapshot)
        return said.refused === null ? json(said.body) : json(bodyOf(said.refused), said.refused.status)
      }
    ])
  )
  if (control !== null) views.set(paths.status, (snapshot) => json(statusBody(apiVersion, snapshot)))

  /** The long way checks whom this does not let pass, and says what is wrong. */
  const passes = (authorization: string | undefined): boolean => {
    const verifier = control?.verifier ?? null
    if (verifier === null) return true
    const token = bearer.exec(authorization ?? "")?.[1]
    if (token === undefined) return false
    const claims = verifier.recall(token, Effect.runSync(Clock.currentTimeMillis) / 1000)
    return claims !== null && Result.isSuccess(authorize(claims, options.computeId))
  }

  let of: Snapshot | undefined
  let made = new Map<string, Ready>()
  let measured: string | undefined

  const recall = (path: string, view: View, snapshot: Snapshot): Ready => {
    const before = made.get(path)
    if (before !== undefined) return before
    const ready = view(snapshot)
    made.set(path, ready)
    return ready
  }

  /** Once per turn of the event loop: nobody can ask, hear and ask again within one. */
  let counted: Ready | undefined
  const metrics = (snapshot: Snapshot): Ready => {
    if (counted !== undefined) return counted
    measured ??= metricsText(snapshot, options.buildTag)
    const body = measured + options.otherMetrics() + traffic.text() + PrometheusMetrics.formatUnsafe(context)
    setImmediate(() => (counted = undefined))
    return (counted = { status: 200, type: metricsType, body: Buffer.from(body) })
  }

  const quick: Quick = (request, response) => {
    const { headers, method, url = "" } = request
    if (method !== "GET" && method !== "HEAD") return false
    const view = views.get(url)
    if (view === undefined && url !== paths.metrics) return false
    if (headers["transfer-encoding"] !== undefined || headers["content-length"] !== undefined) return false
    if (url === paths.status && !passes(headers.authorization)) return false
    // A stream of events may be meant.
    if (headers.accept?.includes("event-stream") === true) return false
    const began = performance.now()
    const snapshot = Effect.runSync(state.now)
    if (snapshot !== of) {
      of = snapshot
      made = new Map()
      measured = undefined
      counted = undefined
    }
    const { body, status, type } = view === undefined ? metrics(snapshot) : recall(url, view, snapshot)
    const id = requestId(headers["x-request-id"]?.toString())
    response.writeHead(status, { "content-type": type, "content-length": body.length, "x-request-id": id })
    response.end(method === "HEAD" ? undefined : body)
    traffic.count(method, url, status, performance.now() - began)
    return true
  }
  return quick
})
