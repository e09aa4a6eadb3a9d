/**
 * The one way that every request of a port takes: it gets an id, the router finds its route, the caller is admitted or
 * refused, and then the route's cached bytes or its handler answer. What is written is counted (`traffic.ts`).
 *
 * A cached body is answered in the same turn of the event loop, without a fiber, before the other routes are made, too;
 * it is counted and not logged. What needs a handler waits until there are handlers, for as long as its peer does.
 * Bodies, queries and headers are never logged: they may hold secrets.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { toIncomingMessage } from "@effect/platform-node/NodeHttpServerRequest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { HttpApiSchemaError } from "effect/http-api/HttpApiError"
import * as HttpMiddleware from "effect/http/HttpMiddleware"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as HttpTraceContext from "effect/http/HttpTraceContext"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import { randomUUID } from "node:crypto"
import type { IncomingMessage, ServerResponse } from "node:http"
import { below, keepTraceState, nearestSpan } from "../platform/tracing.ts"
import { answerOf } from "./answer.ts"
import { type Admit, challengeOf } from "./Auth.ts"
import { isPlain } from "./cachedBodies.ts"
import type { Connections } from "./connections.ts"
import { hasTwoHosts } from "./crossSite.ts"
import { bodyOf, internalFault, methodNotAllowed, notFound, type Refusal, refusal } from "./refusals.ts"
import { type Endpoint, type Router, splitTarget } from "./router.ts"
import type { CountedResponse, Traffic } from "./traffic.ts"

/** What a port answers with. */
export interface Dispatch {
  readonly router: Router
  readonly admit: Admit
  readonly traffic: Traffic
  readonly connections: Connections
  /** Is called when a request waits for its route to be made. */
  readonly onHeld?: () => void
}

export interface Dispatcher {
  readonly onRequest: (request: IncomingMessage, response: CountedResponse) => void
  /** The router has every route now: answers whoever waits, and everybody from then on. Until the scope closes. */
  readonly open: Effect.Effect<void, never, Scope.Scope>
}

const requestId = (given: string | ReadonlyArray<string> | undefined): string =>
  typeof given === "string" && /^[\w.:/+=-]{1,128}$/.test(given) ? given : randomUUID()

const tooMany = refusal(
  503,
  "too_many_requests",
  "too many requests are being answered or waited for",
  "ask again in a second, or wait with fewer requests at once"
)

const twoHosts = refusal(400, "host_ambiguous", "the request has more than one Host header", "send one")

/** For a request that gets no fiber. The connection makes room for another one. */
const refuseAtOnce = (response: CountedResponse, refused: Refusal): void => {
  const body = Buffer.from(JSON.stringify(bodyOf(refused)))
  const challenge = challengeOf(refused)
  response
    .writeHead(refused.status, {
      "content-type": "application/json",
      "content-length": body.length,
      connection: "close",
      ...(challenge === null ? {} : { "www-authenticate": challenge }),
      ...(refused.status === 503 ? { "retry-after": "1" } : {})
    })
    .end(body)
}

/** What is known at once: that the caller is admitted (`null`), or why not. `undefined`: it has to be found out. */
const refusalAtOnce = (admission: ReturnType<Admit>): Refusal | null | undefined => {
  if (!Exit.isExit(admission)) return undefined
  if (Exit.isSuccess(admission)) return null
  // What is an effect of refusals fails with one.
  return Result.getOrUndefined(Cause.findError(admission.cause as Cause.Cause<Refusal>))
}

/** True: it was answered. */
const answerFromCache = (endpoint: Endpoint, request: IncomingMessage, response: CountedResponse): boolean => {
  if (endpoint.cached === null || !isPlain(request.headers)) return false
  const { body, headers, status } = endpoint.cached()
  response.writeHead(status, headers)
  response.end(request.method === "HEAD" ? undefined : body)
  return true
}

const refuseAdmission = (refused: Refusal): HttpServerResponse.HttpServerResponse => {
  const challenge = challengeOf(refused)
  const answer = answerOf(refused)
  return challenge === null ? answer : HttpServerResponse.setHeader(answer, "www-authenticate", challenge)
}

/** Commands are worth a line each at level info; everything else is polled. */
const loggedRoutes = new Set<string | undefined>(["/configure", "/terminate"])

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

/**
 * Below the server's span; and where spans are sent to nobody, so that there is none, right below the caller's
 * (`traceparent`). What the request starts belongs there, too.
 */
