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
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { randomUUID } from "node:crypto"
import { livingHolds, maxHolds } from "../activity/activity.ts"
import type { ComputeState, Hold, Snapshot } from "../compute/ComputeState.ts"
import { promotionBody } from "../compute/Promotions.ts"
import { type Status, statuses } from "../compute/transitions.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { answered, json, readBody, type Refusal, refusal, wireStatus } from "./answer.ts"
import { HoldBody } from "./bodies.ts"
import { eventsType } from "./probes.ts"
import { activityBody, historyBody, holdBody, statusBody, timelineBody } from "./views.ts"

// ---------------------------------------------------------------------------------------------------------------------
// What a watching caller may ask to wait for, and for how long. Waits for nothing itself.
// ---------------------------------------------------------------------------------------------------------------------

/** Longer than this nobody waits on one request; proxies give up sooner. */
export const maxWaitMillis = 300_000
export const defaultWaitMillis = 30_000

const units = { ms: 1, s: 1_000, m: 60_000 } as const

/** `30`, `30s`, `500ms`, `2m`; a bare number is seconds, and more than the most is the most. */
export const readTimeout = (text: string | undefined): number => {
  const found = /^(\d{1,6}(?:\.\d{1,3})?)(ms|s|m)?$/.exec(text ?? "")
  if (found === null) return defaultWaitMillis
  const unit = found[2] === "ms" || found[2] === "m" ? found[2] : "s"
  return Math.min(maxWaitMillis, Number(found[1]) * units[unit])
}

/** Names of the apiVersion spoken, divided by commas; the 2024 apiVersion's `termination_pending` is both of HEAD's. */
export const readWaitFor = (apiVersion: ApiVersion, text: string): Result.Result<ReadonlyArray<Status>, Refusal> => {
  const names = text.split(",").map((name) => name.trim())
  const known = new Set(statuses.map((status) => wireStatus(apiVersion, status)))
  return names.every((name) => known.has(name))
    ? Result.succeed(statuses.filter((status) => names.includes(wireStatus(apiVersion, status))))
    : Result.fail(
        refusal(
          400,
          "status_unknown",
          "wait_for names a status that does not exist",
          `the statuses are ${[...known].join(", ")}`
        )
      )
}

// ---------------------------------------------------------------------------------------------------------------------
// The start as a picture: each step a bar, placed and sized by when it passed and for how long. Text and HTML.
// ---------------------------------------------------------------------------------------------------------------------

/** Milliseconds since the start began. */
export interface Bar {
  readonly name: string
  readonly startedAt: number
  readonly millis: number
}

const width = 48

const span = (bars: ReadonlyArray<Bar>): number =>
  bars.reduce((end, { millis, startedAt }) => Math.max(end, startedAt + millis), 1)

const draw = ({ millis, startedAt }: Bar, total: number): string => {
  const from = Math.min(width - 1, Math.max(0, Math.floor((startedAt / total) * width)))
  const long = Math.max(1, Math.min(width - from, Math.round((millis / total) * width)))
  return `${" ".repeat(from)}${"█".repeat(long)}`.padEnd(width)
}

/** For a terminal. `headline` stands above it. */
export const waterfallText = (headline: string, bars: ReadonlyArray<Bar>): string => {
  const total = span(bars)
  const names = bars.reduce((most, { name }) => Math.max(most, name.length), 0)
  const number = (millis: number): string => String(millis).padStart(String(total).length)
  const line = (bar: Bar): string =>
    `  ${bar.name.padEnd(names)} |${draw(bar, total)}| ${number(bar.startedAt)} + ${number(bar.millis)} ms`
  return [headline, "", ...(bars.length === 0 ? ["  no step has passed yet"] : bars.map(line)), ""].join("\n")
}

export const escapeHtml = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;")

/** What every page of ours looks like. `body` is HTML. */
export const page = (title: string, body: string): string =>
  `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escapeHtml(title)}</title>` +
  '<meta name="viewport" content="width=device-width"><style>body{font:15px/1.5 system-ui,sans-serif;margin:2em;max-width:72em}' +
  "table{border-collapse:collapse;width:100%}td,th{padding:.2em .6em;text-align:left;vertical-align:top;border-top:1px solid #8884}" +
  "code{font-family:ui-monospace,monospace}.bar{background:#8882;width:60%}.bar i{display:block;height:1em;background:#2a7}" +
  `td.ms{text-align:right}:root{color-scheme:light dark}</style><h1>${escapeHtml(title)}</h1>${body}</html>\n`

