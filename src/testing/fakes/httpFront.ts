/**
 * The HTTP in front of a fake: what is asked is recorded, faults that were armed are done, and all else is handed on.
 * Whoever drives the fake finds `/_seen`, `/_fault` and `/_reset` here. No secret is recorded in clear.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Result from "effect/Result"
import * as Http from "node:http"
import { redactUrls } from "../../errors/redactUrls.ts"
import { parseMillis } from "../../platform/duration.ts"
import type { FaultQueue, SeenList } from "../peers/faults.ts"
import { serveHttp } from "../peers/serverHttp.ts"
import type { ListenAt } from "../peers/serverWire.ts"
import type { RequestFault, SeenRequest } from "./script.ts"
import type { ScriptInvalid } from "./scriptSchema.ts"

export type Handle = (request: Http.IncomingMessage, response: Http.ServerResponse) => void

/** What is known of a request only when it is answered comes later. */
export type RecordedRequest = Omit<SeenRequest, "status" | "body"> & { status: number | null; body: unknown }

/** What whoever drives the fake can do. */
interface Control {
  readonly seen: () => object
  /** How many faults were armed. */
  readonly fault: (text: string) => Result.Result<number, ScriptInvalid>
  readonly reset: Effect.Effect<void>
}

export interface FrontOptions {
  readonly listen: ListenAt
  readonly control: Control
  readonly handle: Handle
  readonly requests: FaultQueue<RequestFault>
  readonly record: SeenList<RecordedRequest>
  /** What is a secret, and what to call it. */
  readonly tokens: ReadonlyMap<string, string>
}

const keptBodyBytes = 64 * 1024
const maxControlBytes = 1024 * 1024
const maxPath = 2_000

export const millisOf = (time: string | undefined): number => (time === undefined ? 0 : (parseMillis(time) ?? 0))

export const timesOf = (times: number | "always" | undefined): number => (times === "always" ? Infinity : (times ?? 1))

// -- what is recorded ---------------------------------------------------------------------------------------------

const isSecret = (key: string): boolean => /pass|secret|token|credential|private|jwks|connstr/i.test(key)

const withoutSecrets = (value: unknown): unknown => {
  if (typeof value === "string") return redactUrls(value)
  if (Array.isArray(value)) return value.map(withoutSecrets)
  if (typeof value !== "object" || value === null) return value
  const hidden = "name" in value && isSecret(String(value.name)) ? "value" : null
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => [
      key,
      (isSecret(key) || key === hidden) && one !== null ? "(hidden)" : withoutSecrets(one)
    ])
  )
}

/** Listens to the body beside whoever reads it; so not before that begins. */
const keepBody = (request: Http.IncomingMessage, seen: RecordedRequest): void => {
  const chunks: Array<Buffer> = []
  let bytes = 0
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes <= keptBodyBytes) chunks.push(chunk)
  })
  request.on("end", () => {
    if (bytes > keptBodyBytes) return
    try {
      seen.body = withoutSecrets(JSON.parse(Buffer.concat(chunks).toString("utf8")))
    } catch {
      // Not JSON: whoever it was sent to says so.
    }
  })
}

/** By its name; `null`: there is none. */
export const nameOf = (tokens: ReadonlyMap<string, string>, token: string | null): string | null =>
  token === null ? null : (tokens.get(token) ?? "unknown")

const bearerOf = ({ headers }: Http.IncomingMessage): string | null =>
  headers.authorization === undefined ? null : headers.authorization.replace(/^Bearer /i, "")

// -- faults ---------------------------------------------------------------------------------------------------------

const isMeant =
  ({ method, url = "/" }: Http.IncomingMessage) =>
  ({ at }: RequestFault): boolean => {
    if (at === undefined) return true
    const [path, wanted] = at.split(" ").toReversed()
    return (wanted === undefined || wanted === method) && (path === url || path === url.replace(/\?.*$/, ""))
  }

const printFault = ({ delay, fault, status }: RequestFault): string =>
  [fault, status, delay === undefined ? undefined : `${delay} late`].filter((one) => one !== undefined).join(", ")

const json = (response: Http.ServerResponse, status: number, body: unknown): void =>
  void response.writeHead(status, { "content-type": "application/json" }).end(`${JSON.stringify(body)}\n`)

