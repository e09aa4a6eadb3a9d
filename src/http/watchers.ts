/**
 * Who watches the status as server-sent events. One reader of the state makes the bytes of each event once and hands
 * them to every response, so a watcher costs its connection and nothing else.
 *
 * What a watcher does not read waits in its response, up to a bound; beyond that, and when something has waited for a
 * whole heartbeat, it is dropped, and may come again. The streams end with the compute.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { ServerResponse } from "node:http"
import type { ComputeState } from "../compute/ComputeState.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { eventsType } from "./answer.ts"
import { type Refusal, refusal } from "./refusals.ts"
import type { Traffic } from "./traffic.ts"
import { statusBody } from "./views.ts"

/** Proxies drop a connection that says nothing for long. */
const heartbeat = Duration.seconds(15)

/** Bytes that may wait for a watcher to read them, beside the event that is being sent. */
export const maxWaiting = 64 * 1024

/** A stream that a proxy buffers is no stream. */
export const eventHeaders = {
  "content-type": eventsType,
  "cache-control": "no-store",
  "x-accel-buffering": "no"
} as const

const tooMany = refusal(
  503,
  "too_many_watchers",
  "too many connections watch the status already",
  "ask GET /status, or GET /status?wait_for=, instead"
)

/** Is this an event for who watches the status? That somebody used Postgres is none. */
const differs = ({ error, spec, startTime, status }: Snapshot, before: Snapshot): boolean =>
  before.status !== status || before.error !== error || before.spec !== spec || before.startTime !== startTime

const beat = Buffer.from(": still here\n\n")

interface WatcherOptions {
  readonly apiVersion: ApiVersion
  /** Watchers at the same time. */
  readonly most: number
  readonly traffic: Pick<Traffic, "dropped">
}

export class Watchers {
  /** To be supervised: tells the watchers what changes, and now and then that nothing does. */
  readonly actor: Actor
  readonly #options: WatcherOptions
  /** Whether something waited for each at the last heartbeat. */
  readonly #watchers = new Map<ServerResponse, { lags: boolean }>()
  /** The last event: what a new watcher is told first. */
  #current: { readonly snapshot: Snapshot; readonly event: Buffer } | null = null

  constructor(state: ComputeState["Service"], options: WatcherOptions) {
    this.#options = options
    const publishing = Stream.runForEach(state.changes, (snapshot) => Effect.sync(() => this.#publish(snapshot)))
    const beating = Effect.forever(
      Effect.andThen(
        Effect.sleep(heartbeat),
        Effect.sync(() => this.#beat())
      )
    )
    const run = Effect.raceFirst(Effect.andThen(publishing, Effect.never), beating)
    this.actor = { name: "status watchers", kind: "auxiliary", run }
  }

  /** Streams the status to a response, from what it is now, until either of them ends. */
  watch(response: ServerResponse): Effect.Effect<void, Refusal> {
    return Effect.suspend(() => {
      if (this.#watchers.size >= this.#options.most) return Effect.fail(tooMany)
      return Effect.callback<void>((resume) => {
        response.once("close", () => {
          this.#watchers.delete(response)
          resume(Effect.void)
        })
        response.writeHead(200, eventHeaders)
        response.flushHeaders()
        this.#watchers.set(response, { lags: false })
        if (this.#current !== null) this.#send(response, this.#current.event)
        if (this.#current?.snapshot.status === "terminated") this.#end(response)
      })
    })
  }

  /** Bytes that wait for watchers to read them. */
  get waiting(): number {
    return this.#watchers.keys().reduce((sum, response) => sum + response.writableLength, 0)
  }

  #publish(snapshot: Snapshot): void {
    if (this.#current !== null && !differs(snapshot, this.#current.snapshot)) return
    const body = JSON.stringify(statusBody(this.#options.apiVersion, snapshot))
    const event = Buffer.from(`event: status\ndata: ${body}\n\n`)
    this.#current = { snapshot, event }
    for (const response of this.#watchers.keys()) this.#send(response, event)
    if (snapshot.status === "terminated") for (const response of this.#watchers.keys()) this.#end(response)
  }

  #beat(): void {
    for (const [response, watcher] of this.#watchers) {
      const lags = response.writableLength > 0
      if (lags && watcher.lags) this.#drop(response)
      else if (!lags) response.write(beat)
      watcher.lags = lags
    }
  }

  #send(response: ServerResponse, bytes: Buffer): void {
    if (response.writableLength > maxWaiting) this.#drop(response)
    else response.write(bytes)
  }

  #drop(response: ServerResponse): void {
    this.#watchers.delete(response)
    response.destroy()
    this.#options.traffic.dropped("slow")
  }

  #end(response: ServerResponse): void {
    this.#watchers.delete(response)
    response.end()
  }
}
