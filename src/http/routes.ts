/**
 * The declaration read back: which paths there are, which methods they take, on which listener, and who may ask.
 *
 * The policy that `compute_ctl routes` prints is this table, so it cannot differ from what is served.
 */
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { controlGroup, externalApi, insideGroup, internalApi, openGroup, wholeApi } from "./Api.ts"

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

export const endpointsOf = (api: Routes) =>
  Object.entries(api.groups).flatMap(([group, { endpoints }]) =>
    Object.values(endpoints).map(({ method, path }) => ({ group, method, path }))
  )

// -- policy --------------------------------------------------------------------------------------------------------

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
        ? "whoever reaches it; with keys, a token for this compute, or an administrator's"
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
    `${row.method.padEnd(width("method"))}  ${row.path.padEnd(width("path"))}  ` +
    `${row.listeners.padEnd(width("listeners"))}  ${row.who}\n`
  const notes =
    apiVersion === "head"
      ? "\nTokens are asked for when keys are known (-c, -p); the internal port listens on loopback only.\n"
      : "\nTokens are asked for when keys are known (-c, -p), though not of our own Postgres for /extension_server.\n" +
        "Without keys, --http-host says who can reach it, and pages of other sites are refused.\n"
  const page =
    "A browser gets the page at / without a token and without data; what it shows it asks for as everybody does.\n"
  const verifiers = "Password verifiers (/dbs_and_roles?passwords=true) are shown to an administrator's token alone.\n"
  return `${rows.map(line).join("")}${notes}${verifiers}${page}`
}
