/**
 * The declaration read back: which paths there are, which methods they take, on which listener, and who may ask.
 *
 * The policy that `compute_ctl routes` prints is this table, so it cannot differ from what is served.
 */
import type { OpenAPISpec } from "effect/http-api/OpenApi"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { controlGroup, externalApi, insideGroup, internalApi, openGroup, wholeApi } from "./Api.ts"
import { escapeHtml, page } from "./statusRoutes.ts"

// ---------------------------------------------------------------------------------------------------------------------
// The human page of the API, made from the document that machines read. One small page, no scripts.
// ---------------------------------------------------------------------------------------------------------------------

const summaryOf = (operation: { readonly summary?: string | undefined }): string => escapeHtml(operation.summary ?? "")

const answersOf = (operation: { readonly responses: object }): string => Object.keys(operation.responses).join(" ")

const tokenOf = (operation: { readonly security?: ReadonlyArray<object> | undefined }): string =>
  (operation.security ?? []).length === 0 ? "" : "token"

const methods = ["get", "post", "put", "delete", "patch"] as const

/** One row per route, in the order of the declaration. */
export const docsPage = (spec: OpenAPISpec): string => {
  const rows = Object.entries(spec.paths).flatMap(([path, item]) =>
    methods.flatMap((method) => {
      const operation = item[method]
      return operation === undefined
        ? []
        : [
            `<tr><td>${method.toUpperCase()}<td><code>${escapeHtml(path)}</code><td>${summaryOf(operation)}` +
              `<td>${tokenOf(operation)}<td>${answersOf(operation)}`
          ]
    })
  )
  return page(
    `${spec.info.title}: the HTTP API`,
    `<p>${escapeHtml(spec.info.description ?? "")} Shapes of bodies: <a href="/openapi.json">/openapi.json</a>. Every answer that is ` +
      'not 2xx is <code>{"error", "code", "hint"}</code>; codes are stable.</p>' +
      `<table><tr><th>Method<th>Route<th>What it does<th>Needs<th>Answers</tr>${rows.join("")}</table>`
  )
}

// ---------------------------------------------------------------------------------------------------------------------

/** Path to the methods it takes. A path may have parameters: `/operations/:id`. */
export type RouteTable = ReadonlyMap<string, ReadonlyArray<string>>

/** An `HttpApi`, as far as it matters here. */
export interface Routes {
  readonly groups: Readonly<
    Record<
      string,
      {
        readonly endpoints: Readonly<Record<string, { readonly path: string; readonly method: string }>>
      }
    >
  >
}

const endpointsOf = (api: Routes) => Object.values(api.groups).flatMap(({ endpoints }) => Object.values(endpoints))

/** Every GET takes HEAD too. */
export const routeTable = (api: Routes): RouteTable => {
  const table = new Map<string, Array<string>>()
  for (const { method, path } of endpointsOf(api)) {
    const methods = table.get(path) ?? []
    table.set(path, methods)
    methods.push(...(method === "GET" ? ["GET", "HEAD"] : [method]))
  }
  return table
}

/** The declared path that a request's path is one of; `null`: none. */
export const routePattern = (routes: RouteTable, path: string): string | null => {
  if (routes.has(path)) return path
  const parent = /^(\/[^/]+)\/[^/]+$/.exec(path)?.[1]
  const pattern = `${parent}/:id`
  return parent !== undefined && routes.has(pattern) ? pattern : null
}

// -- policy ----------------------------------------------------------------------------------------------------

export interface PolicyRow {
  readonly method: string
  readonly path: string
  readonly listeners: string
  readonly who: string
}

const has = (group: Routes["groups"][string], path: string, method: string): boolean =>
  Object.values(group.endpoints).some((endpoint) => endpoint.path === path && endpoint.method === method)

export const policy = (apiVersion: ApiVersion): ReadonlyArray<PolicyRow> =>
  endpointsOf(wholeApi()).map(({ method, path }) => {
    const listeners =
      apiVersion === "2024"
        ? "the one port"
        : [
            ...(endpointsOf(externalApi()).some((one) => one.path === path && one.method === method)
              ? ["external"]
              : []),
            ...(endpointsOf(internalApi()).some((one) => one.path === path && one.method === method)
              ? ["internal"]
              : [])
          ].join(", ")
    const who = has(openGroup(), path, method)
      ? "anybody"
      : apiVersion === "2024"
        ? "anybody who reaches it"
        : has(insideGroup(), path, method)
          ? "this machine"
          : has(controlGroup(), path, method)
            ? "a token for this compute, or an administrator's"
            : "nobody"
    return { method, path, listeners, who }
  })

/** For the terminal. */
export const policyText = (apiVersion: ApiVersion): string => {
  const head: PolicyRow = { method: "METHOD", path: "ROUTE", listeners: "LISTENER", who: "WHO MAY ASK" }
  const rows = [head, ...policy(apiVersion)]
  const width = (column: "method" | "path" | "listeners") =>
    rows.reduce((most, row) => Math.max(most, row[column].length), 0)
  const line = (row: PolicyRow): string =>
    `${row.method.padEnd(width("method"))}  ${row.path.padEnd(width("path"))}  ${row.listeners.padEnd(width("listeners"))}  ${row.who}\n`
  const notes =
    apiVersion === "head"
      ? "\nTokens are asked for when keys are known (-c, -p); the internal port listens on loopback only.\n" +
        "Password verifiers (/dbs_and_roles?passwords=true) are shown to an administrator's token alone.\n"
      : "\nThe 2024 API asks for no tokens; --http-host says who can reach it.\n"
  return `${rows.map(line).join("")}${notes}`
}
