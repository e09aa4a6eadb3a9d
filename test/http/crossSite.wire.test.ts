/**
 * Web pages and listeners that ask for no tokens: what a browser sends for a page of another site changes nothing and
 * reads nothing, and what programs send is answered as ever.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { request } from "node:http"
import { connect } from "node:net"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { verifierOf } from "../../src/http/Verifier.ts"
import { type Answer, ask, configurer, inMemoryServices, open, reach, refusedOf } from "./testServer.ts"
import { edSigner, tokenOf } from "./tokens.ts"

type Headers = Readonly<Record<string, string>>

/** As a browser, which fetch is not: with any Host, Origin and Sec-Fetch headers. */
const browse = (port: number, method: string, path: string, headers: Headers, body = "", local = "127.0.0.1") =>
  Effect.callback<Pick<Answer, "status" | "text" | "type">>((resume) => {
    const asked = request({ host: local, port, method, path, headers, agent: false }, (answer) => {
      let text = ""
      answer.setEncoding("utf8").on("data", (more: string) => (text += more))
      answer.on("end", () =>
        resume(Effect.succeed({ status: answer.statusCode ?? 0, text, type: answer.headers["content-type"] ?? null }))
      )
    }).on("error", (error) => resume(Effect.die(error)))
    asked.end(body)
  })

const json = { "content-type": "application/json" }
const spec = JSON.stringify({ spec: { format_version: 1 } })
const commands: ReadonlyArray<readonly [string, string, string]> = [
  ["POST", "/configure", spec],
  ["POST", "/terminate", ""],
  ["POST", "/grants", JSON.stringify({ database: "app", schema: "public", privileges: ["USAGE"], role: "web" })],
  ["POST", "/extensions", JSON.stringify({ extension: "hstore", database: "app", version: "1.8" })],
  ["POST", "/refresh_configuration", ""],
  ["POST", "/extension_server/hstore", ""],
  ["POST", "/holds", JSON.stringify({ reason: "x", ttl_seconds: 60 })],
  ["POST", "/promote", "{}"],
  ["GET", "/status", ""],
  ["GET", "/dbs_and_roles", ""],
  ["GET", "/conditions", ""]
]

/** What a browser adds to a request that a page of another site makes it send. */
const foreign: ReadonlyArray<readonly [string, Headers, code: string]> = [
  ["a form of another site", { "sec-fetch-site": "cross-site", origin: "https://evil.example" }, "cross_site"],
  ["a form of another port of this machine", { "sec-fetch-site": "same-site" }, "cross_site"],
  [
    "a picture or script of another site",
    { "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors" },
    "cross_site"
  ],
  ["a browser that knows Origin alone", { origin: "http://evil.example" }, "cross_site"],
  ["a sandboxed frame", { origin: "null" }, "cross_site"],
  ["a page on another port", { origin: "http://localhost:1" }, "cross_site"],
  ["a page of a file", { origin: "file://" }, "cross_site"],
  ["a name that was made to mean our address", { host: "evil.example" }, "host_unknown"],
  ["such a name with a port", { host: "evil.example:3080", origin: "http://evil.example:3080" }, "host_unknown"],
  ["a name that only looks like ours", { host: "localhost.evil.example" }, "host_unknown"],
  ["a name with an address in it", { host: "127.0.0.1.evil.example" }, "host_unknown"],
  ["a Host that is none", { host: "127.0.0.1@evil.example" }, "host_unknown"]
]

