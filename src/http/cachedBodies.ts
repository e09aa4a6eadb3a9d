/**
 * What is asked most (the probes, `/status`, `/metrics`) as bytes that are made once per snapshot. A route that has
 * such a body is answered with it when it is asked in the plainest form: GET or HEAD, no query, no body, no stream of
 * events. Everything else about the route, and about who may ask, is as if there were none.
 */
import type * as Context from "effect/Context"
import type { IncomingHttpHeaders } from "node:http"
import type { ComputeState } from "../compute/ComputeState.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import { countedText } from "../telemetry/counted.ts"
import { metricsType, type paths } from "./answer.ts"
import type { ListenOptions } from "./options.ts"
import { livez, type ProbeOptions, readyz, startupz } from "./probes.ts"
import { bodyOf } from "./refusals.ts"
import type { Traffic } from "./traffic.ts"
import { metricsText, statusBody } from "./views.ts"

interface Prepared {
  readonly status: number
  /** Names and values in turn. */
  readonly headers: Array<string>
  /** A short one is text, because Node sends that in one piece with the head; a long one costs less as bytes. */
  readonly body: string | Buffer
}

export type CachedBody = () => Prepared

/** A body may follow, or a stream of events may be meant. */
export const isPlain = (headers: IncomingHttpHeaders): boolean =>
  headers["transfer-encoding"] === undefined &&
  headers["content-length"] === undefined &&
  headers.accept?.includes("event-stream") !== true

const longBody = 4096

export const prepare = (status: number, type: string, body: string): Prepared => {
  const bytes = Buffer.from(body)
  const headers = ["content-type", type, "content-length", String(bytes.length)]
  return { status, headers, body: bytes.length < longBody ? body : bytes }
}

const json = (body: unknown, status = 200): Prepared => prepare(status, "application/json", JSON.stringify(body))

/** By path. `/status` is among them on every port; whether a port has it is its own matter. */
export const makeCachedBodies = (
  options: ProbeOptions & Pick<ListenOptions, "buildTag" | "otherMetrics">,
  state: ComputeState["Service"],
  traffic: Traffic,
  context: Context.Context<never>
): Readonly<Record<keyof typeof paths, CachedBody>> => {
  const { apiVersion } = options

  const oncePerSnapshot = <A>(view: (snapshot: Snapshot) => A): (() => A) => {
    let made: { readonly of: Snapshot; readonly value: A } | undefined
    return () => {
      const snapshot = state.nowUnsafe()
      if (made?.of !== snapshot) made = { of: snapshot, value: view(snapshot) }
      return made.value
    }
  }

  const probe = (read: typeof livez): CachedBody =>
    oncePerSnapshot((snapshot) => {
      const { body, refused } = read(options, snapshot)
      return refused === null ? json(body) : json(bodyOf(refused), refused.status)
    })

  const counted = countedText(context)
  const ofSnapshot = oncePerSnapshot((snapshot) => ({ text: metricsText(snapshot, options.buildTag) }))
  let metrics: { readonly of: object; readonly prepared: Prepared } | undefined
  /** Once per turn of the event loop: nobody can ask, be answered and ask again within one. */
  const metricsNow: CachedBody = () => {
    const of = ofSnapshot()
    if (metrics?.of === of) return metrics.prepared
    const body = of.text + options.otherMetrics() + traffic.text() + counted()
    const prepared = prepare(200, metricsType, body)
    if (metrics === undefined) setImmediate(() => (metrics = undefined))
    metrics = { of, prepared }
    return prepared
  }

  return {
    livez: probe(livez),
    readyz: probe(readyz),
    startupz: probe(startupz),
    status: oncePerSnapshot((snapshot) => json(statusBody(apiVersion, snapshot))),
    metrics: metricsNow
  }
}
