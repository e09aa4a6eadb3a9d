/**
 * The declaration as tests walk it: every endpoint, a request that is well formed, and the answers it may give.
 */
import { wholeApi } from "../../src/http/Api.ts"
import { documentOf } from "../../src/http/document.ts"

export interface Declared {
  readonly group: string
  readonly name: string
  readonly method: string
  readonly path: string
  /** What the document says it may answer. */
  readonly answers: ReadonlySet<number>
  /** As the document spells the path. */
  readonly documented: string
}

const document = documentOf({ apiVersion: "head", listener: "only", asksForTokens: true })

const operationOf = (path: string, method: string) => {
  const item = document.paths[path]
  const key = method.toLowerCase()
  return key === "get" || key === "post" || key === "delete" ? item?.[key] : undefined
}

export const declared: ReadonlyArray<Declared> = Object.entries(wholeApi().groups).flatMap(([group, { endpoints }]) =>
  Object.entries(endpoints).map(([name, { method, path }]) => {
    const documented = path.replaceAll(/:(\w+)/g, "{$1}")
    const operation = operationOf(documented, method)
    if (operation === undefined) throw new Error(`${method} ${path} is not in the document`)
    return { group, name, method, path, documented, answers: new Set(Object.keys(operation.responses).map(Number)) }
  })
)

export const documentedRoutes: ReadonlyArray<string> = Object.entries(document.paths).flatMap(([path, item]) =>
  Object.keys(item)
    .filter((key) => ["get", "post", "delete", "put", "patch"].includes(key))
    .map((key) => `${key.toUpperCase()} ${path}`)
)

/** A body that is well formed, for the routes that take one. */
export const bodies: Readonly<Record<string, unknown>> = {
  configure: { spec: { format_version: 1, operation_uuid: "op" } },
  hold: { reason: "a test", ttl_seconds: 60 },
  extensions: { extension: "hstore", database: "app", version: "1.8" },
  grants: { database: "app", schema: "public", privileges: ["USAGE"], role: "web" }
}

/** A request's path for an endpoint; there is nothing under this id. */
export const pathFor = ({ name, path }: Declared): string =>
  path.replaceAll(/:\w+/g, "nothing-here") + (name === "databaseSchema" ? "?database=app" : "")
