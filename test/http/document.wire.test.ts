/**
 * The document that each listener serves: it names what is there and nothing else, generators of clients can read it,
 * and every answer to requests made from it is one that it declares, with a body of the shape that it declares.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as OpenApi from "effect/http-api/OpenApi"
import * as Redacted from "effect/Redacted"
import { statuses } from "../../src/compute/transitions.ts"
import { unverified } from "../../src/http/authorize.ts"
import type { ServerOptions } from "../../src/http/options.ts"
import { declared } from "./declared.ts"
import { faultsOf, type JsonSchema, type Random, type Schemas, valueFor } from "./jsonSchema.ts"
import { type Answer, ask, configurer, ender, inMemoryServices, open, reach, shortTimeouts } from "./testServer.ts"
import { verifierThat } from "./tokens.ts"

const verifier = verifierThat((token) =>
  Redacted.value(token) === "ours" ? Effect.succeed({ compute_id: "compute-1" }) : Effect.fail(unverified)
)

interface Case {
  readonly name: string
  readonly options: Partial<ServerOptions>
  readonly port: "external" | "internal"
  readonly groups: ReadonlyArray<string>
  readonly asksForTokens: boolean
}

const everything = ["open", "control", "inside"]
const cases: ReadonlyArray<Case> = [
  {
    name: "the one port of 2024",
    options: { apiVersion: "2024" },
    port: "external",
    groups: everything,
    asksForTokens: false
  },
  {
    name: "the one port of 2024, with tokens",
    options: { apiVersion: "2024", verifier },
    port: "external",
    groups: everything,
    asksForTokens: true
  },
  {
    name: "the one port, with tokens",
    options: { verifier },
    port: "external",
    groups: everything,
    asksForTokens: true
  },
  {
    name: "the external port",
    options: { verifier, internalPort: 0 },
    port: "external",
    groups: ["open", "control"],
    asksForTokens: true
  },
  {
    name: "the internal port",
    options: { verifier, internalPort: 0 },
    port: "internal",
    groups: ["open", "inside"],
    asksForTokens: false
  }
]

const serve = ({ options, port }: Case) =>
  Effect.gen(function* () {
    const opened = yield* open({ ...options, timeouts: shortTimeouts, refetch: Effect.never })
    const at = port === "external" ? opened.port : opened.internalPort
    if (at === null) throw new Error("there is no such port")
    const document = JSON.parse((yield* ask(at, "GET", "/openapi.json")).text) as OpenApi.OpenAPISpec
    return { at, document }
  })

const methods = ["get", "post", "delete"] as const

const operationsOf = ({ paths }: OpenApi.OpenAPISpec) =>
  Object.entries(paths).flatMap(([path, item]) =>
    methods.flatMap((method) => {
      const operation = item[method]
      return operation === undefined ? [] : [{ path, method: method.toUpperCase(), operation }]
    })
  )

const schemasOf = (document: OpenApi.OpenAPISpec) => document.components.schemas as unknown as Schemas

/** Every object in it, with its place. */
function* objectsIn(value: unknown, at = ""): Generator<readonly [string, Readonly<Record<string, unknown>>]> {
  if (typeof value !== "object" || value === null) return
  if (!Array.isArray(value)) yield [at, value as Readonly<Record<string, unknown>>]
  for (const [key, one] of Object.entries(value)) yield* objectsIn(one, `${at}/${key}`)
}

describe("the document", () => {
  for (const one of cases) {
    it.live(`of ${one.name} names the routes that are there, with the tokens that are asked for`, () =>
      Effect.gen(function* () {
        const { at, document } = yield* serve(one)
        const named = operationsOf(document).map(({ method, path }) => `${method} ${path}`)
        const wanted = declared.filter(({ group }) => one.groups.includes(group))
        assert.deepStrictEqual(
          named.toSorted(),
          wanted.map((route) => `${route.method} ${route.documented}`).toSorted()
        )
        for (const route of declared.filter(({ group }) => !one.groups.includes(group))) {
          const path = route.path.replaceAll(/:\w+/g, "x")
          const others = wanted.some((other) => other.path.replaceAll(/:\w+/g, "x") === path)
          assert.strictEqual((yield* ask(at, route.method, path)).status, others ? 405 : 404, path)
        }
        for (const { method, operation, path } of operationsOf(document)) {
          const guarded =
            declared.find((route) => route.method === method && route.documented === path)?.group !== "open"
          assert.strictEqual(operation.security.length > 0, guarded && one.asksForTokens, path)
          assert.strictEqual(401 in operation.responses, guarded && one.asksForTokens, path)
        }
        assert.deepStrictEqual(document.servers, [{ url: "/" }])
        assert.strictEqual(Object.keys(document.components.securitySchemes).length > 0, one.asksForTokens)
      }).pipe(Effect.scoped, Effect.provide(inMemoryServices))
    )

    it.live(`of ${one.name} can be read by generators of clients`, () =>
      Effect.gen(function* () {
        const { document } = yield* serve(one)
        const schemas = schemasOf(document)
        for (const [place, object] of objectsIn(document)) {
          if (Array.isArray(object["anyOf"])) {
            const members = object["anyOf"].map((member) => JSON.stringify(member))
            assert.lengthOf(new Set(members), members.length, `${place} has a choice twice`)
            assert.isAbove(members.length, 1, `${place} is no choice`)
          }
          if (object["type"] === "array") assert.property(object, "items", place)
          if (typeof object["$ref"] === "string")
            assert.property(schemas, object["$ref"].replace("#/components/schemas/", ""), place)
        }
        assert.notInclude(JSON.stringify(document), "NaN")
        const ids = operationsOf(document).map(({ operation }) => operation.operationId)
        assert.lengthOf(new Set(ids), ids.length)
        // A generator for Go makes these names of an operation, beside those of the bodies.
        const pascal = (id: string) => id.charAt(0).toUpperCase() + id.slice(1)
        const made = ids.flatMap((id) => ["Response", "Params", "JSONRequestBody"].map((end) => pascal(id) + end))
        assert.deepStrictEqual(
          made.filter((name) => name in schemas),
          []
        )
        for (const { operation, path } of operationsOf(document)) assert.isNotEmpty(operation.summary ?? "", path)
      }).pipe(Effect.scoped, Effect.provide(inMemoryServices))
    )
  }
})

