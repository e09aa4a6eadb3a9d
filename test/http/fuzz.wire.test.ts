/**
 * Random methods, paths, queries, headers and bodies at every declared route: an answer that the document declares, in
 * full, soon; and the server answers the next caller.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { statuses } from "../../src/compute/transitions.ts"
import { bodies, declared } from "./declared.ts"
import { ask, configurer, ender, inMemoryServices, open, reach, refusedOf, shortTimeouts } from "./testServer.ts"

const Name = Schema.Literals(declared.map(({ name }) => name))

/** What a header may hold on the wire; what it may not, the client refuses to send. */
const HeaderText = Schema.String.check(Schema.isPattern(/^[\x21-\x7e\x80-\xff]{0,60}$/))

const Headers = Schema.Record(
  Schema.Literals([
    "accept",
    "prefer",
    "idempotency-key",
    "authorization",
    "x-request-id",
    "content-type",
    "traceparent",
    "cookie",
    "range",
    "if-match"
  ]),
  Schema.optionalKey(
    Schema.Union([
      HeaderText,
      Schema.Literals([
        "respond-async",
        "application/json",
        "text/event-stream",
        "text/html",
        "Bearer",
        "Bearer x",
        "bytes=0-1",
        "respond-async, wait=1"
      ])
    ])
  )
)

const Body = Schema.Union([
  Schema.Null,
  Schema.String,
  Schema.fromJsonString(Schema.Json),
  Schema.Literals(Object.values(bodies).map((body) => JSON.stringify(body))),
  Schema.fromJsonString(
    Schema.Struct({
      spec: Schema.Json,
      compute_ctl_config: Schema.Json,
      reason: Schema.Json,
      ttl_seconds: Schema.Json,
      extension: Schema.Json,
      database: Schema.Json
    })
  )
])

const Query = Schema.Union([
  Schema.Literals([
    "",
    "verbose",
    "wait_for=running&timeout=10ms",
    "timeout=5ms",
    "mode=fast",
    "mode=immediate",
    "passwords=true",
    "database=app"
  ]),
  Schema.String
])

const encodeBody = Schema.encodeSync(Body)

/** Surrogates that stand alone are no text, and fetch would change them. */
const wellFormed = (text: string): string => text.replaceAll(/[\ud800-\udfff]/g, "")

describe("random requests", () => {
  for (const apiVersion of ["2024", "head"] as const) {
    it.live.prop(
      apiVersion,
      { name: Name, status: Schema.Literals(statuses), id: Schema.String, query: Query, headers: Headers, body: Body },
      ({ body, headers, id, name, query, status }) =>
        Effect.gen(function* () {
          const route = declared.find((one) => one.name === name) ?? assert.fail(name)
          yield* reach(status)
          if (status !== "terminated") yield* ender(null)
          if (status === "running" || status === "empty") yield* configurer(() => Effect.void)
          const { port } = yield* open({ apiVersion, timeouts: shortTimeouts, refetch: Effect.never })
          const path = route.path.replace(":id", () => encodeURIComponent(`x${wellFormed(id)}`).replaceAll(".", "%2e"))
          const encoded = query.includes("=") && /^[\w=&]*$/.test(query) ? query : encodeURIComponent(wellFormed(query))
          const streams =
            name === "statusStream" || (name === "status" && (headers["accept"] ?? "").includes("text/event-stream"))
          const text = encodeBody(body)
          const answer = yield* ask(
            port,
            streams ? "HEAD" : route.method,
            `${path}${encoded === "" ? "" : `?${encoded}`}`,
            {
              headers: Object.fromEntries(
                Object.entries(headers).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]]))
              ),
              ...(route.method === "GET" || text === null ? {} : { body: text })
            }
          )
          const where = `${route.method} ${path}?${encoded} in ${status}: ${answer.status} ${answer.text.slice(0, 300)}`
          assert.isTrue(route.answers.has(answer.status), where)
          if (answer.status >= 300 && !streams) refusedOf(answer)
          assert.strictEqual((yield* ask(port, "GET", "/livez")).status, 200)
          yield* (yield* ComputeState).now
        }).pipe(Effect.scoped, Effect.provide(inMemoryServices)),
      { arbitrary: { runs: 400 } }
    )
  }
})
