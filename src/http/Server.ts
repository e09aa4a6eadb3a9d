/**
 * The HTTP server: one port or two, until the scope closes. Ports listen first and answer the probes, `/status` and
 * `/metrics` from then on; the routes are made by `serve`, and a request for one before that is held, not refused.
 *
 * The external port speaks to the network, with tokens when there is a verifier. The internal port has no tokens and
 * so is bound to loopback alone. Slow and many peers are limited. At the end in-flight requests have two seconds.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as HttpRouter from "effect/http/HttpRouter"
import type * as HttpServer from "effect/http/HttpServer"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as FS from "node:fs/promises"
import { createServer, type Server } from "node:http"
import type { Server as SecureServer } from "node:https"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { codeOf } from "../errors/errno.ts"
import { FileFailed, ListenFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { attemptPromise } from "../platform/files.ts"
import { externalApi, internalApi, wholeApi } from "./Api.ts"
import { Auth } from "./Auth.ts"
import { controlHandlers, insideHandlers, openHandlers } from "./handlers.ts"
import { makeTraffic, middleware, type Traffic } from "./middleware.ts"
import type { ServerOptions } from "./options.ts"
import { type FastPath, makeFastPath } from "./probes.ts"
import { bodyOf, refusal } from "./refusals.ts"
import { type Routes, routeTable } from "./routes.ts"

// -- ports -----------------------------------------------------------------------------------------------------------

/** A port that listens. It answers what the fast path answers; all else waits until it is opened. */
interface Listening {
  readonly server: HttpServer.HttpServer["Service"]
  readonly port: number
  /** To be called once `server` serves. */
  readonly open: () => void
}

interface Opened {
  /** More than one for the several addresses of one port. */
  readonly listening: ReadonlyArray<Listening>
  readonly port: number
  /** To be supervised while it listens. */
  readonly actors: ReadonlyArray<Actor>
}

const withActors = (
  listening: readonly [Listening, ...ReadonlyArray<Listening>],
  actors: ReadonlyArray<Actor>
): Opened => ({ listening, port: listening[0].port, actors })

const grace = Duration.seconds(2)
const loopbacks = ["127.0.0.1", "::1"] as const

/** A peer that sends its request in drops is cut off. */
const timeLimits = {
  headersTimeout: 10_000,
  requestTimeout: 30_000,
  keepAliveTimeout: 5_000,
  connectionsCheckingInterval: 5_000
}
/** Enough for a thousand that watch the status. */
const maxConnections = 4096
/** Connections that the system queues before they are accepted. */
const backlog = 1024

type Exchange = Parameters<FastPath>

/** Requests, not connections: one connection can send many without waiting for answers. */
const maxHeld = maxConnections
const tooMany = refusal(503, "not_open", "too many requests wait for the routes to be made", "ask again in a second")

/** Holds what must wait for the routes, for as long as the peer does. Returns what lets them through. */
const holdUntilOpen = (raw: Server, fastPath: FastPath): (() => void) => {
  const held: Array<Exchange> = []
  let pass = (...exchange: Exchange): void => {
    if (held.length < maxHeld) return void held.push(exchange)
    const [, response] = exchange
    response
      .writeHead(503, { "content-type": "application/json", "retry-after": "1" })
      .end(JSON.stringify(bodyOf(tooMany)))
  }
  const onRequest = (...exchange: Exchange): void => {
    if (!fastPath(...exchange)) pass(...exchange)
  }
  raw.on("request", onRequest)
  return () => {
    const routed = raw.listeners("request").filter((listener) => listener !== onRequest)
    for (const listener of routed) raw.removeListener("request", listener as () => void)
    pass = (...exchange) => {
      for (const listener of routed) listener.call(raw, ...exchange)
    }
    for (const exchange of held.splice(0)) if (!exchange[1].destroyed) pass(...exchange)
  }
}

const listen = (what: string, raw: Server, on: { readonly host?: string }, port: number, fastPath: FastPath) =>
  Effect.gen(function* () {
    raw.maxConnections = maxConnections
    const open = holdUntilOpen(raw, fastPath)
    // An accept that failed (no file descriptors left) is an event, and without a listener it would end the process.
    raw.on("error", () => undefined)
    const server = yield* NodeHttpServer.make(() => raw, { ...on, port, backlog, gracefulShutdownTimeout: grace })
    // Runs after the grace and before the wait for the last connection, so that no peer can make the end wait.
    yield* Effect.addFinalizer(() => Effect.sync(() => raw.closeAllConnections()))
    return { server, open, port: "port" in server.address ? server.address.port : port } satisfies Listening
  }).pipe(Effect.mapError(({ cause }) => new ListenFailed({ what, port, cause })))

/** Is this family of addresses missing on this machine? */
const noFamily = ({ cause }: ListenFailed): boolean => ["EAFNOSUPPORT", "EADDRNOTAVAIL"].includes(codeOf(cause) ?? "")

/** Both loopback addresses, on one port: what `localhost` means is the caller's resolver's choice. */
const listenInternal = Effect.fnUntraced(function* (port: number, fastPath: FastPath) {
  const what = "the internal HTTP API"
  const first = yield* listen(what, createServer(timeLimits), { host: loopbacks[0] }, port, fastPath)
  const second = yield* listen(what, createServer(timeLimits), { host: loopbacks[1] }, first.port, fastPath).pipe(
    Effect.map((server) => [server]),
    Effect.catchIf(noFamily, () => Effect.succeed([]))
  )
  return withActors([first, ...second], [])
})

// -- the external port, with or without TLS --------------------------------------------------------------------------

type TlsFiles = NonNullable<ServerOptions["tls"]>

const readFile = (path: string) => attemptPromise("read", path, () => FS.readFile(path))

