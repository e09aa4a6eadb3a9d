/**
 * A real port with room for few connections, and peers for it that do what real ones do at their worst.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import { once } from "node:events"
import { connect, type Socket } from "node:net"
import * as tls from "node:tls"
import { prepare } from "../../src/http/cachedBodies.ts"
import { type ConnectionLimits, Connections } from "../../src/http/connections.ts"
import { makeDispatcher } from "../../src/http/dispatch.ts"
import { listenExternal } from "../../src/http/listen.ts"
import { Router } from "../../src/http/router.ts"
import { makeTraffic } from "../../src/http/traffic.ts"
import { eventually } from "../support/waiting.ts"

/**
 * It answers `/livez` at once and holds `GET /wait` for ever; who does, is counted. `files`: of a certificate.
 */
export const smallPort = Effect.fnUntraced(function* (
  limits: ConnectionLimits,
  files: { readonly certPath: string; readonly keyPath: string } | null = null
) {
  const router = new Router()
  const alive = prepare(200, "text/plain", "alive")
  let held = 0
  const hold = () =>
    Effect.suspend(() => {
      held += 1
      return Effect.never
    }).pipe(Effect.ensuring(Effect.sync(() => void (held -= 1))), Effect.as(HttpServerResponse.empty()))
  router.add("GET", "/livez", { access: "open", cached: () => alive, handler: null })
  router.add("GET", "/wait", { access: "open", cached: null, handler: hold })
  const traffic = makeTraffic()
  const connections = new Connections(limits, traffic)
  const dispatcher = makeDispatcher({ router, admit: () => Exit.succeed({ admin: false }), traffic, connections })
  const { port } = yield* listenExternal({ host: "0.0.0.0", externalPort: 0, tls: files }, dispatcher, connections)
  yield* dispatcher.open
  return { port, traffic, held: () => held }
})

interface Peer {
  readonly send: (bytes: string) => void
  readonly heard: () => string
  readonly isClosed: () => boolean
  /** Once it has heard this. */
  readonly hears: (pattern: RegExp) => Effect.Effect<void>
  readonly closed: Effect.Effect<void>
  readonly leave: () => void
}

const follow = (socket: Socket): Peer => {
  let text = ""
  let closed = false
  socket.setEncoding("latin1").on("data", (chunk: string) => (text += chunk))
  socket.on("error", () => undefined)
  socket.on("close", () => (closed = true))
  return {
    send: (bytes) => void socket.write(bytes, "latin1"),
    heard: () => text,
    isClosed: () => closed,
    hears: (pattern) =>
      Effect.asVoid(
        eventually(
          `${pattern}`,
          () => pattern.test(text),
          () => text
        )
      ),
    closed: Effect.asVoid(eventually("the end of a connection", () => closed)),
    leave: () => void socket.destroy()
  }
}

const scoped = (make: () => { readonly socket: Socket; readonly ready: string }) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const { ready, socket } = make()
      const peer = follow(socket)
      await Promise.race([once(socket, ready), once(socket, "close")])
      return { peer, socket }
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  ).pipe(Effect.map(({ peer }) => peer))

/** `from`: the address that it comes from. */
export const peer = (port: number, from = "127.0.0.1") =>
  scoped(() => ({ socket: connect({ port, host: "127.0.0.1", localAddress: from }), ready: "connect" }))

export const securePeer = (port: number) =>
  scoped(() => ({
    socket: tls.connect({ port, host: "127.0.0.1", rejectUnauthorized: false }),
    ready: "secureConnect"
  }))

export const request = (path: string): string => `GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`
