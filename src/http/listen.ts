/**
 * Ports that listen: the external one, with or without TLS, and the internal one on loopback. A port answers by its
 * dispatcher from its first request on, and closes with its scope, whatever its peers are at.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { createServer, type IncomingMessage, type Server } from "node:http"
import type { Server as SecureServer } from "node:https"
import type { Actor } from "../compute/Supervisor.ts"
import { codeOf } from "../errors/errno.ts"
import { ListenFailed } from "../errors/Failure.ts"
import type { Pair } from "../tls/pair.ts"
import type { Connections } from "./connections.ts"
import type { Dispatcher } from "./dispatch.ts"
import type { ServerOptions } from "./options.ts"
import { countedResponse } from "./traffic.ts"

export interface Listening {
  readonly port: number
  /** To be supervised while it listens. */
  readonly actors: ReadonlyArray<Actor>
  /** Takes no more connections and waits for what is being answered, for as long as the grace allows. */
  readonly finish: Effect.Effect<void>
}

const grace = Duration.seconds(2)
const loopbacks = ["127.0.0.1", "::1"] as const

/** A peer that sends its request in drops is cut off. */
const serverOptions = () => ({
  headersTimeout: 10_000,
  requestTimeout: 30_000,
  keepAliveTimeout: 5_000,
  connectionsCheckingInterval: 5_000,
  ServerResponse: countedResponse()
})
const handshakeTimeout = 5_000
/** Connections that the system queues before they are accepted. */
const backlog = 1024

type PlainServer = Server<typeof IncomingMessage, ReturnType<typeof countedResponse>>

const listen = (what: string, server: PlainServer, host: string | null, port: number, connections: Connections) =>
  Effect.gen(function* () {
    connections.watch(server)
    yield* Effect.callback<void, ListenFailed>((resume) => {
      const refuse = (cause: unknown) => resume(Effect.fail(new ListenFailed({ what, port, cause })))
      server.once("error", refuse)
      server.listen({ port, backlog, ...(host === null ? {} : { host }) }, () => {
        server.off("error", refuse)
        // An accept that failed (no descriptors left) is an event, and without a listener it would end the process.
        server.on("error", () => undefined)
        resume(Effect.void)
      })
    })
    const closed = yield* Effect.cached(
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
      })
    )
    // No peer can make the end wait.
    yield* Effect.addFinalizer(() =>
      Effect.andThen(
        Effect.sync(() => connections.closeAll(server)),
        closed
      )
    )
    const address = server.address()
    const finish = Effect.asVoid(Effect.timeoutOption(closed, grace))
    const bound = typeof address === "object" && address !== null ? address.port : port
    return { port: bound, actors: [], finish } satisfies Listening
  })

/** Is this address, or its family, missing on this machine? */
const isMissing = ({ cause }: ListenFailed): boolean => ["EAFNOSUPPORT", "EADDRNOTAVAIL"].includes(codeOf(cause) ?? "")

/**
 * Every loopback address that this machine has, on one port: which of them `localhost` means is the choice of whoever
 * resolves it.
 */
const listenOnLoopback = Effect.fnUntraced(function* (
  what: string,
  makeServer: () => PlainServer,
  port: number,
  connections: Connections,
  addresses: ReadonlyArray<string>
) {
  const all: Array<Listening> = []
  let missing: ListenFailed | null = null
  for (const address of addresses) {
    const one = yield* listen(what, makeServer(), address, all[0]?.port ?? port, connections).pipe(
      Effect.catchIf(isMissing, (failure) => Effect.succeed(failure))
    )
    if ("finish" in one) all.push(one)
    else missing = one
  }
  const [first] = all
  if (first === undefined) return yield* missing ?? new ListenFailed({ what, port, cause: "no address" })
  const finish = Effect.forEach(all, (one) => one.finish, { concurrency: "unbounded", discard: true })
  return { port: first.port, actors: [], finish } satisfies Listening
})

export const listenInternal = (
  port: number,
  { onRequest }: Dispatcher,
  connections: Connections,
  addresses: ReadonlyArray<string> = loopbacks
) =>
  listenOnLoopback(
    "the internal HTTP API",
    () => createServer(serverOptions(), onRequest),
    port,
    connections,
    addresses
  )

// -- the external port, with or without TLS --------------------------------------------------------------------------

const renewedEvery = Duration.seconds(5)

/** `host` may be `localhost`: every loopback address. With TLS, an actor comes with it. */
export const listenExternal = Effect.fnUntraced(function* (
  { externalPort, host, tls }: Pick<ServerOptions, "externalPort" | "host" | "tls">,
  { onRequest }: Dispatcher,
  connections: Connections
) {
  const what = "the HTTP API"
  const on = (makeServer: () => PlainServer) =>
    host === "localhost"
      ? listenOnLoopback(what, makeServer, externalPort, connections, loopbacks)
      : // Without a host Node listens on every address of both families, or of IPv4 alone where IPv6 is missing. `::`
        // would mean the same, and cost ten milliseconds for its look-up.
        listen(what, makeServer(), host === "::" ? null : host, externalPort, connections)
  if (tls === null) return yield* on(() => createServer(serverOptions(), onRequest))
  // Loaded only when TLS is asked for.
  const [{ createServer: createSecure }, { pairWatch, readPair, warnWhenExpired }] = yield* Effect.promise(() =>
    Promise.all([import("node:https"), import("../tls/pair.ts")])
  )
  const contextOf = ({ certificate, key }: Pair) =>
    ({ cert: certificate, key: Redacted.value(key), minVersion: "TLSv1.2" }) as const
  const first = yield* readPair(tls)
  yield* warnWhenExpired(first, tls)
  const servers: Array<SecureServer> = []
  const listening = yield* on(() => {
    const server = createSecure({ ...serverOptions(), ...contextOf(first), handshakeTimeout }, onRequest)
    servers.push(server)
    return server
  })
  const renewals = pairWatch({
    name: "certificate watcher",
    server: "the HTTP API",
    tls,
    every: renewedEvery,
    first,
    use: (pair) =>
      Effect.sync(() => {
        for (const server of servers) server.setSecureContext(contextOf(pair))
      })
  })
  return { ...listening, actors: [renewals] } satisfies Listening
})