describe("without tokens, a web page's request", () => {
  for (const [name, headers, code] of foreign) {
    it.live(`is refused on every route that is not open: ${name}`, () =>
      Effect.gen(function* () {
        yield* reach("running")
        for (const apiVersion of ["2024", "head"] as const) {
          const { port } = yield* open({ apiVersion })
          for (const [method, path, body] of commands) {
            const answer = yield* browse(port, method, path, { ...json, ...headers }, body)
            assert.strictEqual(answer.status, 403, `${apiVersion} ${path}`)
            assert.strictEqual(refusedOf({ ...answer, headers: new Headers() }).code, code)
          }
        }
        assert.strictEqual((yield* (yield* ComputeState).now).status, "running")
      }).pipe(Effect.provide(inMemoryServices))
    )
  }

  it.live("is refused on the port that only this machine reaches, too, whatever tokens the other port asks for", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { internalPort } = yield* open({ internalPort: 0, verifier: verifierOf([edSigner().jwk]) })
      for (const path of ["/grants", "/extensions", "/refresh_configuration", "/extension_server/hstore"]) {
        const answer = yield* browse(internalPort ?? 0, "POST", path, { ...json, origin: "http://evil.example" }, "{}")
        assert.strictEqual(answer.status, 403, path)
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("has no body that a form can send: text/plain, a form, no JSON of any kind", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { port } = yield* open({ apiVersion: "2024" })
      const kinds = [
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data"
      ]
      for (const path of ["/configure", "/grants", "/extensions"])
        for (const kind of kinds) {
          const answer = yield* ask(port, "POST", path, { body: spec, headers: { "content-type": kind } })
          assert.strictEqual(answer.status, 415, `${path} ${kind}`)
          assert.strictEqual(refusedOf(answer).code, "not_json")
        }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("may be for what is open to anybody, and a link may be followed", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { port } = yield* open({ apiVersion: "2024" })
      for (const path of ["/livez", "/readyz", "/metrics", "/openapi.json"]) {
        const headers = { host: "monitoring.example", "sec-fetch-site": "cross-site" }
        assert.strictEqual((yield* browse(port, "GET", path, headers)).status, 200, path)
      }
      const link = { "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document" }
      assert.strictEqual((yield* browse(port, "GET", "/status", link)).status, 200)
      assert.strictEqual((yield* browse(port, "POST", "/terminate", link)).status, 403)
      const frame = { ...link, "sec-fetch-dest": "iframe" }
      assert.strictEqual((yield* browse(port, "GET", "/status", frame)).status, 403)
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("without tokens, a program's request", () => {
  const hosts = ["127.0.0.1", "10.1.2.3:3080", "[::1]:3080", "localhost", "LOCALHOST:3080", "localhost.", "a.localhost"]

  it.live("is answered by an address or a name of this machine, and by names that were allowed", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { port } = yield* open({ apiVersion: "2024", allowedHosts: new Set(["compute-1.svc", "proxy.example"]) })
      for (const host of [...hosts, "compute-1.svc", "Compute-1.SVC:3080"])
        assert.strictEqual((yield* browse(port, "GET", "/status", { host })).status, 200, host)
      assert.strictEqual((yield* browse(port, "GET", "/status", { host: "compute-2.svc" })).status, 403)
      const proxied = { host: "127.0.0.1", origin: "https://proxy.example" }
      assert.strictEqual((yield* browse(port, "GET", "/status", proxied)).status, 200)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("with a body of no type, as clients of the 2024 version send it, or of JSON, configures a compute", () =>
    Effect.gen(function* () {
      yield* reach("running")
      yield* configurer(() => Effect.void)
      const { port } = yield* open({ apiVersion: "2024" })
      for (const headers of [{}, json, { "content-type": "application/json; charset=utf-8" }]) {
        const answer = yield* browse(port, "POST", "/configure", headers, spec)
        assert.strictEqual(answer.status, 200, answer.text)
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("of our own page is answered: its origin is the one that it asks", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { port } = yield* open({ apiVersion: "2024" })
      for (const host of [`127.0.0.1:${port}`, `localhost:${port}`]) {
        const headers = { host, origin: `http://${host}`, "sec-fetch-site": "same-origin" }
        assert.strictEqual((yield* browse(port, "GET", "/status", headers)).status, 200)
      }
      const without = { host: "localhost", origin: "http://localhost:80" }
      assert.strictEqual((yield* browse(port, "GET", "/status", without)).status, 200)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("by HTTP/1.0 needs no Host", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { port } = yield* open({ apiVersion: "2024" })
      assert.match(yield* exchange(port, "GET /status HTTP/1.0\r\n\r\n"), /^HTTP\/1\.1 200 /)
    }).pipe(Effect.provide(inMemoryServices))
  )
})

/** Bytes in, bytes out until the other side hangs up. */
const exchange = (port: number, text: string) =>
  Effect.callback<string>((resume) => {
    let received = ""
    const socket = connect(port, "127.0.0.1").setEncoding("latin1")
    socket.on("data", (more: string) => (received += more)).on("error", () => undefined)
    socket.on("close", () => resume(Effect.succeed(received)))
    socket.end(text)
  })

describe("a request", () => {
  it.live("with two Host headers is malformed, whatever they say, and on every route", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      for (const path of ["/livez", "/status", "/nowhere"]) {
        const answer = yield* exchange(port, `GET ${path} HTTP/1.1\r\nHost: localhost\r\nhost: localhost\r\n\r\n`)
        assert.match(answer, /^HTTP\/1\.1 400 /)
        assert.include(answer, '"code":"host_ambiguous"')
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("with a compressed body is 415, and one that says it is not compressed is read", () =>
    Effect.gen(function* () {
      yield* reach("running")
      yield* configurer(() => Effect.void)
      for (const apiVersion of ["2024", "head"] as const) {
        const { port } = yield* open({ apiVersion })
        for (const encoding of ["gzip", "br", "deflate", "gzip, identity"]) {
          const answer = yield* browse(port, "POST", "/configure", { ...json, "content-encoding": encoding }, spec)
          assert.strictEqual(answer.status, 415)
          assert.strictEqual(refusedOf({ ...answer, headers: new Headers() }).code, "encoding_unsupported")
        }
        const plain = yield* browse(port, "POST", "/configure", { ...json, "content-encoding": "identity" }, spec)
        assert.strictEqual(plain.status, 200)
      }
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("with tokens", () => {
  const signer = edSigner()
  const as = (token: string) => ({ headers: { authorization: `Bearer ${token}` } })

  it.live("a refusal says in WWW-Authenticate what kind of token would help (RFC 6750)", () =>
    Effect.gen(function* () {
      const { port } = yield* open({ verifier: verifierOf([signer.jwk]) })
      const rows: ReadonlyArray<readonly [number, string, Parameters<typeof ask>[3]]> = [
        [400, 'Bearer realm="compute_ctl"', {}],
        [401, 'Bearer realm="compute_ctl", error="invalid_token"', as("a.b.c")],
        [
          403,
          'Bearer realm="compute_ctl", error="insufficient_scope"',
          as(tokenOf(signer, { compute_id: "compute-2" }))
        ]
      ]
      for (const [status, challenge, headers] of rows) {
        const answer = yield* ask(port, "GET", "/status", headers)
        assert.strictEqual(answer.status, status)
        assert.strictEqual(answer.headers.get("www-authenticate"), challenge)
      }
      const web = yield* ask(port, "GET", "/livez")
      assert.isNull(web.headers.get("www-authenticate"))
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("no header of a browser is in the way of who has one", () =>
    Effect.gen(function* () {
      const { port } = yield* open({ verifier: verifierOf([signer.jwk]) })
      const token = tokenOf(signer, { compute_id: "compute-1" })
      const headers = { host: "compute.example", origin: "https://console.example", authorization: `Bearer ${token}` }
      assert.strictEqual((yield* browse(port, "GET", "/status", headers)).status, 200)
    }).pipe(Effect.provide(inMemoryServices))
  )

  for (const apiVersion of ["2024", "head"] as const) {
    it.live(
      `on one port, our own Postgres asks for its extensions without one, and for nothing else (${apiVersion})`,
      () =>
        Effect.gen(function* () {
          yield* reach("running")
          const { port } = yield* open({ apiVersion, verifier: verifierOf([signer.jwk]) })
          const post = (path: string, headers: Headers = {}) => browse(port, "POST", path, headers)
          // It has no extensions to give, and says so: it was not refused for want of a token.
          assert.strictEqual((yield* post("/extension_server/hstore")).status, 412)
          for (const path of ["/grants", "/extensions", "/configure", "/terminate", "/refresh_configuration"])
            assert.strictEqual((yield* post(path)).status, 400, path)
          for (const headers of [{ "x-forwarded-for": "10.0.0.1" }, { forwarded: "for=10.0.0.1" }])
            assert.strictEqual((yield* post("/extension_server/hstore", headers)).status, 400)
          assert.strictEqual((yield* post("/extension_server/hstore", { origin: "http://evil.example" })).status, 403)
        }).pipe(Effect.provide(inMemoryServices))
    )
  }

  it.live("without an id of this compute no token for a compute is taken, not even one for no name", () =>
    Effect.gen(function* () {
      const { port } = yield* open({ computeId: null, verifier: verifierOf([signer.jwk]) })
      for (const compute_id of ["", "null", "compute-1"])
        assert.strictEqual((yield* ask(port, "GET", "/status", as(tokenOf(signer, { compute_id })))).status, 403)
      const admin = tokenOf(signer, { scope: "compute_ctl:admin", aud: ["compute"] })
      assert.strictEqual((yield* ask(port, "GET", "/status", as(admin))).status, 200)
    }).pipe(Effect.provide(inMemoryServices))
  )
})
