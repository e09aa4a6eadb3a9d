/**
 * Ports: who listens where, who is refused one, and how the server closes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import { once } from "node:events"
import { type AddressInfo, connect, createServer } from "node:net"
import { networkInterfaces } from "node:os"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { Promotions } from "../../src/compute/Promotions.ts"
import { unverified } from "../../src/http/authorize.ts"
import { httpServer } from "../../src/http/Server.ts"
import type { Verify } from "../../src/http/Verifier.ts"
import { anyOptions, ask, inBackground, join, inMemoryServices, open, reach, refusedOf } from "./testServer.ts"
import { verifierThat } from "./tokens.ts"

/** Accepts or refuses a TCP connection. */
const accepts = (host: string, port: number): Effect.Effect<boolean> =>
  Effect.callback<boolean>((resume) => {
    const socket = connect(port, host)
    socket.once("connect", () => resume(Effect.succeed(true)))
    socket.once("error", () => resume(Effect.succeed(false)))
    return Effect.sync(() => socket.destroy())
  })

const outward = Object.values(networkInterfaces())
  .flat()
  .find((face) => face?.family === "IPv4" && !face.internal)?.address

const busyPort = Effect.acquireRelease(
  Effect.promise(async () => {
    const server = createServer().listen(0, "127.0.0.1")
    await once(server, "listening")
    return server
  }),
  (server) => Effect.sync(() => server.close())
)

describe("before it is known whether there are keys", () => {
  it.live("the status of an empty compute is everybody's but web pages', and the rest waits for the keys", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* state.note({ waitingFor: "the spec", error: "between us" })
      const options = { ...anyOptions, verifier: verifierThat(() => Effect.fail(unverified)) }
      const { guard, port, serve } = yield* httpServer(options)
      const early = yield* ask(port, "GET", "/status")
      assert.strictEqual(early.status, 200)
      assert.deepInclude(JSON.parse(early.text), { status: "empty", waiting_for: "the spec" })
      const foreign = { headers: { origin: "https://elsewhere.example" } }
      assert.strictEqual((yield* ask(port, "GET", "/status", foreign)).status, 403)
      const probe = yield* ask(port, "GET", "/readyz")
      assert.strictEqual(probe.status, 503)
      assert.include(probe.text, "compute status is empty: it waits for the spec")

      const waiting = yield* inBackground(ask(port, "POST", "/terminate"))
      yield* guard(options.verifier)
      assert.strictEqual((yield* ask(port, "GET", "/status")).status, 400)
      yield* serve(options)
      const refused = yield* join(waiting)
      assert.deepStrictEqual([refused.status, refusedOf(refused).code], [400, "token_missing"])
      assert.strictEqual((yield* state.now).status, "empty")
    }).pipe(Effect.provide(Promotions.layer), Effect.provide(inMemoryServices))
  )
})