const misbehave = (
  { body, fault, status }: RequestFault,
  request: Http.IncomingMessage,
  response: Http.ServerResponse
): boolean => {
  if (fault === "reset") request.socket.resetAndDestroy()
  else if (fault === "garbage") response.writeHead(200, { "content-type": "text/html" }).end("<html>not now</html>")
  else if (fault === "hang") return true
  else if (status === undefined) return false
  else if (typeof body === "string") response.writeHead(status, { "content-type": "text/plain" }).end(body)
  else if (body === undefined) response.writeHead(status).end()
  else json(response, status, body)
  return true
}

// -- what is handed on ----------------------------------------------------------------------------------------------

const ofConnection = new Set(["connection", "keep-alive", "transfer-encoding"])

/** To a server on this machine; while there is none, as if nobody listened here. */
export const proxyTo =
  (port: () => number | null): Handle =>
  (request, response) => {
    const to = port()
    if (to === null) return void request.socket.resetAndDestroy()
    const { headers, method = "GET", url = "/" } = request
    const onward = Http.request({ host: "127.0.0.1", port: to, method, path: url, headers, agent: false })
    onward.on("response", (answer) => {
      const kept = Object.entries(answer.headers).filter(([name]) => !ofConnection.has(name))
      response.writeHead(answer.statusCode ?? 500, Object.fromEntries(kept) as Http.OutgoingHttpHeaders)
      response.flushHeaders()
      answer.on("error", () => request.socket.resetAndDestroy())
      answer.pipe(response)
    })
    onward.on("error", () => (response.writableEnded ? undefined : request.socket.resetAndDestroy()))
    response.on("close", () => onward.destroy())
    request.pipe(onward)
  }

// -- the server -----------------------------------------------------------------------------------------------------

const bodyText = (request: Http.IncomingMessage): Promise<string | null> =>
  new Promise((resolve) => {
    const chunks: Array<Buffer> = []
    let bytes = 0
    request.on("data", (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes <= maxControlBytes) chunks.push(chunk)
    })
    request.on("end", () => resolve(bytes > maxControlBytes ? null : Buffer.concat(chunks).toString("utf8")))
    request.on("close", () => resolve(null))
  })

/** False: the request is not for whoever drives the fake. */
const controlled = (
  control: Control,
  run: (effect: Effect.Effect<void>) => unknown,
  request: Http.IncomingMessage,
  response: Http.ServerResponse
): boolean => {
  const asked = `${request.method} ${request.url}`
  if (asked === "GET /_seen") json(response, 200, control.seen())
  else if (asked === "POST /_reset")
    run(
      Effect.andThen(
        control.reset,
        Effect.sync(() => json(response, 200, {}))
      )
    )
  else if (asked === "POST /_fault") {
    const answer = async () => {
      const text = await bodyText(request)
      if (text === null) return json(response, 413, { error: `the body is longer than ${maxControlBytes} bytes` })
      const armed = control.fault(text)
      return Result.isSuccess(armed)
        ? json(response, 200, { armed: armed.success })
        : json(response, 400, { error: armed.failure.message, problems: armed.failure.problems })
    }
    run(Effect.promise(answer))
  } else return false
  return true
}

export const httpFront = Effect.fnUntraced(function* (options: FrontOptions) {
  const { control, handle, listen, record, requests, tokens } = options
  const clock = yield* Clock.Clock
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  return yield* serveHttp(
    "the fake",
    (request, response) => {
      if (controlled(control, run, request, response)) return
      const fault = requests.next(isMeant(request))
      const seen: RecordedRequest = {
        at: DateTime.formatIso(DateTime.makeUnsafe(clock.currentTimeMillisUnsafe())),
        method: request.method ?? "",
        path: redactUrls((request.url ?? "").slice(0, maxPath)),
        token: nameOf(tokens, bearerOf(request)),
        fault: fault === null ? null : printFault(fault),
        status: null,
        body: null
      }
      record.add(seen)
      response.on("finish", () => void (seen.status = response.statusCode))
      const answer = () => {
        if (request.socket.destroyed) return
        keepBody(request, seen)
        if (fault === null || !misbehave(fault, request, response)) handle(request, response)
      }
      const delay = millisOf(fault?.delay)
      if (delay === 0) answer()
      else run(Effect.andThen(Effect.sleep(delay), Effect.sync(answer)))
    },
    listen
  )
})
