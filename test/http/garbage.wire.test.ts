/**
 * Garbage: whatever bytes arrive, the server answers a 4xx in full or hangs up, and answers the next caller.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { connect } from "node:net"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { ask, inMemoryServices, open, reach, refusedOf } from "./testServer.ts"

const posts = ["/configure", "/extensions", "/grants"] as const

const Body = Schema.Union([
  Schema.String,
  Schema.fromJsonString(Schema.Json),
  Schema.fromJsonString(Schema.Struct({ spec: Schema.Json, compute_ctl_config: Schema.optionalKey(Schema.Json) })),
  Schema.fromJsonString(
    Schema.Struct({ extension: Schema.Json, database: Schema.String, version: Schema.Json, privileges: Schema.Json })
  )
])
const encode = Schema.encodeSync(Body)

/** Bytes in, bytes out until the other side hangs up, which it must within twenty seconds. */
const raw = (port: number, bytes: string): Effect.Effect<string> =>
  Effect.callback<string>((resume) => {
    let received = ""
    const socket = connect(port, "127.0.0.1")
    socket.setEncoding("latin1").on("data", (text: string) => (received += text))
    socket.on("error", () => undefined)
    socket.on("close", () => resume(Effect.succeed(received)))
    socket.end(bytes, "latin1")
    return Effect.sync(() => socket.destroy())
  }).pipe(Effect.timeoutOrElse({ duration: "20 seconds", orElse: () => Effect.die(new Error("the server hangs")) }))

/** Surrogates that stand alone are no text, and fetch would change them. */
const wellFormed = (text: string): string => text.replaceAll(/[\ud800-\udfff]/g, "")

describe("garbage", () => {
  for (const apiVersion of ["2024", "head"] as const) {
    it.live.prop(
      `bodies, ${apiVersion}: refused in full, never a 500`,
      {
        body: Body,
        kind: Schema.Literals(["application/json", "text/plain", "application/json; charset=utf-8"]),
        path: Schema.Literals(posts)
      },
      ({ body, kind, path }) =>
        Effect.gen(function* () {
          // Failed with no Postgres: nothing that is well formed is accepted either.
          yield* reach("failed")
          const { port } = yield* open({ apiVersion })
          const answer = yield* ask(port, "POST", path, { body: encode(body), headers: { "content-type": kind } })
          assert.isTrue(answer.status >= 400 && answer.status < 500, `${answer.status} ${answer.text}`)
          refusedOf(answer)
          assert.strictEqual((yield* (yield* ComputeState).now).status, "failed")
        }).pipe(Effect.scoped, Effect.provide(inMemoryServices)),
      { arbitrary: { runs: 60 } }
    )
  }

  it.live("bytes that are not HTTP get a 4xx or a closed connection", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      const requests = [
        "\r\n\r\n",
        "GET\r\n\r\n",
        "\x00\x01\x02\x03\x16\x03\x01",
        "GET /status HTTP/9.9\r\n\r\n",
        "GET /status HTTP/1.1\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        "CONNECT x:1 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "TRACE /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        "GET /status HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        `GET /${"x".repeat(100_000)} HTTP/1.1\r\nhost: localhost\r\n\r\n`,
        `GET /status HTTP/1.1\r\nhost: localhost\r\n${"a: b\r\n".repeat(10_000)}\r\n`,
        "POST /configure HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        "POST /configure HTTP/1.1\r\nhost: localhost\r\n" +
          "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /configure HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" +
          "transfer-encoding: chunked\r\nconnection: close\r\n\r\nzz\r\n",
        "POST /configure HTTP/1.1\r\nhost: localhost\r\n" +
          'content-type: application/json\r\ncontent-length: 50\r\n\r\n{"spec"'
      ]
      for (const request of requests) {
        const received = yield* raw(port, request)
        assert.match(received, /^($|HTTP\/1\.1 (200|4\d\d|505) )/, JSON.stringify(request.slice(0, 80)))
        assert.strictEqual((yield* ask(port, "GET", "/livez")).status, 200)
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live.prop(
    "unknown paths are 404, malformed queries 400",
    {
      path: Schema.String,
      query: Schema.String,
      method: Schema.Literals(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
    },
    ({ method, path, query }) =>
      Effect.gen(function* () {
        const { port } = yield* open()
        const answer = yield* ask(
          port,
          method,
          `/x${encodeURI(wellFormed(path))}?${encodeURIComponent(wellFormed(query))}`
        )
        assert.strictEqual(answer.status, 404)
        const terminate = yield* ask(port, "POST", `/terminate?mode=x${encodeURIComponent(wellFormed(query))}`)
        assert.strictEqual(terminate.status, 400)
        refusedOf(terminate)
      }).pipe(Effect.scoped, Effect.provide(inMemoryServices)),
    { arbitrary: { runs: 60 } }
  )

  it.live("a stranger's paths and methods do not grow the metrics", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      for (let n = 0; n < 20; n++) yield* ask(port, "GET", `/scan-${n}`)
      const metrics = (yield* ask(port, "GET", "/metrics")).text
      assert.notInclude(metrics, "scan-")
      assert.match(metrics, /compute_ctl_http_requests_total\{[^}]*route="unmatched"[^}]*\} \d+/)
    }).pipe(Effect.provide(inMemoryServices))
  )
})
