/**
 * The server's side of the Postgres protocol, as much as imitation peers need: log-in, simple queries, rows, COPY OUT.
 *
 * Real sockets, on a free port of 127.0.0.1 unless another is asked for. When the scope ends, every connection is
 * destroyed and the port is free.
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Net from "node:net"
import { ListenFailed } from "../../errors/Failure.ts"

/** One client, after it has said who it is. */
export interface Session {
  /** Start-up parameters: `user`, `database`, `options`, `application_name`, … */
  readonly startup: ReadonlyMap<string, string>
  /** Asks for a clear-text password; `null`: the client left instead. */
  readonly password: Effect.Effect<string | null>
  /** The next simple query; `null`: the client left. */
  readonly query: Effect.Effect<string | null>
  /** Waits until the socket takes more, or is gone. */
  readonly send: (...messages: ReadonlyArray<Uint8Array>) => Effect.Effect<void>
  /** Ends the connection: in order, or with a TCP reset. */
  readonly end: Effect.Effect<void>
  readonly reset: Effect.Effect<void>
}

// -- messages --------------------------------------------------------------------------------------------------

const message = (type: string, ...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const body = Buffer.concat(parts)
  const head = Buffer.alloc(5)
  head.write(type, 0, "latin1")
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}
const int16 = (value: number) => {
  const bytes = Buffer.alloc(2)
  bytes.writeInt16BE(value)
  return bytes
}
const int32 = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}
const text = (value: string) => Buffer.from(`${value}\0`)
const textOid = 25

export const readyForQuery = message("Z", Buffer.from("I"))
export const loggedIn = Buffer.concat([
  message("R", int32(0)),
  message("S", text("server_version"), text("15.0")),
  message("K", int32(1), int32(1)),
  readyForQuery
])
const passwordRequest = message("R", int32(3))
export const copyOut = message("H", Buffer.from([0]), int16(0))
export const copyData = (bytes: Uint8Array) => message("d", bytes)
export const copyDone = message("c")
export const commandComplete = (tag: string) => message("C", text(tag))

export const error = (severity: "ERROR" | "FATAL", code: string, detail: string): Uint8Array =>
  message("E", ...[`S${severity}`, `V${severity}`, `C${code}`, `M${detail}`].map(text), Buffer.from([0]))

/** As Neon's servers say everything: one SQLSTATE, never FATAL, and no severity that stays untranslated. */
export const neonError = (detail: string): Uint8Array =>
  message("E", ...["SERROR", "CXX000", `M${detail}`].map(text), Buffer.from([0]))

/** For a token that is bad or missing at log-in, and for one of another tenant at the query. */
export const unauthorized = neonError("JWT authentication error")

/** The whole answer of a query: a header, rows of text, and the end. */
export const table = (
  columns: ReadonlyArray<string>,
  rows: ReadonlyArray<ReadonlyArray<string | null>>,
  tag = `SELECT ${rows.length}`
): Uint8Array =>
  Buffer.concat([
    message(
      "T",
      int16(columns.length),
      ...columns.flatMap((name) => [text(name), int32(0), int16(0), int32(textOid), int16(-1), int32(-1), int16(0)])
    ),
    ...rows.map((row) =>
      message(
        "D",
        int16(row.length),
        ...row.flatMap((value) =>
          value === null ? [int32(-1)] : [int32(Buffer.byteLength(value)), Buffer.from(value)]
        )
      )
    ),
    commandComplete(tag),
    readyForQuery
  ])

/** `-c a=1 b=2` as a map. */
export const optionsOf = (session: Pick<Session, "startup">): ReadonlyMap<string, string> =>
  new Map(
    [...(session.startup.get("options") ?? "").matchAll(/([\w.]+)=(\S+)/g)].map((match) => [
      match[1] ?? "",
      match[2] ?? ""
    ])
  )

// -- the server ------------------------------------------------------------------------------------------------

interface Frame {
  readonly type: string
  readonly body: Buffer
}

const sslRequest = 80877103
const gssRequest = 80877104
const cancelRequest = 80877102

