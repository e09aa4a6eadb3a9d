/**
 * From the declared API to a port's router: each endpoint with its handler, and who may ask. The declaration brings its
 * handlers to whatever `HttpRouter` it is given, and what it is given here only collects them: paths are matched by our
 * router alone.
 */
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import { ParsedSearchParams } from "effect/http/HttpServerRequest"
import * as Layer from "effect/Layer"
import { Caller } from "./Auth.ts"
import { type Served, Through } from "./document.ts"
import type { Access, Handler, Router } from "./router.ts"
import { endpointsOf, type Routes } from "./routes.ts"

/** A route as the declaration makes it; it has all its services but those of a request. */
type Made = HttpRouter.Route<unknown, HttpRouter.Provided>

const parseQuery = (query: string): Record<string, string | Array<string>> => {
  const parsed: Record<string, string | Array<string>> = Object.create(null)
  const given = new URLSearchParams(query)
  for (const name of new Set(given.keys())) {
    const values = given.getAll(name)
    parsed[name] = values.length === 1 && values[0] !== undefined ? values[0] : values
  }
  return parsed
}

const handlerOf =
  (route: Made, served: Served): Handler =>
  ({ params, query, rights }) =>
    route.handler.pipe(
      Effect.provideService(HttpRouter.RouteContext, { route, params }),
      Effect.provideService(ParsedSearchParams, parseQuery(query)),
      Effect.provideService(Caller, rights),
      Effect.provideService(Through, served)
    )

const unused = () => Effect.die(new Error("only the declared API adds routes"))

const collector = (into: Array<Made>) =>
  ({
    "~effect/http/HttpRouter": "~effect/http/HttpRouter",
    addAll: (routes: ReadonlyArray<Made>) => Effect.sync(() => void into.push(...routes)),
    add: unused,
    addGlobalMiddleware: unused,
    prefixed: () => {
      throw new Error("only the declared API adds routes")
    },
    asHttpEffect: unused
  }) as unknown as HttpRouter.HttpRouter

/** By the path without the parameter at its end. */
const special: Readonly<Record<string, Access>> = { "/": "page", "/extension_server/": "machine" }

const accessOf = (group: string, path: string): Access =>
  group === "open" ? "open" : (special[path.replace(/:\w+$/, "")] ?? "guarded")

/** `declared` is the layer that the builder makes of `api`. */
export const registerRoutes = Effect.fnUntraced(function* <R>(
  router: Router,
  api: Routes,
  served: Served,
  declared: Layer.Layer<never, never, R>
) {
  const made: Array<Made> = []
  yield* Layer.build(Layer.provide(declared, Layer.succeed(HttpRouter.HttpRouter, collector(made))))
  for (const { group, method, path } of endpointsOf(api)) {
    const route = made.find((one) => one.method === method && one.path === path)
    if (route === undefined) return yield* Effect.die(new Error(`${method} ${path} has no handler`))
    router.add(method, path, { access: accessOf(group, path), cached: null, handler: handlerOf(route, served) })
  }
})
