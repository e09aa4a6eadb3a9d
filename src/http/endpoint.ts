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
import * as Layer from "effect/Layer"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import type * as Scope from "effect/Scope"
import { ComputeState } from "../ComputeState.ts"
import type { ListenFailed } from "../domain/Failure.ts"
import type { Actor } from "../Supervisor.ts"
import { External, Internal, Whole } from "./Api.ts"
import { Auth } from "./Auth.ts"
import { controlHandlers, insideHandlers } from "./controlHandlers.ts"
import { envelope } from "./envelope.ts"
import { listenExternal, listenInternal, type Opened, quicken } from "./listen.ts"
import { openHandlers } from "./openHandlers.ts"
import type { EndpointOptions } from "./options.ts"
import { type Quick, quickAnswers } from "./quick.ts"
import { type Routes, routeTable } from "./routeTable.ts"
import { makeTraffic, type Traffic } from "./traffic.ts"

export interface Endpoint {
  readonly port: number
  /** `null` when the external port serves everything. */
  readonly internalPort: number | null
  /** To be supervised: what has to be done while it listens. */
  readonly actors: ReadonlyArray<Actor>
}

export const defaultPatience = { configure: Duration.minutes(10), terminate: Duration.minutes(5) } as const

/** `/Status` is not `/status`: what a request is counted and guarded as must be what it reaches. */
const exact = { caseSensitive: true, ignoreDuplicateSlashes: false, ignoreTrailingSlash: false } as const

const exactRouter = Layer.provide(HttpRouter.layer, Layer.succeed(HttpRouter.RouterConfig, exact))

/** Routes are made before the port opens, so that no request finds it open and nobody there. */
const serveOn = Effect.fnUntraced(function*<E, R>(
  listenOn: Effect.Effect<Opened, ListenFailed, Scope.Scope>,
  api: Routes,
  routes: Layer.Layer<never, E, R>,
  traffic: Traffic,
  quick: Quick
) {
  const built = yield* Layer.build(Layer.provideMerge(routes, Layer.fresh(exactRouter)))
  const router = yield* Effect.provide(HttpRouter.HttpRouter, built)
  const app = envelope(router.asHttpEffect(), routeTable(api), traffic)
  const opened = yield* listenOn
  for (const listening of opened.listening) {
    yield* listening.server.serve(app)
    quicken(listening, quick)
  }
  return opened
})

export const endpoint = Effect.fn("Http.endpoint")(function*(options: EndpointOptions) {
  const { computeId, dialect, internalPort } = options
  const state = yield* ComputeState
  const traffic = makeTraffic()
  const verifier = dialect === "head" ? options.verifier : null
  const guarded = Auth.layer({ verify: verifier?.verify ?? null, computeId })
  const unguarded = Auth.layer({ verify: null, computeId })
  const open = openHandlers(options, traffic)
  const control = Layer.provide(controlHandlers(options), guarded)
  const quick = yield* quickAnswers(options, state, traffic, { verifier })

  if (internalPort === null) {
    const inside = Layer.provide(insideHandlers(options), guarded)
    const routes = Layer.provide(HttpApiBuilder.layer(Whole), [open, control, inside, NodeHttpServer.layerHttpServices])
    const { actors, port } = yield* serveOn(listenExternal(options), Whole, routes, traffic, quick)
    return { port, internalPort, actors } satisfies Endpoint
  }
  const inside = Layer.provide(insideHandlers(options), unguarded)
  const external = yield* serveOn(
    listenExternal(options),
    External,
    Layer.provide(HttpApiBuilder.layer(External), [open, control, NodeHttpServer.layerHttpServices]),
    traffic,
    quick
  )
  const internal = yield* serveOn(
    listenInternal(internalPort),
    Internal,
    Layer.provide(HttpApiBuilder.layer(Internal), [open, inside, NodeHttpServer.layerHttpServices]),
    traffic,
    yield* quickAnswers(options, state, traffic, null)
  )
  return { port: external.port, internalPort: internal.port, actors: external.actors } satisfies Endpoint
})
