/**
 * The HTTP server: one port or two, until the scope closes. Ports listen first and answer the probes, `/status` and
 * `/metrics` from then on; the other routes are made by `serve`, and a request for one before that waits for it.
 *
 * The external port speaks to the network, with tokens when there is a verifier. Until `guard` says whether there is
 * one, the compute is empty: its status holds nothing that is anybody's, and is shown to everybody but web pages. The
 * internal port has no tokens and so is bound to loopback alone. At the end requests under way have two seconds.
 */
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as NodeHttpPlatform from "@effect/platform-node/NodeHttpPlatform"
import * as NodePath from "@effect/platform-node/NodePath"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as Etag from "effect/http/Etag"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { type HourRecorder, hourRecorder } from "../activity/HourRecorder.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { below } from "../platform/tracing.ts"
import { tellAccess } from "./access.ts"
import { paths } from "./answer.ts"
import { externalApi, internalApi, wholeApi } from "./Api.ts"
import { type Admit, admitter, Auth } from "./Auth.ts"
import { type CachedBody, makeCachedBodies } from "./cachedBodies.ts"
import { Connections, limitsFor, openFilesLimit } from "./connections.ts"
import { type Dispatcher, makeDispatcher } from "./dispatch.ts"
import type { Served } from "./document.ts"
import { controlHandlers, insideHandlers, openHandlers } from "./handlers.ts"
import { type Listening, listenExternal, listenInternal } from "./listen.ts"
import type { ListenOptions, ServerOptions, SpecOptions } from "./options.ts"
import { registerRoutes } from "./registerRoutes.ts"
import { Router } from "./router.ts"
import type { Routes } from "./routes.ts"
import { makeTraffic } from "./traffic.ts"
import type { Verifier } from "./Verifier.ts"
import { Watchers } from "./watchers.ts"

interface Port {
  readonly router: Router
  readonly dispatcher: Dispatcher
  readonly listening: Listening
}

/** What is answered from the beginning is on a port from the beginning; `withStatus`: the control plane's port. */
const earlyRoutes = (bodies: ReturnType<typeof makeCachedBodies>, withStatus: boolean): Router => {
  const router = new Router()
  for (const name of ["livez", "readyz", "startupz", "metrics"] as const)
    router.add("GET", paths[name], { access: "open", cached: bodies[name], handler: null })
  if (withStatus) router.add("GET", paths.status, { access: "guarded", cached: bodies.status, handler: null })
  return router
}

/** Effect's own collection of these has the terminal in it, too, which is not ours to listen to. */
const services = Layer.mergeAll(NodeHttpPlatform.layer, Etag.layerWeak, NodeFileSystem.layer, NodePath.layer)

/** Makes the routes of every port, and lets through the requests that wait for them. Until the scope closes. */
const serveAll = Effect.fnUntraced(function* (
  options: ServerOptions,
  metrics: CachedBody,
  watchers: Watchers,
  hour: HourRecorder,
  external: Port,
  internal: Port | null
) {
  const handlers = yield* Layer.build(
    Layer.mergeAll(
      openHandlers(options, metrics),
      controlHandlers(options, watchers, hour),
      insideHandlers(options)
    ).pipe(Layer.provideMerge(Layer.merge(Auth.layer, services)))
  )
  const serve = Effect.fnUntraced(function* <R>(
    port: Port,
    listener: Served["listener"],
    api: Routes,
    declared: Layer.Layer<never, never, R>
  ) {
    const served = {
      apiVersion: options.apiVersion,
      listener,
      asksForTokens: options.verifier !== null && listener !== "internal"
    }
    yield* registerRoutes(port.router, api, served, declared)
    yield* port.dispatcher.open
    // Before what runs for a request is interrupted.
    yield* Effect.addFinalizer(() => port.listening.finish)
  })
  if (internal === null)
    return yield* Effect.provide(serve(external, "only", wholeApi(), HttpApiBuilder.layer(wholeApi())), handlers)
  yield* serve(external, "external", externalApi(), HttpApiBuilder.layer(externalApi())).pipe(
    Effect.andThen(serve(internal, "internal", internalApi(), HttpApiBuilder.layer(internalApi()))),
    Effect.provide(handlers)
  )
})

export const httpServer = Effect.fn("Http.endpoint")(function* (options: ListenOptions) {
  const { allowedHosts, apiVersion, computeId, internalPort } = options
  const state = yield* ComputeState
  const scope = yield* Effect.scope
  const traffic = makeTraffic()
  const connections = new Connections(limitsFor(openFilesLimit()), traffic)
  const watchers = new Watchers(state, { apiVersion, most: connections.limits.watching, traffic })
  const hour = hourRecorder(state)
  const withoutTokens = admitter({ verifier: null, computeId, allowedHosts })
  /** Before it is known, errors are kept back: whoever asks may turn out to be a stranger. */
  let guarded = { admit: withoutTokens, asksForTokens: true }
  const probing = { apiVersion, asksForTokens: () => guarded.asksForTokens }
  const bodies = makeCachedBodies({ ...options, ...probing }, state, traffic, yield* Effect.context<never>())

  const held = Deferred.makeUnsafe<void>()
  const onHeld = () => Deferred.doneUnsafe(held, Effect.void)
  const dispatch = (admit: Admit, withStatus: boolean) => {
    const router = earlyRoutes(bodies, withStatus)
    return { router, dispatcher: makeDispatcher({ router, admit, traffic, connections, onHeld }) }
  }
  const outside = dispatch((access, request) => guarded.admit(access, request), true)
  const external = { ...outside, listening: yield* listenExternal(options, outside.dispatcher, connections) }
  const inside = dispatch(withoutTokens, false)
  const internal =
    internalPort === null
      ? null
      : { ...inside, listening: yield* listenInternal(internalPort, inside.dispatcher, connections) }

  return {
    port: external.listening.port,
    /** `null` when the external port serves everything. */
    internalPort: internal?.listening.port ?? null,
    /** To be supervised: what has to be done while it listens. */
    actors: [watchers.actor, hour.actor, ...external.listening.actors],
    /** Whose tokens count from now on, and says so; before there is anything that not everybody may read. */
    guard: Effect.fnUntraced(function* (verifier: Verifier | null) {
      guarded = { admit: admitter({ verifier, computeId, allowedHosts }), asksForTokens: verifier !== null }
      yield* tellAccess({ ...options, verifier }, external.listening.port, state)
    }),
    /** A request waits for its route to be made. */
    held: Deferred.await(held),
    /** Makes the routes, once. It takes the event loop for a while: best while something else is waited for. */
    serve: (known: SpecOptions) =>
      serveAll({ ...options, ...known }, bodies.metrics, watchers, hour, external, internal).pipe(
        Scope.provide(scope),
        // What the handlers are made with they work with: the span around this would come before that of a request.
        below(null),
        Effect.withSpan("Http.serve")
      )
  }
})
