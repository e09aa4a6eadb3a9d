/**
 * The API's own document in the words of OpenAPI, as one listener serves it: only the routes that are there, with the
 * answers that each may give and the tokens that are asked for.
 *
 * Made from the declaration (`Api.ts`). What the library's translation leaves out is added here, and what it says twice
 * is said once, because generators of clients stumble over that. Pure; made when it is first asked for.
 */
import * as Context from "effect/Context"
import * as OpenApi from "effect/http-api/OpenApi"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { externalApi, internalApi, wholeApi } from "./Api.ts"

export interface Served {
  readonly apiVersion: ApiVersion
  /** `only`: there is one port for everything. */
  readonly listener: "only" | "external" | "internal"
  readonly asksForTokens: boolean
}

/** Through which listener a request came. */
export const Through = Context.Reference<Served>("compute/http/Through", {
  defaultValue: () => ({ apiVersion: "head", listener: "only", asksForTokens: false })
})

type Json = null | boolean | number | string | ReadonlyArray<Json> | { readonly [key: string]: Json }
type Operation = OpenApi.OpenAPISpecOperation
type Responses = Operation["responses"]

const translated = ({ listener }: Served): OpenApi.OpenAPISpec => {
  if (listener === "only") return OpenApi.fromApi(wholeApi())
  return listener === "external" ? OpenApi.fromApi(externalApi()) : OpenApi.fromApi(internalApi())
}

/** Members that are equal are one, and one alone needs no choice. */
const withoutRepetition = (value: Json): Json => {
  if (Array.isArray(value)) return value.map(withoutRepetition)
  if (typeof value !== "object" || value === null) return value
  const { anyOf, ...rest } = value as { readonly [key: string]: Json }
  const others = Object.fromEntries(Object.entries(rest).map(([key, one]) => [key, withoutRepetition(one)]))
  if (!Array.isArray(anyOf)) return anyOf === undefined ? others : { ...others, anyOf: withoutRepetition(anyOf) }
  const members = new Map(anyOf.map((one) => [JSON.stringify(one), withoutRepetition(one)]))
  const [first] = members.values()
  const alone = members.size === 1 && typeof first === "object" && first !== null && !Array.isArray(first)
  return alone ? { ...first, ...others } : { ...others, anyOf: [...members.values()] }
}

const refused: Responses[number] = {
  description: "Refused",
  content: { "application/json": { schema: { $ref: "#/components/schemas/Refused" } } }
}

/** What the listener itself answers, before a route is reached: where no token is asked for, web pages are kept out. */
const ofListener = (guarded: boolean, asksForTokens: boolean): Responses => ({
  ...(guarded ? { 400: refused, 401: refused } : {}),
  ...(guarded || !asksForTokens ? { 403: refused } : {}),
  503: refused
})

const empty = (description: string): Responses[number] => ({ description })
const okText: Responses[number] = { description: "OK", content: { "text/plain": { schema: { type: "string" } } } }

/** What the dialects answer differently, by operation: `null` stands for an answer that one of them never gives. */
const ofDialect: Readonly<Record<ApiVersion, Readonly<Record<string, Record<number, Responses[number] | null>>>>> = {
  "2024": {
    terminateCompute: { 200: empty("Postgres is gone"), 201: null },
    fetchExtension: { 200: okText },
    extensions: { 201: null },
    grants: { 201: null }
  },
  head: { extensions: { 200: null }, grants: { 200: null } }
}

const operationOf = (operation: Operation, { apiVersion, asksForTokens }: Served): Operation => {
  const guarded = asksForTokens && operation.security.length > 0
  const responses: Record<number, Responses[number] | null> = {
    ...ofListener(guarded, asksForTokens),
    ...operation.responses,
    ...ofDialect[apiVersion][operation.operationId]
  }
  return {
    ...operation,
    security: guarded ? operation.security : [],
    responses: Object.fromEntries(Object.entries(responses).filter(([, one]) => one !== null)) as Responses
  }
}

const methods = ["get", "post", "delete"] as const

const license = { name: "Apache-2.0", url: "https://www.apache.org/licenses/LICENSE-2.0" }

const make = (served: Served): OpenApi.OpenAPISpec => {
  const { components, paths, ...rest } = translated(served)
  const ours = Object.entries(paths).map(([path, item]) => {
    const operations = methods.flatMap((method) => {
      const operation = item[method]
      return operation === undefined ? [] : [[method, operationOf(operation, served)] as const]
    })
    return [path, Object.fromEntries(operations)] as const
  })
  const document = {
    ...rest,
    info: { ...rest.info, license },
    servers: [{ url: "/" }],
    paths: Object.fromEntries(ours),
    components: { ...components, securitySchemes: served.asksForTokens ? components.securitySchemes : {} }
  }
  return withoutRepetition(document as unknown as Json) as unknown as OpenApi.OpenAPISpec
}

const made = new Map<string, OpenApi.OpenAPISpec>()

/** As any generator of clients may read it. */
export const documentOf = (served: Served): OpenApi.OpenAPISpec => {
  const key = JSON.stringify(served)
  const document = made.get(key) ?? make(served)
  made.set(key, document)
  return document
}