const readTls = ({ certPath, keyPath }: TlsFiles) => Effect.all({ cert: readFile(certPath), key: readFile(keyPath) })

const reloadEvery = Duration.seconds(5)

/** Takes up a new certificate once both files are whole; until then the old one serves, and one warning says why. */
const certificateWatcher = (
  server: SecureServer,
  files: TlsFiles,
  first: Effect.Success<ReturnType<typeof readTls>>
): Actor => ({
  name: "certificate watcher",
  kind: "auxiliary",
  run: Effect.suspend(() => {
    let current = first
    let warned = false
    const reload = Effect.gen(function* () {
      const next = yield* readTls(files)
      if (next.cert.equals(current.cert) && next.key.equals(current.key)) return
      yield* Effect.try({
        try: () => server.setSecureContext({ ...next, minVersion: "TLSv1.2" }),
        catch: (cause) => new FileFailed({ operation: "use the certificate in", path: files.certPath, cause })
      })
      current = next
      warned = false
      yield* Effect.logInfo("the HTTP API has a new certificate")
    })
    const keep = Effect.fnUntraced(function* (failure: FileFailed) {
      if (warned) return
      warned = true
      yield* Effect.logWarning(`the HTTP API keeps its certificate: ${causesOf(failure).join(": ")}`)
    })
    return Effect.forever(Effect.andThen(Effect.sleep(reloadEvery), Effect.catch(reload, keep)))
  })
})

/** With TLS, an actor comes with it. */
export const listenExternal = Effect.fnUntraced(function* (
  { externalPort, host, tls }: ServerOptions,
  fastPath: FastPath
) {
  // Without a host Node listens on every address of both families, or of IPv4 alone where IPv6 is missing. `::` would
  // mean the same, and cost ten milliseconds for its look-up.
  const on = host === "::" ? {} : { host }
  if (tls === null)
    return withActors([yield* listen("the HTTP API", createServer(timeLimits), on, externalPort, fastPath)], [])
  const refuse = (cause: unknown) => new ListenFailed({ what: "the HTTP API with TLS", port: externalPort, cause })
  const files = yield* Effect.mapError(readTls(tls), refuse)
  // Loaded only when TLS is asked for.
  const { createServer: createSecure } = yield* Effect.promise(() => import("node:https"))
  const raw = yield* Effect.try({
    try: () => createSecure({ ...timeLimits, ...files, minVersion: "TLSv1.2" }),
    catch: refuse
  })
  return withActors(
    [yield* listen("the HTTP API", raw, on, externalPort, fastPath)],
    [certificateWatcher(raw, tls, files)]
  )
})

// -- the server ----------------------------------------------------------------------------------------------------

/** `/Status` is not `/status`: what a request is counted and guarded as must be what it reaches. */
const exact = { caseSensitive: true, ignoreDuplicateSlashes: false, ignoreTrailingSlash: false } as const

const exactRouter = Layer.provide(HttpRouter.layer, Layer.succeed(HttpRouter.RouterConfig, exact))

/** Makes the routes of a port, and lets through the requests that wait for them. */
const serve = Effect.fnUntraced(function* <E, R>(
  { listening }: Opened,
  api: Routes,
  routes: Layer.Layer<never, E, R>,
  traffic: Traffic
) {
  const built = yield* Layer.build(Layer.provideMerge(routes, Layer.fresh(exactRouter)))
  const router = yield* Effect.provide(HttpRouter.HttpRouter, built)
  const app = middleware(router.asHttpEffect(), routeTable(api), traffic)
  for (const { open, server } of listening) {
    yield* server.serve(app)
    open()
  }
})

/** Serves on every port what belongs on it. */
const serveAll = Effect.fnUntraced(function* (
  options: ServerOptions,
  verifier: ServerOptions["verifier"],
  traffic: Traffic,
  external: Opened,
  internal: Opened | null
) {
  const { computeId } = options
  const guarded = Auth.layer({ verify: verifier?.verify ?? null, computeId })
  const unguarded = Auth.layer({ verify: null, computeId })
  const open = openHandlers(options, traffic)
  const control = Layer.provide(controlHandlers(options), guarded)
  const inside = Layer.provide(insideHandlers(options), internal === null ? guarded : unguarded)
  const services = NodeHttpServer.layerHttpServices
  if (internal === null) {
    const routes = Layer.provide(HttpApiBuilder.layer(wholeApi()), [open, control, inside, services])
    return yield* serve(external, wholeApi(), routes, traffic)
  }
  const externalRoutes = Layer.provide(HttpApiBuilder.layer(externalApi()), [open, control, services])
  yield* serve(external, externalApi(), externalRoutes, traffic)
  const internalRoutes = Layer.provide(HttpApiBuilder.layer(internalApi()), [open, inside, services])
  yield* serve(internal, internalApi(), internalRoutes, traffic)
})

export const httpServer = Effect.fn("Http.endpoint")(function* (options: ServerOptions) {
  const { apiVersion, internalPort } = options
  const state = yield* ComputeState
  const traffic = makeTraffic()
  const verifier = apiVersion === "head" ? options.verifier : null
  const external = yield* listenExternal(options, yield* makeFastPath(options, state, traffic, { verifier }))
  const internal =
    internalPort === null
      ? null
      : yield* listenInternal(internalPort, yield* makeFastPath(options, state, traffic, null))
  return {
    port: external.port,
    /** `null` when the external port serves everything. */
    internalPort: internal?.port ?? null,
    /** To be supervised: what has to be done while it listens. */
    actors: external.actors,
    /** Makes the routes, once. It takes the event loop for a while: best while something else is waited for. */
    serve: serveAll(options, verifier, traffic, external, internal).pipe(
      Scope.provide(yield* Effect.scope),
      Effect.withSpan("Http.serve")
    )
  }
})