const inCallersTrace = <A, E, R>(effect: Effect.Effect<A, E, R | HttpServerRequest.HttpServerRequest>) =>
  Effect.gen(function* () {
    const { headers } = yield* HttpServerRequest.HttpServerRequest
    const given = HttpTraceContext.fromHeaders(headers)
    if (Option.isNone(given)) return yield* effect
    const span = nearestSpan(yield* Effect.context<never>()) ?? given.value
    keepTraceState(span, headers["tracestate"])
    return yield* below(span)(effect)
  })

/** What answers a request that no cached body did: its log lines, its refusal, or its route's handler. */
const appOf = ({ admit, router }: Dispatch, ids: WeakMap<object, string>) =>
  Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const { path, query } = splitTarget(request.url)
    const match = router.find(request.method, path)
    const id = ids.get(toIncomingMessage(request)) ?? ""
    const line = `request{method=${request.method} uri=${path} version=HTTP/1.1 request_id=${id}}`
    const log = loggedRoutes.has(match?.route) ? Effect.logInfo : Effect.logDebug
    const began = performance.now()
    yield* log(`${line}: started`)

    const answer = Effect.gen(function* () {
      if (match === null) return answerOf(notFound(path))
      const { allowed, endpoint, params, route } = match
      if (endpoint === null)
        return HttpServerResponse.setHeader(
          answerOf(methodNotAllowed(request.method, path, allowed)),
          "allow",
          allowed.join(", ")
        )
      const rights = yield* Effect.result(admit(endpoint.access, toIncomingMessage(request)))
      if (rights._tag === "Failure") return refuseAdmission(rights.failure)
      if (endpoint.handler === null) return yield* Effect.die(new Error(`nothing answers ${route}`))
      return yield* Effect.interruptible(endpoint.handler({ params, query, rights: rights.success }))
    })
    const response = yield* answer.pipe(
      Effect.catchCause((cause) =>
        // A caller that went away, or the end of the server: Node knows what to do.
        Cause.hasInterruptsOnly(cause) ? Effect.interrupt : fromDefect(path, Cause.squash(cause))
      ),
      Effect.annotateLogs({ request_id: id })
    )
    yield* log(`${line}: finished with ${response.status} in ${Math.round(performance.now() - began)} ms`)
    return response
  }).pipe(inCallersTrace)

/** A server's span is named after its route, of which there are few, and not after its path. */
const spanName =
  (router: Router) =>
  ({ method, url }: HttpServerRequest.HttpServerRequest): string => {
    const route = router.find(method, splitTarget(url).path)?.route
    return route === undefined ? method : `${method} ${route}`
  }

type Handle = (request: IncomingMessage, response: ServerResponse) => void

export const makeDispatcher = (dispatch: Dispatch): Dispatcher => {
  const { admit, connections, onHeld, router, traffic } = dispatch
  const ids = new WeakMap<object, string>()
  const waiting: Array<Parameters<Dispatcher["onRequest"]>> = []
  let handle: Handle | null = null

  const onRequest: Dispatcher["onRequest"] = (request, response) => {
    const { headers, method = "", url = "" } = request
    const { path, query } = splitTarget(url)
    const match = router.find(method, path)
    const id = requestId(headers["x-request-id"])
    response.known = { traffic, id, route: match?.route ?? null, began: performance.now() }
    if (hasTwoHosts(request)) return refuseAtOnce(response, twoHosts)
    if (match?.endpoint != null && (query === "" || handle === null)) {
      const refused = refusalAtOnce(admit(match.endpoint.access, request))
      if (refused === null && query === "" && answerFromCache(match.endpoint, request, response))
        return connections.heard(request.socket)
      // Later the refusal is logged like every answer; but nobody is kept waiting for one.
      if (refused != null && handle === null) return refuseAtOnce(response, refused)
    }
    if (!connections.begin(request.socket, response)) return refuseAtOnce(response, tooMany)
    ids.set(request, id)
    if (handle !== null) return handle(request, response)
    waiting.push([request, response])
    onHeld?.()
  }

  const open = Effect.gen(function* () {
    // Of its own, so that it closes after what is registered later: the wait for the answers that are on their way.
    const scope = yield* Scope.fork(yield* Effect.scope, "parallel")
    const answer: Handle = yield* NodeHttpServer.makeHandler(appOf(dispatch, ids), { scope }).pipe(
      Effect.provideService(HttpMiddleware.SpanNameGenerator, spanName(router))
    )
    handle = answer
    for (const [request, response] of waiting.splice(0)) {
      if (response.destroyed) continue
      const { path } = splitTarget(request.url ?? "")
      if (response.known !== null)
        response.known = { ...response.known, route: router.find(request.method ?? "", path)?.route ?? null }
      answer(request, response)
    }
  })

  return { onRequest, open }
}
