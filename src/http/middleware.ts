/**
 * What every request gets around its route: an id, a line in the log, a count, and a JSON answer when no route or a
 * fault of ours would have left it empty. Bodies, queries and headers are never logged: they may hold secrets.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { HttpApiSchemaError } from "effect/http-api/HttpApiError"
import { HttpServerError } from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import { randomUUID } from "node:crypto"
import { internalFault, methodNotAllowed, notFound, refusal } from "./httpAnswer.ts"
import { answerOf } from "./answer.ts"
import { routePattern, type RouteTable } from "./routes.ts"
import type { Traffic } from "./traffic.ts"

/** Orders are worth a line each; everything else is polled. */
const loud = new Set(["/configure", "/terminate"])

const pathOf = (url: string): string => /^[^?#;]*/.exec(url)?.[0] ?? url

export const requestId = (given: string | undefined): string =>
  given !== undefined && /^[\w.:/+=-]{1,128}$/.test(given) ? given : randomUUID()

const fromDefect = (path: string, error: unknown) =>
  Effect.gen(function*() {
    if (HttpServerResponse.isHttpServerResponse(error)) return error
    if (HttpApiSchemaError.is(error) && ["Params", "Headers", "Query"].includes(error.kind)) {
      return answerOf(refusal(400, "request_malformed", error.cause.message, "GET /openapi.json says what this route takes"))
    }
    yield* Effect.logError(`the request for ${path} met a fault`, error)
    return answerOf(internalFault)
  })

const isRouteNotFound = (error: unknown): boolean => error instanceof HttpServerError && error.reason._tag === "RouteNotFound"

export const envelope = <R>(
  app: Effect.Effect<HttpServerResponse.HttpServerResponse, unknown, R>,
  routes: RouteTable,
  traffic: Traffic
): Effect.Effect<HttpServerResponse.HttpServerResponse, never, R | HttpServerRequest.HttpServerRequest> =>
  Effect.gen(function*() {
    const request = yield* HttpServerRequest.HttpServerRequest
    const id = requestId(request.headers["x-request-id"])
    const path = pathOf(request.url)
    const route = routePattern(routes, path)
    const methods = route === null ? undefined : routes.get(route)
    const line = `request{method=${request.method} uri=${path} version=HTTP/1.1 request_id=${id}}`
    const say = loud.has(path) ? Effect.logInfo : Effect.logDebug
    const began = yield* Clock.currentTimeNanos
    yield* say(`${line}: started`)

    const strayed = methods === undefined || methods.includes(request.method)
      ? answerOf(notFound(path))
      : HttpServerResponse.setHeader(answerOf(methodNotAllowed(request.method, path, methods)), "allow", methods.join(", "))

    const response = yield* app.pipe(
      Effect.catchCause((cause) => {
        // A caller that went away, or the end of the endpoint: the server knows what to do.
        if (Cause.hasInterruptsOnly(cause)) return Effect.interrupt
        const error = Cause.squash(cause)
        return isRouteNotFound(error) ? Effect.succeed(strayed) : fromDefect(path, error)
      }),
      Effect.annotateLogs({ request_id: id })
    )

    const millis = Number((yield* Clock.currentTimeNanos) - began) / 1e6
    yield* say(`${line}: finished with ${response.status} in ${Math.round(millis)} ms`)
    traffic.count(request.method, route, response.status, millis)
    return HttpServerResponse.setHeader(response, "x-request-id", id)
  })
