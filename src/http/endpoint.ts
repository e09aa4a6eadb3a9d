/**
 * The HTTP endpoint: one port or two, listening before this returns, until the scope closes.
 *
 * The external port speaks to the network, with tokens when there is a verifier. The internal port has no tokens and
 * so is bound to loopback alone. At the end in-flight requests have two seconds.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as HttpRouter from "effect/http/HttpRouter"
import type * as HttpServer from "effect/http/HttpServer"
import * as Layer from "effect/Layer"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import type * as Scope from "effect/Scope"
import { createServer } from "node:http"
import { ListenFailed } from "../domain/Failure.ts"
import { External, Internal, Whole } from "./Api.ts"
import { Auth } from "./Auth.ts"
import { controlHandlers, insideHandlers } from "./controlHandlers.ts"
import { envelope, type Routes, routeTable } from "./envelope.ts"
import { openHandlers } from "./openHandlers.ts"
import type { EndpointOptions } from "./options.ts"

export interface Endpoint {
  readonly port: number
  /** `null` when the external port serves everything. */
  readonly internalPort: number | null
}

export const defaultPatience = { configure: Duration.minutes(10), terminate: Duration.minutes(5) } as const

const grace = Duration.seconds(2)
const loopbacks = ["127.0.0.1", "::1"] as const

/** A peer that sends its request in drops is cut off; connections are bounded. */
const timeLimits = { headersTimeout: 10_000, requestTimeout: 30_000, keepAliveTimeout: 5_000, connectionsCheckingInterval: 5_000 }
const maxConnections = 1024

const listen = (what: string, on: { readonly host?: string }, port: number) =>
  Effect.gen(function*() {
    const server = createServer(timeLimits)
    server.maxConnections = maxConnections
    // An accept that failed (no file descriptors left) is an event here, and without a listener it would end the process.
    server.on("error", () => undefined)
    const listening = yield* NodeHttpServer.make(() => server, { ...on, port, gracefulShutdownTimeout: grace })
    // Runs after the grace and before the wait for the last connection, so that no peer can make the end wait.
    yield* Effect.addFinalizer(() => Effect.sync(() => server.closeAllConnections()))
    return listening
  }).pipe(Effect.mapError(({ cause }) => new ListenFailed({ what, port, cause })))

const codeOf = (error: ListenFailed): unknown =>
  typeof error.cause === "object" && error.cause !== null && "code" in error.cause ? error.cause.code : undefined

/** Is this family of addresses missing on this machine? */
const noFamily = (error: ListenFailed): boolean => ["EAFNOSUPPORT", "EADDRNOTAVAIL"].includes(String(codeOf(error)))

const portOf = (server: HttpServer.HttpServer["Service"] | undefined, fallback: number): number =>
  server !== undefined && "port" in server.address ? server.address.port : fallback

const firstPort = (servers: ReadonlyArray<HttpServer.HttpServer["Service"]>, fallback: number): number => portOf(servers[0], fallback)

/**
 * Without a host Node listens on every address of both families, or of IPv4 alone where IPv6 is missing. Saying `::`
 * would mean the same, and cost ten milliseconds for a look-up of it.
 */
const listenExternal = ({ externalPort, host }: EndpointOptions) =>
  listen("the HTTP API", host === "::" ? {} : { host }, externalPort)

/** Both loopback addresses, on one port: what `localhost` means is the caller's resolver's choice. */
const listenInternal = Effect.fnUntraced(function*(port: number) {
  const first = yield* listen("the internal HTTP API", { host: loopbacks[0] }, port)
  const second = yield* listen("the internal HTTP API", { host: loopbacks[1] }, portOf(first, port)).pipe(
    Effect.map((server) => [server]),
    Effect.catchIf(noFamily, () => Effect.succeed([]))
  )
  return [first, ...second]
})

/** `/Status` is not `/status`: what a request is counted and guarded as must be what it reaches. */
const exact = { caseSensitive: true, ignoreDuplicateSlashes: false, ignoreTrailingSlash: false } as const

const exactRouter = Layer.provide(HttpRouter.layer, Layer.succeed(HttpRouter.RouterConfig, exact))

/** Routes are made before the port opens, so that no request finds it open and nobody there. */
const serveOn = Effect.fnUntraced(function*<E, R>(
  listenOn: Effect.Effect<ReadonlyArray<HttpServer.HttpServer["Service"]>, ListenFailed, Scope.Scope>,
  api: Routes,
  routes: Layer.Layer<never, E, R>
) {
  const built = yield* Layer.build(Layer.provideMerge(routes, Layer.fresh(exactRouter)))
  const router = yield* Effect.provide(HttpRouter.HttpRouter, built)
  const app = envelope(router.asHttpEffect(), routeTable(api))
  const servers = yield* listenOn
  for (const server of servers) yield* server.serve(app)
  return servers
})

export const endpoint = Effect.fn("Http.endpoint")(function*(options: EndpointOptions) {
  const { computeId, dialect, externalPort, internalPort } = options
  const guarded = Auth.layer({ verify: dialect === "head" ? options.verify : null, computeId })
  const unguarded = Auth.layer({ verify: null, computeId })
  const open = openHandlers(options)
  const control = Layer.provide(controlHandlers(options), guarded)
  const outside = Effect.map(listenExternal(options), (server) => [server])

  if (internalPort === null) {
    const inside = Layer.provide(insideHandlers(options), guarded)
    const routes = Layer.provide(HttpApiBuilder.layer(Whole), [open, control, inside, NodeHttpServer.layerHttpServices])
    const external = yield* serveOn(outside, Whole, routes)
    return { port: firstPort(external, externalPort), internalPort } satisfies Endpoint
  }
  const external = yield* serveOn(
    outside,
    External,
    Layer.provide(HttpApiBuilder.layer(External), [open, control, NodeHttpServer.layerHttpServices])
  )
  const inside = Layer.provide(insideHandlers(options), unguarded)
  const internal = yield* serveOn(
    listenInternal(internalPort),
    Internal,
    Layer.provide(HttpApiBuilder.layer(Internal), [open, inside, NodeHttpServer.layerHttpServices])
  )
  return { port: firstPort(external, externalPort), internalPort: firstPort(internal, internalPort) } satisfies Endpoint
})
