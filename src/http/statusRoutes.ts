/**
 * The routes that watch: status now, later, and as a stream; its history; the start's timeline.
 *
 * Every wait has a deadline. A stream ends with the compute, and a slow listener misses what it was too slow for.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { ComputeState } from "../compute/ComputeState.ts"
import { promotionBody } from "../compute/promotion.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { answered, eventsType, json, readTimeout, readWaitFor } from "./answer.ts"
import { waterfallPage, waterfallText } from "./pages.ts"
import { historyBody, statusBody, timelineBody } from "./views.ts"

/** Proxies drop a connection that says nothing for long. */
const heartbeat = Duration.seconds(15)

const encoder = new TextEncoder()
const uncached = { "cache-control": "no-store" } as const

/** Is this an event for who watches the status? That somebody used Postgres is none. */
const differs = ({ error, spec, startTime, status }: Snapshot, before: Snapshot): boolean =>
  before.status !== status || before.error !== error || before.spec !== spec || before.startTime !== startTime

/** The first snapshot and each that differs, as events; the last is the one of `terminated`. */
const eventsOf = (state: ComputeState["Service"], apiVersion: ApiVersion): Stream.Stream<Uint8Array> => {
  const events = state.changes.pipe(
    Stream.changesWith((before, after) => !differs(after, before)),
    Stream.buffer({ capacity: 4, strategy: "sliding" }),
    Stream.takeUntil(({ status }) => status === "terminated"),
    Stream.map((snapshot) => `event: status\ndata: ${JSON.stringify(statusBody(apiVersion, snapshot))}\n\n`)
  )
  const beats = Stream.fromSchedule(Schedule.spaced(heartbeat)).pipe(Stream.map(() => ": still here\n\n"))
  return Stream.merge(events, beats, { haltStrategy: "left" }).pipe(Stream.map((text) => encoder.encode(text)))
}

const accepts = (accept: string | undefined, type: string): boolean =>
  (accept ?? "").split(",").some((one) => one.split(";")[0]?.trim().toLowerCase() === type)

export const statusRoutes = (state: ComputeState["Service"], apiVersion: ApiVersion) => {
  const stream = Effect.sync(() =>
    HttpServerResponse.stream(eventsOf(state, apiVersion), { contentType: eventsType, headers: uncached })
  )

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
    statusStream: () => stream,
    history: () => Effect.map(state.now, (snapshot) => historyBody(apiVersion, snapshot)),
    conditions: () =>
      Effect.map(state.now, ({ degraded, pendingRestart, promotion }) => ({
        degraded,
        pending_restart: pendingRestart,
        promotion: promotionBody(promotion)
      })),
    timeline: () => timeline
  }
}