/** Cuts a client's bytes into messages. The first one has no type; requests for encryption before it are declined. */
const reader = (socket: Net.Socket, queue: Queue.Queue<Frame, Cause.Done>) => {
  let held = Buffer.alloc(0)
  let started = false
  return (chunk: Buffer): void => {
    held = Buffer.concat([held, chunk])
    while (true) {
      const skip = started ? 1 : 0
      if (held.length < skip + 4) return
      const length = held.readInt32BE(skip)
      if (held.length < skip + length) return
      const body = held.subarray(skip + 4, skip + length)
      const type = started ? held.toString("latin1", 0, 1) : "startup"
      held = held.subarray(skip + length)
      const code = started ? 0 : body.readInt32BE(0)
      if (code === cancelRequest) return void socket.destroy()
      if (code === sslRequest || code === gssRequest) socket.write("N")
      else {
        started = true
        Queue.offerUnsafe(queue, { type, body: Buffer.from(body) })
      }
    }
  }
}

const parametersOf = (body: Buffer): ReadonlyMap<string, string> => {
  const words = body.toString("utf8", 4).split("\0")
  const pairs: Array<readonly [string, string]> = []
  for (let at = 0; at + 1 < words.length && words[at] !== ""; at += 2)
    pairs.push([words[at] ?? "", words[at + 1] ?? ""])
  return new Map(pairs)
}

const untilNul = (body: Buffer): string => body.toString("utf8", 0, body.at(-1) === 0 ? body.length - 1 : body.length)

const attend = Effect.fnUntraced(function* (socket: Net.Socket, answer: (session: Session) => Effect.Effect<void>) {
  // Clients are our own tests; what they can send before they are answered is small.
  const frames = yield* Queue.unbounded<Frame, Cause.Done>()
  socket.on("error", () => {})
  socket.on("close", () => Queue.endUnsafe(frames))
  socket.on("end", () => Queue.endUnsafe(frames))
  socket.on("data", reader(socket, frames))
  const take = (wanted: string): Effect.Effect<Buffer | null> =>
    Queue.take(frames).pipe(
      Effect.map((frame) => (frame.type === wanted ? frame.body : null)),
      Effect.catch(() => Effect.succeed(null))
    )
  const send = (...messages: ReadonlyArray<Uint8Array>): Effect.Effect<void> =>
    Effect.callback((resume) => {
      if (socket.destroyed || socket.write(Buffer.concat(messages))) return resume(Effect.void)
      const go = () => {
        socket.off("drain", go)
        socket.off("close", go)
        resume(Effect.void)
      }
      socket.on("drain", go)
      socket.on("close", go)
    })
  const started = yield* take("startup")
  if (started === null) return
  yield* answer({
    startup: parametersOf(started),
    password: Effect.andThen(
      send(passwordRequest),
      Effect.map(take("p"), (body) => (body === null ? null : untilNul(body)))
    ),
    query: Effect.map(take("Q"), (body) => (body === null ? null : untilNul(body))),
    send,
    end: Effect.sync(() => void socket.end()),
    reset: Effect.sync(() => void socket.resetAndDestroy())
  })
})

/** Where a peer listens. By default on a free port of 127.0.0.1. */
export interface ListenAt {
  readonly host?: string
  readonly port?: number
}

/** As a URL has it. */
export const inUrl = (host: string): string => (host.includes(":") ? `[${host}]` : host)

export interface Listening {
  readonly host: string
  readonly port: number
  /** How many clients are connected right now. */
  readonly connections: Effect.Effect<number>
}

/**
 * Listens, and answers every client in a fiber of its own. When the answer returns, the connection is ended. With
 * `gone`, the port is a free one where nobody listens: what a peer that is down looks like.
 */
export const serve: (
  answer: (session: Session) => Effect.Effect<void>,
  options?: ListenAt & { readonly gone?: boolean }
) => Effect.Effect<Listening, ListenFailed, Scope.Scope> = Effect.fnUntraced(function* (
  answer,
  { gone = false, host = "127.0.0.1", port: wanted = 0 } = {}
) {
  const sockets = new Set<Net.Socket>()
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const server = Net.createServer((socket) => {
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
    run(
      Effect.ensuring(
        attend(socket, answer),
        Effect.sync(() => void socket.end())
      )
    )
  })
  const listen = Effect.callback<number, ListenFailed>((resume) => {
    server.once("error", (cause) =>
      resume(Effect.fail(new ListenFailed({ what: "an imitation peer", port: wanted, cause })))
    )
    server.listen(wanted, host, () => {
      const address = server.address()
      resume(Effect.succeed(address !== null && typeof address === "object" ? address.port : 0))
    })
  })
  const close = Effect.callback<void>((resume) => {
    for (const socket of sockets) socket.destroy()
    server.close(() => resume(Effect.void))
  })
  const port = yield* Effect.acquireRelease(listen, () => close)
  if (gone) yield* close
  return { host, port, connections: Effect.sync(() => sockets.size) } as const
})
