/**
 * The vm-monitor: tells the autoscaler's agent when Postgres needs more memory and whether it can do with less.
 *
 * Listens while Postgres runs after a start that succeeded, and is done when the compute is ending. One agent at a
 * time: the newest wins. It moves no memory itself and writes nothing but the limit of the file cache. It speaks no
 * TLS, takes no tokens and compresses nothing: that is the agents' contract, so only they should reach its address.
 * The end of its scope closes the server and every connection.
 */
import * as NodeWS from "@effect/platform-node/NodeWS"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { createServer, type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http"
import * as os from "node:os"
import type { Duplex } from "node:stream"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { isTerminating, type Status } from "../compute/transitions.ts"
import { ListenFailed } from "../errors/Failure.ts"
import { type HostPort, parseHostPort } from "../pgwire/address.ts"
import type { Prove } from "../pgwire/Admin.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { type AgentOptions, type Peer, peerOf, serveAgent, throttledWarning } from "./agent.ts"
import { type CgroupPolicy, defaultCgroupRoot, openCgroup } from "./Cgroup.ts"
import { openFileCache } from "./FileCache.ts"
import type { VmMetrics } from "./metrics.ts"

// -- WebSocket server

/** Messages of an agent have some hundred bytes; the socket is closed with 1009 for more than this. */
const maxPayload = 64 * 1024
/** One agent, its replacement, and connections that are closing. */
const maxConnections = 64
const timeLimits = {
  headersTimeout: 4_000,
  requestTimeout: 4_000,
  keepAliveTimeout: 1_000,
  connectionsCheckingInterval: 1_000
}

const route = "/monitor"

/** What is wrong with a request, as a status; `null` for one that may try to upgrade. */
const refusalStatus = (request: IncomingMessage): number | null => {
  const [path] = (request.url ?? "").split("?")
  if (path !== route) return 404
  return request.method === "GET" ? null : 405
}

const answerPlain = (request: IncomingMessage, response: ServerResponse) => {
  const status = refusalStatus(request) ?? 426
  const headers =
    status === 426 ? { connection: "upgrade", upgrade: "websocket" } : status === 405 ? { allow: "GET" } : {}
  response.writeHead(status, { ...headers, "content-type": "text/plain" }).end(`${STATUS_CODES[status]}\n`)
}

const refuse = (socket: Duplex, status: number) => {
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`, () =>
    socket.destroy()
  )
}

/**
 * `GET /monitor`, upgraded to a WebSocket; everything else is refused. `onPeer` is called once per upgraded connection,
 * in the turn in which it was opened. With port 0 the system chooses.
 */
export const openServer = (
  at: HostPort,
  onPeer: (peer: Peer) => void
): Effect.Effect<number, ListenFailed, Scope.Scope> =>
  Effect.gen(function* () {
    const sockets = new NodeWS.WebSocketServer({
      noServer: true,
      perMessageDeflate: false,
      maxPayload,
      handleProtocols: () => false
    })
    const server = createServer(timeLimits, answerPlain)
    server.maxConnections = maxConnections
    server.on("upgrade", (request, socket, head) => {
      socket.on("error", () => undefined)
      const status = refusalStatus(request)
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
      const failed = (cause: Error) =>
        resume(Effect.fail(new ListenFailed({ what: "the vm-monitor", port: at.port, cause })))
      server.once("error", failed)
      server.listen(at.port, at.host, () => {
        server.off("error", failed)
        // An accept that fails (no file descriptors left) is an event; without a listener it would end the process.
        server.on("error", () => undefined)
        const address = server.address()
        resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : at.port))
      })
    })
  })

// -- monitor

export interface VmMonitorOptions {
  /** `host:port`, such as `0.0.0.0:10301`; with port 0 the system chooses. */
  readonly address: string
  /** Relative to the root. `null`: no memory is watched, and every downscale is granted. */
  readonly cgroup: string | null
  /** `/sys/fs/cgroup` by default. */
  readonly cgroupRoot?: string
  /** What to do for agents when the cgroup cannot be used. `refuse` by default. */
  readonly policy?: CgroupPolicy
  /** Where the superuser of our Postgres is reached. `null`: the file cache is left alone. */
  readonly fileCacheConnstr: ConnString | null
  /** That a session of the file cache may be used; any by default. */
  readonly proveFileCache?: Prove
  /** By the spec of the moment in which an agent connects. */
  readonly disableLfcResizing?: (spec: ParsedSpec | null) => boolean
  /** Bytes. The kernel's own total by default, which in a container is the host's. */
  readonly totalMemory?: Effect.Effect<number>
}

export const defaultVmAddress = "0.0.0.0:10301"
export const defaultCgroup = "neon-postgres"

export interface Listening {
  readonly port: number
  /** Serves agents until it is interrupted. */
  readonly serve: Effect.Effect<never, never, VmMetrics>
}

interface Arrival {
  readonly peer: Peer
  readonly replaced: Deferred.Deferred<void>
}

const warnUnwatchableEveryMillis = 60_000
/** Agents that are on their way in; beyond that they are turned away. */
const arrivalCapacity = 16

const anyServer: Prove = () => Effect.void

const agentOptionsOf = (options: VmMonitorOptions, spec: Effect.Effect<ParsedSpec | null>): AgentOptions => {
  const {
    cgroup,
    cgroupRoot: root = defaultCgroupRoot,
    fileCacheConnstr: at,
    proveFileCache: prove = anyServer
  } = options
  return {
    totalMemory: options.totalMemory ?? Effect.sync(() => os.totalmem()),
    cgroup: cgroup === null ? null : openCgroup({ root, name: cgroup }),
    policy: options.policy ?? "refuse",
    warnUnwatchable: throttledWarning(warnUnwatchableEveryMillis),
    openCache: Effect.map(spec, (now) =>
      options.disableLfcResizing?.(now) === true || at === null ? null : openFileCache(at, prove)
    )
  }
}

/** Listens from now until the scope closes; agents are served only while `serve` runs. */
export const listen = Effect.fn("Vm.serve")(function* (
  options: VmMonitorOptions,
  spec: Effect.Effect<ParsedSpec | null>
): Effect.fn.Return<Listening, ListenFailed, Scope.Scope> {
  const address = parseHostPort(options.address, 0)
  if (Result.isFailure(address)) {
    const cause = new Error(`${JSON.stringify(options.address)}: ${address.failure}`)
    return yield* new ListenFailed({ what: "the vm-monitor", port: 0, cause })
  }
  const queue = yield* Queue.dropping<Arrival>(arrivalCapacity)
  let newest: Arrival | undefined
  const port = yield* openServer(address.success, (peer) => {
    const before = newest
    newest = { peer, replaced: Deferred.makeUnsafe() }
    // The swap and the notice to the old one happen in one turn, so two that come together cannot both stay.
    if (before !== undefined) Deferred.doneUnsafe(before.replaced, Effect.void)
    if (!Queue.offerUnsafe(queue, newest)) peer.drop()
  })
  const agentOptions = agentOptionsOf(options, spec)
  const serve = Effect.scoped(
    Effect.gen(function* () {
      const agents = yield* FiberSet.make()
      while (true) {
        const { peer, replaced } = yield* Queue.take(queue)
        const connection = Effect.catchCause(serveAgent(peer, Deferred.await(replaced), agentOptions), (cause) =>
          Effect.logError(`the connection of the agent ${peer.name} broke`, cause)
        )
        yield* FiberSet.run(agents, connection)
      }
    })
  )
  yield* Effect.logInfo(`the vm-monitor listens on port ${port}`)
  return { port, serve }
})

const terminating = [
  "termination_pending_fast",
  "termination_pending_immediate",
  "terminated"
] as const satisfies ReadonlyArray<Status>

/** A compute that failed to take a new spec still serves; one whose Postgres is gone does not. */
const isOver = ({ postgresAlive, status }: Snapshot): boolean =>
  isTerminating(status) || (status === "failed" && !postgresAlive)

export const vmMonitor = (options: VmMonitorOptions): Actor<ComputeState | VmMetrics> => ({
  name: "vm-monitor",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    const state = yield* ComputeState
    while (true) {
      const { status } = yield* state.until("running", ...terminating)
      const spec = Effect.map(state.now, (now) => now.spec)
      if (isTerminating(status)) return
      const work = Effect.scoped(Effect.flatMap(listen(options, spec), ({ serve }) => serve))
      yield* Effect.raceFirst(work, Stream.runHead(Stream.filter(state.changes, isOver)))
    }
  })
})
