/**
 * The HTTP endpoint: one port or two, until the scope closes. Ports listen first and answer the probes, `/status` and
 * `/metrics` from then on; the routes are made by `serve`, and whoever asks for one before that is held, not refused.
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
import * as Scope from "effect/Scope"
import { ComputeState } from "../compute/ComputeState.ts"
import { externalApi, internalApi, wholeApi } from "./Api.ts"
import { Auth } from "./Auth.ts"
import { controlHandlers, insideHandlers } from "./handlers.ts"
import { envelope } from "./middleware.ts"
import { listenExternal, listenInternal, type Opened } from "./listen.ts"
import { openHandlers } from "./openHandlers.ts"
import type { EndpointOptions } from "./options.ts"
import { quickAnswers } from "./probes.ts"
import { type Routes, routeTable } from "./routes.ts"
import { makeTraffic, type Traffic } from "./traffic.ts"

export const defaultPatience = { configure: Duration.minutes(10), terminate: Duration.minutes(5) } as const

/** `/Status` is not `/status`: what a request is counted and guarded as must be what it reaches. */
const exact = { caseSensitive: true, ignoreDuplicateSlashes: false, ignoreTrailingSlash: false } as const

const exactRouter = Layer.provide(HttpRouter.layer, Layer.succeed(HttpRouter.RouterConfig, exact))

/** Makes the routes, and lets in who has been waiting for them. */
const serve = Effect.fnUntraced(function*<E, R>({ listening }: Opened, api: Routes, routes: Layer.Layer<never, E, R>, traffic: Traffic) {
  const built = yield* Layer.build(Layer.provideMerge(routes, Layer.fresh(exactRouter)))
  const router = yield* Effect.provide(HttpRouter.HttpRouter, built)
  const app = envelope(router.asHttpEffect(), routeTable(api), traffic)
  for (const { open, server } of listening) {
    yield* server.serve(app)
    open()
  }
})

export const endpoint = Effect.fn("Http.endpoint")(function*(options: EndpointOptions) {
  const { computeId, dialect, internalPort } = options
  const state = yield* ComputeState
  const traffic = makeTraffic()
  const verifier = dialect === "head" ? options.verifier : null
  const external = yield* listenExternal(options, yield* quickAnswers(options, state, traffic, { verifier }))
  const internal = internalPort === null
    ? null
    : yield* listenInternal(internalPort, yield* quickAnswers(options, state, traffic, null))

  const serveAll = Effect.gen(function*() {
    const guarded = Auth.layer({ verify: verifier?.verify ?? null, computeId })
    const unguarded = Auth.layer({ verify: null, computeId })
    const open = openHandlers(options, traffic)
    const control = Layer.provide(controlHandlers(options), guarded)
    const inside = Layer.provide(insideHandlers(options), internal === null ? guarded : unguarded)
    const services = NodeHttpServer.layerHttpServices

    if (internal === null) {
      yield* serve(external, wholeApi(), Layer.provide(HttpApiBuilder.layer(wholeApi()), [open, control, inside, services]), traffic)
    } else {
      yield* serve(external, externalApi(), Layer.provide(HttpApiBuilder.layer(externalApi()), [open, control, services]), traffic)
      yield* serve(internal, internalApi(), Layer.provide(HttpApiBuilder.layer(internalApi()), [open, inside, services]), traffic)
    }
  })
  return {
    port: external.port,
    /** `null` when the external port serves everything. */
    internalPort: internal?.port ?? null,
    /** To be supervised: what has to be done while it listens. */
    actors: external.actors,
    /** Makes the routes, once. It takes the event loop for a while: best while something else is waited for. */
    serve: serveAll.pipe(Scope.provide(yield* Effect.scope), Effect.withSpan("Http.serve"))
  }
})
