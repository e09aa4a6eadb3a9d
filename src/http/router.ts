/**
 * The one way from a request's target to a route. What is guarded, counted and logged is the route that is found here,
 * and it is the route that answers.
 *
 * A path is taken as it is spelled: a declared segment matches byte by byte, so `/%63onfigure`, `/terminate;x`,
 * `//status` and `/Status` are no routes. Only the value of a parameter may be percent-encoded. A port's router knows
 * from the beginning what is answered from the beginning; the other routes are added when they are made.
 */
import type * as Effect from "effect/Effect"
import type * as HttpServerRequest from "effect/http/HttpServerRequest"
import type * as HttpServerResponse from "effect/http/HttpServerResponse"
import type * as Scope from "effect/Scope"
import type { Rights } from "./authorize.ts"
import type { CachedBody } from "./cachedBodies.ts"

/**
 * Who may ask: anybody, or whoever the port admits; for `machine` that is also our own Postgres, which has no token and
 * asks for its extensions; for `page` every browser, which gets a page without data and asks for that with a token.
 */
export type Access = "open" | "guarded" | "machine" | "page"

/** What a handler is told beyond the request itself. */
export interface Asked {
  readonly params: Readonly<Record<string, string>>
  /** Without its question mark. */
  readonly query: string
  readonly rights: Rights
}

export type Handler = (
  asked: Asked
) => Effect.Effect<HttpServerResponse.HttpServerResponse, unknown, HttpServerRequest.HttpServerRequest | Scope.Scope>

export interface Endpoint {
  readonly access: Access
  /** Bytes that are at hand for the plainest form of the request. */
  readonly cached: CachedBody | null
  /** `null`: it is not made yet. */
  readonly handler: Handler | null
}

export interface Match {
  /** As declared: `/operations/:id`. */
  readonly route: string
  /** `null`: the path does not take this method. */
  readonly endpoint: Endpoint | null
  readonly allowed: ReadonlyArray<string>
  readonly params: Asked["params"]
}

/** The path and the query, without its question mark, of a target in origin or absolute form. */
export const splitTarget = (target: string): { readonly path: string; readonly query: string } => {
  const origin = target.startsWith("/") ? target : target.replace(/^https?:\/\/[^/?#]*/i, "")
  const at = origin.indexOf("?")
  return at === -1 ? { path: origin, query: "" } : { path: origin.slice(0, at), query: origin.slice(at + 1) }
}

/** This parameter is the rest of the path, slashes included; every other is one segment. */
const restName = "filename"

const decode = (text: string): string | null => {
  try {
    return decodeURIComponent(text)
  } catch {
    return null
  }
}

const climbs = (segment: string): boolean => segment === "" || segment === "." || segment === ".."

/** The value of a parameter; `null`: the text is none. */
const valueOf = (name: string, text: string): string | null => {
  const value = decode(text)
  if (value === null || (name !== restName && text.includes("/"))) return null
  return value.split("/").some(climbs) ? null : value
}

interface Methods {
  readonly route: string
  /** The parameter that the path ends on. */
  readonly parameter: string | null
  readonly endpoints: Map<string, Endpoint>
}

const noParams = {}
const nothing: ReadonlyArray<string> = []

export class Router {
  readonly #fixed = new Map<string, Methods>()
  /** By what stands before the parameter. */
  readonly #open = new Map<string, Methods>()

  /** Adds an endpoint, or gives one what it lacked. */
  add(method: string, route: string, endpoint: Endpoint): void {
    const [, prefix = null, parameter = null] = /^(.*\/):(\w+)$/.exec(route) ?? []
    const table = prefix === null ? this.#fixed : this.#open
    const key = prefix ?? route
    const methods = table.get(key) ?? { route, parameter, endpoints: new Map<string, Endpoint>() }
    table.set(key, methods)
    const cached = endpoint.cached ?? methods.endpoints.get(method)?.cached ?? null
    for (const each of method === "GET" ? ["GET", "HEAD"] : [method])
      methods.endpoints.set(each, { ...endpoint, cached })
  }

  /** `null`: no route has this path, so far. */
  find(method: string, path: string): Match | null {
    const exact = this.#fixed.get(path)
    if (exact !== undefined) return this.#match(method, exact, noParams)
    for (const [prefix, methods] of this.#open) {
      if (!path.startsWith(prefix) || methods.parameter === null) continue
      const value = valueOf(methods.parameter, path.slice(prefix.length))
      if (value !== null) return this.#match(method, methods, { [methods.parameter]: value })
    }
    return null
  }

  #match(method: string, { endpoints, route }: Methods, params: Asked["params"]): Match {
    const endpoint = endpoints.get(method) ?? null
    return { route, endpoint, allowed: endpoint === null ? [...endpoints.keys()] : nothing, params }
  }
}
