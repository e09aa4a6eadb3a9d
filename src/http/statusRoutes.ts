/**
 * The routes that watch: status now, later, and as a stream; its history; the start's timeline.
 *
 * Every wait has a deadline, a stream of events has none (`watchers.ts`).
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Option from "effect/Option"
import { toServerResponse } from "@effect/platform-node/NodeHttpServerRequest"
import { ServerResponse } from "node:http"
import type { ComputeState } from "../compute/ComputeState.ts"
import { promotionBody } from "../compute/promotion.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { accepts, answered, eventsType, json, readTimeout, readWaitFor } from "./answer.ts"
import { waterfallPage, waterfallText } from "./pages.ts"
import { historyBody, replicaBody, statusBody, timelineBody } from "./views.ts"
import { eventHeaders, type Watchers } from "./watchers.ts"

export const statusRoutes = (state: ComputeState["Service"], apiVersion: ApiVersion, watchers: Watchers) => {
  const stream = Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    if (request.method === "HEAD") return HttpServerResponse.empty({ status: 200, headers: eventHeaders })
    const response = toServerResponse(request)
    // Everything is HTTP/1.1 here. What was written needs no answer any more.
    if (response instanceof ServerResponse) yield* watchers.watch(response)
    return HttpServerResponse.empty({ status: 200 })
  })

  const status = Effect.fnUntraced(function* (query: { readonly wait_for?: string; readonly timeout?: string }) {
    const request = yield* HttpServerRequest.HttpServerRequest
    if (accepts(request.headers["accept"], eventsType)) return yield* stream
    if (query.wait_for === undefined) return json(statusBody(apiVersion, yield* state.now))
    const wanted = yield* Effect.fromResult(readWaitFor(apiVersion, query.wait_for))
    // After the last status there is no other, so nobody need wait for one.
    const reached = yield* state
      .until(...wanted, "terminated")
      .pipe(Effect.timeoutOption(Duration.millis(readTimeout(query.timeout))))
    return json(statusBody(apiVersion, Option.isSome(reached) ? reached.value : yield* state.now))
  })

  const timeline = Effect.gen(function* () {
    const {
      headers: { accept }
    } = yield* HttpServerRequest.HttpServerRequest
    const snapshot = yield* state.now
    const body = timelineBody(apiVersion, snapshot)
    const since = (yield* Clock.currentTimeMillis) - snapshot.since.epochMilliseconds
    const headline = `${body.status} since ${since} ms, born ${body.start_time}`
    const text = (body: string, type: "html" | "plain") =>
      HttpServerResponse.text(body, { contentType: `text/${type}; charset=utf-8` })
    if (accepts(accept, "text/html")) return text(waterfallPage(headline, snapshot.steps), "html")
    if (accepts(accept, "text/plain")) return text(waterfallText(headline, snapshot.steps), "plain")
    return json(body)
  })

  return {
    status: ({ query }: { readonly query: { readonly wait_for?: string; readonly timeout?: string } }) =>
      answered(status(query)),
    statusStream: () => answered(stream),
    history: () => Effect.map(state.now, (snapshot) => historyBody(apiVersion, snapshot)),
    conditions: () =>
      Effect.map(state.now, ({ degraded, pendingRestart, promotion, replica }) => ({
        degraded,
        pending_restart: pendingRestart,
        promotion: promotionBody(promotion),
        replica: replicaBody(replica)
      })),
    timeline: () => timeline
  }
}