// Requests that are made from the document.

/** Small, fast and the same everywhere: mulberry32. */
const randomFrom = (seed: number): Random => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

type Asked = ReturnType<typeof operationsOf>[number]

const asText = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""))

const requestOf = (random: Random, { operation, path }: Asked, schemas: Schemas, asksForTokens: boolean) => {
  const query = new URLSearchParams()
  let target = path
  for (const { in: place, name, schema } of operation.parameters) {
    const value = asText(valueFor(random, schema as JsonSchema, schemas)).slice(0, 100)
    // `.` and `..` never leave a client.
    if (place === "path") target = target.replace(`{${name}}`, encodeURIComponent(`x${value}`))
    else if (place === "query" && random() < 0.7) query.append(name, value)
  }
  const body = operation.requestBody?.content["application/json"]?.schema
  const search = query.size === 0 ? "" : `?${query}`
  return {
    target: `${target}${search}`,
    headers: {
      ...(asksForTokens ? { authorization: random() < 0.9 ? "Bearer ours" : "Bearer other" } : {}),
      ...(random() < 0.2 ? { accept: "text/plain" } : {}),
      ...(random() < 0.2 ? { prefer: "respond-async" } : {})
    },
    json: body === undefined ? undefined : valueFor(random, body as JsonSchema, schemas)
  }
}

/** What is wrong with an answer by the document; `null`: nothing. */
const wrongWith = ({ operation }: Asked, answer: Answer, schemas: Schemas): string | null => {
  const response = operation.responses[answer.status]
  if (response === undefined) return `${answer.status} is not declared`
  const content = response.content ?? {}
  const type = (answer.type ?? "").split(";")[0] ?? ""
  const media = Object.entries(content).find(([name]) => name.split(";")[0] === type)?.[1]
  if (media === undefined)
    return answer.text === "" && Object.keys(content).length === 0 ? null : `a body of type ${type} is not declared`
  if (type !== "application/json") return null
  const faults = faultsOf(media.schema as JsonSchema, JSON.parse(answer.text), schemas)
  return faults.length === 0 ? null : faults.join("; ")
}

const requests = 600

describe("requests made from the document", () => {
  for (const one of cases) {
    it.live(`to ${one.name} are answered as it declares`, () =>
      Effect.gen(function* () {
        const seed = Math.floor(Math.random() * 2 ** 31)
        console.log(`seed ${seed}`)
        const random = randomFrom(seed)
        for (const status of statuses) {
          yield* Effect.gen(function* () {
            yield* reach(status)
            if (status !== "terminated") yield* ender(null)
            if (status === "running" || status === "empty") yield* configurer(() => Effect.void)
            const { at, document } = yield* serve(one)
            const schemas = schemasOf(document)
            // What goes on for ever has a test of its own.
            const asked = operationsOf(document).filter(({ path }) => path !== "/status/stream")
            for (let n = 0; n < requests / statuses.length; n++) {
              const operation = asked[Math.floor(random() * asked.length)] ?? assert.fail()
              const { headers, json, target } = requestOf(random, operation, schemas, one.asksForTokens)
              const answer = yield* ask(at, operation.method, target, {
                headers,
                ...(json === undefined ? {} : { json })
              })
              const wrong = wrongWith(operation, answer, schemas)
              if (wrong !== null)
                assert.fail(
                  `seed ${seed}, in ${status}: ${operation.method} ${target} ${JSON.stringify(json)}: ` +
                    `${answer.status} ${answer.text.slice(0, 300)}: ${wrong}`
                )
            }
          }).pipe(Effect.scoped, Effect.provide(inMemoryServices))
        }
      })
    )
  }
})