describe("listening", () => {
  for (const [what, port] of [
    ["the HTTP API", "externalPort"],
    ["the internal HTTP API", "internalPort"]
  ] as const) {
    it.live(`a port that is taken is a typed failure at once: ${what}`, () =>
      Effect.gen(function* () {
        const taken = ((yield* busyPort).address() as AddressInfo).port
        const scope = yield* Scope.make()
        const error = yield* open({ externalPort: 0, internalPort: 0, [port]: taken }).pipe(
          Scope.provide(scope),
          Effect.flip
        )
        if (error._tag !== "ListenFailed") return assert.fail(error.message)
        assert.deepStrictEqual([error.what, error.port], [what, taken])
        assert.include(String(error.cause), "EADDRINUSE")
        yield* Scope.close(scope, Exit.void)
      }).pipe(Effect.provide(inMemoryServices))
    )
  }

  it.live("`::` is reached by both families", () =>
    Effect.gen(function* () {
      const { port } = yield* open({ host: "::" })
      assert.strictEqual((yield* ask(port, "GET", "/livez")).status, 200)
      const v6 = yield* Effect.promise(() =>
        fetch(`http://[::1]:${port}/livez`).then(
          ({ status }) => status,
          () => "no IPv6"
        )
      )
      assert.include([200, "no IPv6"], v6)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("the internal port is reached from this machine alone", () =>
    Effect.gen(function* () {
      const { internalPort, port } = yield* open({ host: "::", internalPort: 0 })
      assert.isTrue(yield* accepts("127.0.0.1", internalPort ?? 0))
      if (outward !== undefined) {
        assert.isTrue(yield* accepts(outward, port))
        assert.isFalse(yield* accepts(outward, internalPort ?? 0))
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("each port serves its own routes; one port alone serves all", () =>
    Effect.gen(function* () {
      yield* reach("init")
      const two = yield* open({ internalPort: 0 })
      const inner = two.internalPort ?? 0
      const grants = { json: { database: "d", schema: "s", privileges: [], role: "r" } }
      assert.strictEqual((yield* ask(two.port, "POST", "/grants", grants)).status, 404)
      assert.strictEqual((yield* ask(inner, "POST", "/grants", grants)).status, 412)
      assert.strictEqual((yield* ask(two.port, "GET", "/status")).status, 200)
      assert.strictEqual((yield* ask(inner, "GET", "/status")).status, 404)
      assert.strictEqual((yield* ask(inner, "GET", "/livez")).status, 200)
      const one = yield* open({ apiVersion: "2024" })
      assert.isNull(one.internalPort)
      assert.strictEqual((yield* ask(one.port, "POST", "/grants", grants)).status, 412)
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("closing", () => {
  it.live("an answer on its way arrives, then the port is free", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      const scope = yield* Scope.make()
      const { port } = yield* open().pipe(Scope.provide(scope))
      const asked = yield* inBackground(ask(port, "POST", "/terminate"))
      yield* state.until("termination_pending_fast")
      const closing = yield* inBackground(Scope.close(scope, Exit.void))
      yield* state.send("PostgresGone", { flushLsn: 0x20n })
      assert.deepStrictEqual(JSON.parse((yield* join(asked)).text), { lsn: "0/20" })
      yield* join(closing)
      assert.isFalse(yield* accepts("127.0.0.1", port))
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("silent peers and a caller that waits do not keep it open", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const scope = yield* Scope.make()
      const { port } = yield* open().pipe(Scope.provide(scope))
      const silent = ["GET /sta", "POST /configure HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"].map(
        (bytes) => {
          const socket = connect(port, "127.0.0.1")
          socket.on("error", () => undefined)
          socket.write(bytes)
          return socket
        }
      )
      const waiting = yield* inBackground(Effect.exit(ask(port, "POST", "/terminate")))
      yield* (yield* ComputeState).until("termination_pending_fast")
      yield* Scope.close(scope, Exit.void)
      assert.isFalse(yield* accepts("127.0.0.1", port))
      yield* join(waiting)
      for (const socket of silent) socket.destroy()
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("tokens", () => {
  /** Knows two tokens by heart. */
  const verify: Verify = (token) => {
    const text = Redacted.value(token)
    return text === "ours"
      ? Effect.succeed({ compute_id: "compute-1" })
      : text === "theirs"
        ? Effect.succeed({ compute_id: "compute-2" })
        : Effect.fail(unverified)
  }
  const verifier = verifierThat(verify)
  const bearer = (token: string) => ({ headers: { authorization: token } })

  it.live("guard every route that is not open, before anything else happens", () =>
    Effect.gen(function* () {
      const { port } = yield* open({ verifier })
      const guarded = [
        ["GET", "/status"],
        ["POST", "/configure"],
        ["POST", "/terminate"],
        ["GET", "/insights"],
        ["POST", "/grants"]
      ] as const
      for (const [method, path] of guarded) {
        for (const [token, code] of [
          ["", 400],
          ["Basic ours", 400],
          ["Bearer", 400],
          ["Bearer nobody", 401],
          ["Bearer theirs", 403]
        ] as const) {
          const answer = yield* ask(port, method, path, token === "" ? {} : bearer(token))
          assert.strictEqual(answer.status, code, `${method} ${path} ${token}`)
          assert.notInclude(answer.text, "theirs")
          refusedOf(answer)
        }
      }
      assert.strictEqual((yield* (yield* ComputeState).now).status, "empty")
      assert.strictEqual((yield* ask(port, "GET", "/status", bearer("Bearer ours"))).status, 200)
      assert.strictEqual((yield* ask(port, "GET", "/status", bearer("bearer ours"))).status, 200)
      for (const path of ["/livez", "/metrics", "/openapi.json"])
        assert.strictEqual((yield* ask(port, "GET", path)).status, 200)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("are not asked for on the internal port; the 2024 API asks for them when there are keys", () =>
    Effect.gen(function* () {
      const { internalPort, port } = yield* open({ verifier, internalPort: 0 })
      const grants = { json: { database: "d", schema: "s", privileges: [], role: "r" } }
      assert.strictEqual((yield* ask(internalPort ?? 0, "POST", "/grants", grants)).status, 412)
      assert.strictEqual((yield* ask(port, "GET", "/status")).status, 400)
      for (const [keys, status] of [
        [verifier, 400],
        [null, 200]
      ] as const) {
        const old = yield* open({ verifier: keys, apiVersion: "2024" })
        assert.strictEqual((yield* ask(old.port, "GET", "/status")).status, status)
      }
    }).pipe(Effect.provide(inMemoryServices))
  )
})
