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
import type { ComputeState, Snapshot } from "../compute/ComputeState.ts"
import type { Dialect } from "./httpAnswer.ts"
import { readTimeout, readWaitFor } from "./waiting.ts"
import { waterfallPage, waterfallText } from "./waterfall.ts"
import { answered, json } from "./answer.ts"
import { eventsType } from "./paths.ts"
import { promotionBody } from "../compute/promotion.ts"
import { historyBody, statusBody, timelineBody } from "./views.ts"

/** Proxies drop a connection that says nothing for long. */
const heartbeat = Duration.seconds(15)

const encoder = new TextEncoder()
const uncached = { "cache-control": "no-store" } as const

/** What a watcher of the status wants to be woken for; that somebody used Postgres is not it. */
const worthTelling = ({ error, spec, startTime, status }: Snapshot, before: Snapshot): boolean =>
  before.status !== status || before.error !== error || before.spec !== spec || before.startTime !== startTime

/** The first snapshot and each that differs, as events; the last is the one of `terminated`. */
const eventsOf = (state: ComputeState["Service"], dialect: Dialect): Stream.Stream<Uint8Array> => {
  const told = state.changes.pipe(
    Stream.changesWith((before, after) => !worthTelling(after, before)),
    Stream.buffer({ capacity: 4, strategy: "sliding" }),
    Stream.takeUntil(({ status }) => status === "terminated"),
    Stream.map((snapshot) => `event: status\ndata: ${JSON.stringify(statusBody(dialect, snapshot))}\n\n`)
  )
  const beats = Stream.fromSchedule(Schedule.spaced(heartbeat)).pipe(Stream.map(() => ": still here\n\n"))
  return Stream.merge(told, beats, { haltStrategy: "left" }).pipe(Stream.map((text) => encoder.encode(text)))
}

const accepts = (accept: string | undefined, type: string): boolean =>
  (accept ?? "").split(",").some((one) => one.split(";")[0]?.trim().toLowerCase() === type)

export const watching = (state: ComputeState["Service"], dialect: Dialect) => {
  const stream = Effect.sync(() => HttpServerResponse.stream(eventsOf(state, dialect), { contentType: eventsType, headers: uncached }))

  const status = Effect.fnUntraced(function*(query: { readonly wait_for?: string; readonly timeout?: string }) {
    const request = yield* HttpServerRequest.HttpServerRequest
    if (accepts(request.headers["accept"], eventsType)) return yield* stream
    if (query.wait_for === undefined) return json(statusBody(dialect, yield* state.now))
    const wanted = yield* Effect.fromResult(readWaitFor(dialect, query.wait_for))
    // After the last status there is no other, so nobody need wait for one.
    const reached = yield* state.until(...wanted, "terminated").pipe(Effect.timeoutOption(Duration.millis(readTimeout(query.timeout))))
    return json(statusBody(dialect, Option.isSome(reached) ? reached.value : yield* state.now))
  })

  const timeline = Effect.gen(function*() {
    const { headers: { accept } } = yield* HttpServerRequest.HttpServerRequest
    const snapshot = yield* state.now
    const body = timelineBody(dialect, snapshot)
    const since = (yield* Clock.currentTimeMillis) - snapshot.since.epochMilliseconds
    const headline = `${body.status} since ${since} ms, born ${body.start_time}`
    const text = (body: string, type: "html" | "plain") =>
      HttpServerResponse.text(body, { contentType: `text/${type}; charset=utf-8` })
    if (accepts(accept, "text/html")) return text(waterfallPage(headline, snapshot.steps), "html")
    if (accepts(accept, "text/plain")) return text(waterfallText(headline, snapshot.steps), "plain")
    return json(body)
  })

  return {
    status: ({ query }: { readonly query: { readonly wait_for?: string; readonly timeout?: string } }) => answered(status(query)),
    statusStream: () => stream,
    history: () => Effect.map(state.now, (snapshot) => historyBody(dialect, snapshot)),
    conditions: () =>
      Effect.map(state.now, ({ degraded, pendingRestart, promotion }) => ({
        degraded,
        pending_restart: pendingRestart,
        promotion: promotionBody(promotion)
      })),
    timeline: () => timeline
  }
}
