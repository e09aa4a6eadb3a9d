/**
 * The three probes, and the fast path: the probes, `/status` and `/metrics` are what is asked most, and are answered
 * without a fiber, from bytes that are made once per snapshot.
 *
 * Only the plainest form takes the fast path: GET or HEAD, no query, no body, and on `/status` a token that was checked
 * before, or none asked for. Everything else, and so every rule, is the declared route's; both answer through the same
 * views. These requests are counted, not logged.
 */
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import * as Result from "effect/Result"
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http"
import type { ComputeState } from "../compute/ComputeState.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { metricsType, paths } from "./answer.ts"
import { authorize } from "./authorize.ts"
import { requestId, type Traffic } from "./middleware.ts"
import type { ServerOptions } from "./options.ts"
import { bodyOf, type Refusal, refusal, wireStatus } from "./refusals.ts"
import type { Verifier } from "./Verifier.ts"
import { isReady, isStarted, metricsText, statusBody, type Vitals, vitalsOf } from "./views.ts"

// -- probes: they depend on nothing but the snapshot ---------------------------------------------------------------

export interface ProbeResult {
  readonly body: { readonly status: string }
  /** `null`: the probe passes. */
  readonly refused: Refusal | null
}

const probe =
  (code: string, passes: (vitals: Vitals) => boolean) =>
  (apiVersion: ApiVersion, snapshot: Snapshot): ProbeResult => {
    const status = wireStatus(apiVersion, snapshot.status)
    return {
      body: { status },
      refused: passes(vitalsOf(snapshot))
        ? null
        : refusal(
            503,
            code,
            snapshot.error ?? snapshot.notAccepting ?? `compute status is ${status}`,
            "GET /status and /conditions say more"
          )
    }
  }

export const livez = probe("not_alive", () => true)
export const readyz = probe("not_ready", isReady)
export const startupz = probe("not_started", isStarted)

// -- the fast path -------------------------------------------------------------------------------------------------

/** True: the request is answered. */
export type FastPath = (request: IncomingMessage, response: ServerResponse) => boolean

type FastPathOptions = Pick<ServerOptions, "apiVersion" | "buildTag" | "computeId" | "otherMetrics">

/** Who may ask the control plane's routes on a port. */
interface Control {
  readonly verifier: Verifier | null
}

interface Prepared {
  readonly status: number
  readonly type: string
  readonly body: Buffer
}

const json = (body: unknown, status = 200): Prepared => ({
  status,
  type: "application/json",
  body: Buffer.from(JSON.stringify(body))
})

type View = (snapshot: Snapshot) => Prepared

const viewsOf = (apiVersion: ApiVersion, withStatus: boolean): ReadonlyMap<string, View> => {
  const probeView =
    (read: typeof livez): View =>
    (snapshot) => {
      const { body, refused } = read(apiVersion, snapshot)
      return refused === null ? json(body) : json(bodyOf(refused), refused.status)
    }
  const views = new Map<string, View>([
    [paths.livez, probeView(livez)],
    [paths.readyz, probeView(readyz)],
    [paths.startupz, probeView(startupz)]
  ])
  if (withStatus) views.set(paths.status, (snapshot) => json(statusBody(apiVersion, snapshot)))
  return views
}

const bearer = /^bearer ([^ ]+)$/i

/** Whom this does not admit, the declared route checks, and says what is wrong. */
const admits = (verifier: Verifier | null, computeId: string, authorization: string | undefined): boolean => {
  if (verifier === null) return true
  const token = bearer.exec(authorization ?? "")?.[1]
  if (token === undefined) return false
  const claims = verifier.recall(token, Effect.runSync(Clock.currentTimeMillis) / 1000)
  return claims !== null && Result.isSuccess(authorize(claims, computeId))
}

/** A body may follow, or a stream of events may be meant. */
const isPlain = (headers: IncomingHttpHeaders): boolean =>
  headers["transfer-encoding"] === undefined &&
  headers["content-length"] === undefined &&
  headers.accept?.includes("event-stream") !== true

/** The bytes of each path, made once per snapshot. */
const makePrepare = (
  options: FastPathOptions,
  views: ReadonlyMap<string, View>,
  traffic: Traffic,
  context: Context.Context<never>
) => {
  let of: Snapshot | undefined
  let made = new Map<string, Prepared>()
  let snapshotMetrics: string | undefined
  let metrics: Prepared | undefined

  /** Once per turn of the event loop: nobody can ask, be answered and ask again within one. */
  const metricsNow = (snapshot: Snapshot): Prepared => {
    if (metrics !== undefined) return metrics
    snapshotMetrics ??= metricsText(snapshot, options.buildTag)
    const body = snapshotMetrics + options.otherMetrics() + traffic.text() + PrometheusMetrics.formatUnsafe(context)
    setImmediate(() => (metrics = undefined))
    return (metrics = { status: 200, type: metricsType, body: Buffer.from(body) })
  }

  return (path: string, snapshot: Snapshot): Prepared | null => {
    if (snapshot !== of) {
      of = snapshot
      made = new Map()
      snapshotMetrics = undefined
      metrics = undefined
    }
    if (path === paths.metrics) return metricsNow(snapshot)
    const before = made.get(path)
    if (before !== undefined) return before
    const view = views.get(path)
    if (view === undefined) return null
    const prepared = view(snapshot)
    made.set(path, prepared)
    return prepared
  }
}

/** `control` null: the control plane's routes are not on this port. */
export const makeFastPath = Effect.fnUntraced(function* (
  options: FastPathOptions,
  state: ComputeState["Service"],
  traffic: Traffic,
  control: Control | null
) {
  const views = viewsOf(options.apiVersion, control !== null)
  const prepare = makePrepare(options, views, traffic, yield* Effect.context<never>())
  const verifier = control?.verifier ?? null

  const fastPath: FastPath = (request, response) => {
    const { headers, method, url = "" } = request
    if (method !== "GET" && method !== "HEAD") return false
    if (!views.has(url) && url !== paths.metrics) return false
    if (!isPlain(headers)) return false
    if (url === paths.status && !admits(verifier, options.computeId, headers.authorization)) return false
    const began = performance.now()
    const prepared = prepare(url, Effect.runSync(state.now))
    if (prepared === null) return false
    const { body, status, type } = prepared
    const id = requestId(headers["x-request-id"]?.toString())
    response.writeHead(status, { "content-type": type, "content-length": body.length, "x-request-id": id })
    response.end(method === "HEAD" ? undefined : body)
    traffic.count(method, url, status, performance.now() - began)
    return true
  }
  return fastPath
})