const percent = (part: number, total: number): string => ((Math.max(0, part) / total) * 100).toFixed(2)

/** For a browser. */
export const waterfallPage = (headline: string, bars: ReadonlyArray<Bar>): string => {
  const total = span(bars)
  const rows = bars.map(
    ({ millis, name, startedAt }) =>
      `<tr><td>${escapeHtml(name)}<td class="bar"><i style="margin-left:${percent(startedAt, total)}%;` +
      `width:max(2px,${percent(millis, total)}%)"></i><td class="ms">${millis} ms`
  )
  return page("Start of this compute", `<p>${escapeHtml(headline)}</p><table>${rows.join("")}</table>`)
}

// ---------------------------------------------------------------------------------------------------------------------
// The routes that explain activity, and the holds that keep a compute awake. Who keeps `last_active` fresh while one
// lives is the monitor's hold keeper.
// ---------------------------------------------------------------------------------------------------------------------

const tooMany = refusal(
  429,
  "too_many_holds",
  `there are ${maxHolds} holds already`,
  "release one, or wait until one expires"
)
const noHold = refusal(404, "hold_unknown", "there is no such hold", "it was released, or it has expired")

export const holding = (state: ComputeState["Service"], apiVersion: ApiVersion) => {
  const hold = Effect.gen(function* () {
    const { reason, ttl_seconds } = yield* readBody(HoldBody, apiVersion, "invalid hold")
    const now = yield* Clock.currentTimeMillis
    const made: Hold = { id: randomUUID(), reason, createdAt: now, expiresAt: now + ttl_seconds * 1000 }
    yield* state.note(({ holds }) => {
      const living = livingHolds(holds, now)
      return living.length < maxHolds ? { holds: [...living, made] } : {}
    })
    const taken = (yield* state.now).holds.includes(made)
    return taken ? json(holdBody(made), 201) : yield* Effect.fail(tooMany)
  })

  const release = Effect.fnUntraced(function* (id: string) {
    const now = yield* Clock.currentTimeMillis
    const found = livingHolds((yield* state.now).holds, now).find((one) => one.id === id)
    if (found === undefined) return yield* Effect.fail(noHold)
    // It expires now, and the keeper, which counts the time until then, takes it away.
    const ended: Hold = { ...found, expiresAt: now }
    yield* state.note(({ holds }) => ({ holds: holds.map((one) => (one.id === id ? ended : one)) }))
    return holdBody(ended)
  })

  return {
    activity: () =>
      Effect.map(Effect.all([state.now, Clock.currentTimeMillis]), ([snapshot, now]) =>
        activityBody(apiVersion, snapshot, now)
      ),
    holds: () =>
      Effect.map(Effect.all([state.now, Clock.currentTimeMillis]), ([{ holds }, now]) => ({
        holds: livingHolds(holds, now).map(holdBody)
      })),
    hold: () => answered(hold),
    release: ({ params }: { readonly params: { readonly id: string } }) => answered(release(params.id))
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** Proxies drop a connection that says nothing for long. */
const heartbeat = Duration.seconds(15)

const encoder = new TextEncoder()
const uncached = { "cache-control": "no-store" } as const

/** What a watcher of the status wants to be woken for; that somebody used Postgres is not it. */
const worthTelling = ({ error, spec, startTime, status }: Snapshot, before: Snapshot): boolean =>
  before.status !== status || before.error !== error || before.spec !== spec || before.startTime !== startTime

/** The first snapshot and each that differs, as events; the last is the one of `terminated`. */
const eventsOf = (state: ComputeState["Service"], apiVersion: ApiVersion): Stream.Stream<Uint8Array> => {
  const told = state.changes.pipe(
    Stream.changesWith((before, after) => !worthTelling(after, before)),
    Stream.buffer({ capacity: 4, strategy: "sliding" }),
    Stream.takeUntil(({ status }) => status === "terminated"),
    Stream.map((snapshot) => `event: status\ndata: ${JSON.stringify(statusBody(apiVersion, snapshot))}\n\n`)
  )
  const beats = Stream.fromSchedule(Schedule.spaced(heartbeat)).pipe(Stream.map(() => ": still here\n\n"))
  return Stream.merge(told, beats, { haltStrategy: "left" }).pipe(Stream.map((text) => encoder.encode(text)))
}

const accepts = (accept: string | undefined, type: string): boolean =>
  (accept ?? "").split(",").some((one) => one.split(";")[0]?.trim().toLowerCase() === type)

export const watching = (state: ComputeState["Service"], apiVersion: ApiVersion) => {
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
