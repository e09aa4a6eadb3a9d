/**
 * The door agents come through: `GET /monitor`, upgraded to a WebSocket. Everything else is refused.
 *
 * No TLS, no tokens, no sub-protocols, no compression: that is the agents' contract, so the address should be one
 * that only they can reach. A refused request never touches a connection. Closed, with all connections, by the scope.
 */
import * as NodeWS from "@effect/platform-node/NodeWS"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { createServer, type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http"
import type { Duplex } from "node:stream"
import { ListenFailed } from "../errors/Failure.ts"
import type { VmAddress } from "./vmAddress.ts"
import { type Peer, peerOf } from "./Peer.ts"

/** Messages of an agent have some hundred bytes; the socket is closed with 1009 for more than this. */
const maxPayload = 64 * 1024
/** One agent, its replacement, and those that are on their way out. */
const maxConnections = 64
const timeLimits = { headersTimeout: 4_000, requestTimeout: 4_000, keepAliveTimeout: 1_000, connectionsCheckingInterval: 1_000 }

const route = "/monitor"

/** What is wrong with a request, as a status; `null` for one that may try to upgrade. */
const objection = (request: IncomingMessage): number | null => {
  const [path] = (request.url ?? "").split("?")
  if (path !== route) return 404
  return request.method === "GET" ? null : 405
}

const answerPlain = (request: IncomingMessage, response: ServerResponse) => {
  const status = objection(request) ?? 426
  const headers = status === 426 ? { connection: "upgrade", upgrade: "websocket" } : status === 405 ? { allow: "GET" } : {}
  response.writeHead(status, { ...headers, "content-type": "text/plain" }).end(`${STATUS_CODES[status]}\n`)
}

const refuse = (socket: Duplex, status: number) => {
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`, () => socket.destroy())
}

/** `onPeer` is called once per upgraded connection, in the turn in which it was opened. With port 0 the system chooses. */
export const openDoor = (at: VmAddress, onPeer: (peer: Peer) => void): Effect.Effect<number, ListenFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const sockets = new NodeWS.WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload, handleProtocols: () => false })
    const server = createServer(timeLimits, answerPlain)
    server.maxConnections = maxConnections
    server.on("upgrade", (request, socket, head) => {
      socket.on("error", () => undefined)
      const status = objection(request)
      if (status !== null) return refuse(socket, status)
      const name = `${request.socket.remoteAddress}:${request.socket.remotePort}`
      sockets.handleUpgrade(request, socket, head, (ws) => onPeer(peerOf(ws, name)))
    })
    yield* Effect.addFinalizer(() =>
      Effect.callback<void>((resume) => {
        for (const ws of sockets.clients) ws.terminate()
        server.closeAllConnections()
        if (server.listening) server.close(() => resume(Effect.void))
        else resume(Effect.void)
      })
    )
    return yield* Effect.callback<number, ListenFailed>((resume) => {
      const failed = (cause: Error) => resume(Effect.fail(new ListenFailed({ what: "the vm-monitor", port: at.port, cause })))
      server.once("error", failed)
      server.listen(at.port, at.host, () => {
        server.off("error", failed)
        // An accept that failed (no file descriptors left) is an event here, and without a listener it would end the process.
        server.on("error", () => undefined)
        const address = server.address()
        resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : at.port))
      })
    })
  })
