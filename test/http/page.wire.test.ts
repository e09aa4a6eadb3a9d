/**
 * The compute's page over real sockets: a browser gets a page that holds no data and may load nothing; everybody else
 * gets all of it as text, when they may ask for the status.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import { Script } from "node:vm"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { verifierOf } from "../../src/http/Verifier.ts"
import { busyCompute, lines } from "./pageState.ts"
import { ask, inMemoryServices, open, reach, refusedOf } from "./testServer.ts"
import { edSigner, tokenOf } from "./tokens.ts"

const browser = { accept: "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8" }
const inline = (html: string, tag: string) => new RegExp(`<${tag}>([^]*?)</${tag}>`).exec(html)?.[1] ?? ""

describe("GET / in a browser", () => {
  it.live("is a page under a strict policy that allows its own script and style and nothing else", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      const page = yield* ask(port, "GET", "/", { headers: browser })
      assert.deepStrictEqual([page.status, page.type], [200, "text/html; charset=utf-8"])
      const policy = page.headers.get("content-security-policy") ?? ""
      const hash = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`
      assert.deepStrictEqual(policy.split("; ").toSorted(), [
        "base-uri 'none'",
        "connect-src 'self'",
        "default-src 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "img-src data:",
        "require-trusted-types-for 'script'",
        `script-src ${hash(inline(page.text, "script"))}`,
        `style-src ${hash(inline(page.text, "style"))}`,
        "trusted-types 'none'"
      ])
      for (const [name, value] of [
        ["cache-control", "no-store"],
        ["referrer-policy", "no-referrer"],
        ["x-content-type-options", "nosniff"],
        ["x-frame-options", "DENY"],
        ["cross-origin-opener-policy", "same-origin"],
        ["cross-origin-resource-policy", "same-origin"],
        ["vary", "accept"]
      ] as const)
        assert.strictEqual(page.headers.get(name), value, name)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("has one script that can be read, one style, and neither handlers, styles of elements nor links away", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      const { text } = yield* ask(port, "GET", "/", { headers: browser })
      assert.deepStrictEqual([text.split("<script").length, text.split("<style").length], [2, 2])
      assert.doesNotThrow(() => new Script(inline(text, "script")))
      const markup = text.replace(/<(script|style)>[^]*?<\/\1>/g, "")
      assert.notMatch(markup, /\son\w+=|\sstyle=|javascript:/i)
      assert.deepStrictEqual(
        [...markup.matchAll(/(?:href|src)="([^"]*)"/g)].map(([, target]) => target?.slice(0, 5)),
        ["data:", "#main", "/docs"]
      )
      assert.notMatch(inline(text, "style"), /url\(|@import/)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("holds no data, so that it needs no token; what it asks for does", () =>
    Effect.gen(function* () {
      const ed = edSigner()
      yield* busyCompute
      const { port } = yield* open({ verifier: verifierOf([ed.jwk]), recentLog: lines })
      const page = yield* ask(port, "GET", "/", { headers: browser })
      assert.strictEqual(page.status, 200)
      for (const secret of ["1".repeat(32), "migration", "user_0", "a tenant made"])
        assert.notInclude(page.text, secret)
      for (const path of ["/", "/log", "/status/stream", "/timeline", "/activity"])
        assert.strictEqual(refusedOf(yield* ask(port, "GET", path)).code, "token_missing", path)
      // Whatever takes HTML among other things is a browser; whoever takes anything is none.
      assert.strictEqual((yield* ask(port, "GET", "/", { headers: { accept: "*/*" } })).status, 400)
      const headers = { authorization: `Bearer ${tokenOf(ed, { compute_id: "compute-1" })}` }
      assert.include((yield* ask(port, "GET", "/", { headers })).text, "running")
      const other = { authorization: `Bearer ${tokenOf(ed, { compute_id: "compute-2" })}` }
      assert.strictEqual((yield* ask(port, "GET", "/", { headers: other })).status, 403)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("HEAD has no body, POST is refused, and the internal port has no page", () =>
    Effect.gen(function* () {
      const { internalPort, port } = yield* open({ internalPort: 0 })
      const head = yield* ask(port, "HEAD", "/", { headers: browser })
      assert.deepStrictEqual([head.status, head.text], [200, ""])
      const post = yield* ask(port, "POST", "/")
      assert.deepStrictEqual([post.status, post.headers.get("allow")], [405, "GET, HEAD"])
      assert.strictEqual((yield* ask(internalPort ?? 0, "GET", "/", { headers: browser })).status, 404)
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("GET / elsewhere", () => {
  it.live("is all of it as text, in lines of at most a hundred columns", () =>
    Effect.gen(function* () {
      const { port } = yield* open({ recentLog: lines })
      yield* busyCompute
      const page = yield* ask(port, "GET", "/", { headers: { accept: "*/*" } })
      assert.deepStrictEqual([page.status, page.type], [200, "text/plain; charset=utf-8"])
      assert.strictEqual(page.headers.get("vary"), "accept")
      for (const line of page.text.split("\n")) assert.isAtMost(line.length, 100, line)
      for (const part of [
        "compute_ctl test: running for ",
        "  last change  init -> running\n",
        "  - actor_failing (LSN lease): the LSN lease could not be renewed\n",
        "  - shared_buffers waits for a restart: it is 128MB, and will be 1GB\n",
        "START, 554 ms in all\n",
        "  build PGDATA       |",
        "EARLIER STARTS\n  2026-01-30 08:15:00  1662 ms\n",
        "  - awake: 2 client sessions are busy or inside a transaction\n",
        "  16 done, 1 skipped, 1 failed; 3 connections, 9 round trips, 40 statements\n",
        "SQLSTATE 42501; hint: grant it first",
        "  12:00:02.000 ERROR the storage archiver failed; it is tried again\n"
      ])
        assert.include(page.text, part)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("says of a compute that has done nothing yet that it has not", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      const { text } = yield* ask(port, "GET", "/")
      for (const part of [
        "empty for",
        "none: everything",
        "no step has passed",
        "nobody has used it",
        "nothing was applied"
      ])
        assert.include(text, part)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("begins with the failure", () =>
    Effect.gen(function* () {
      yield* reach("failed")
      yield* (yield* ComputeState).note({ error: `the data directory is gone\n  caused by: ${"x".repeat(300)}` })
      const { port } = yield* open()
      const { text } = yield* ask(port, "GET", "/")
      assert.match(text, /^.*failed for .*\n {2}! the data directory is gone caused by:\n {2}! x/)
      for (const line of text.split("\n")) assert.isAtMost(line.length, 100, line)
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("what the page asks for", () => {
  it.live("GET /log has the last lines, GET /timeline the earlier starts, GET /activity the last hour", () =>
    Effect.gen(function* () {
      const { port } = yield* open({ recentLog: lines })
      yield* busyCompute
      const json = (path: string) => Effect.map(ask(port, "GET", path), ({ text }) => JSON.parse(text))
      assert.deepStrictEqual(yield* json("/log"), { lines: lines() })
      const timeline = yield* json("/timeline")
      assert.deepStrictEqual(
        [timeline.total_ms, timeline.earlier.map((one: { readonly total_ms: number }) => one.total_ms)],
        [554, [1662, 554]]
      )
      const { last_hour: hour } = yield* json("/activity")
      assert.strictEqual(hour.length, 60)
      const used = hour.filter(({ because }: { readonly because: ReadonlyArray<string> }) => because.includes("client"))
      assert.isAtLeast(used.length, 6)
      assert.deepStrictEqual([hour.at(-1).served, hour.at(-1).because.includes("hold")], [true, true])
      assert.isFalse(hour[0].served)
    }).pipe(Effect.provide(inMemoryServices))
  )
})
