/**
 * The moment in which a port listens and its routes are still being made: nobody is refused, the probes are answered.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import { once } from "node:events"
import { connect } from "node:net"
import { admitter } from "../../src/http/Auth.ts"
import { prepare } from "../../src/http/cachedBodies.ts"
import { type ConnectionLimits, Connections } from "../../src/http/connections.ts"
import { makeDispatcher } from "../../src/http/dispatch.ts"
import { listenExternal } from "../../src/http/listen.ts"
import { Router } from "../../src/http/router.ts"
import { makeTraffic } from "../../src/http/traffic.ts"
import { anyOptions, ask, inBackground } from "./testServer.ts"

const limits: ConnectionLimits = { open: 64, silentOfPeer: 32, busy: 48, watching: 32 }

/** A port that knows `/livez`, and its other routes when the test adds them. */
const listening = Effect.gen(function* () {
  const passed = yield* Deferred.make<void>()
  const router = new Router()
  const alive = prepare(200, "text/plain", "alive")
  router.add("GET", "/livez", { access: "open", cached: () => alive, handler: null })
  const traffic = makeTraffic()
  const connections = new Connections(limits, traffic)
  const dispatcher = makeDispatcher({
    router,
    admit: admitter({ verifier: null, computeId: null, allowedHosts: new Set() }),
    traffic,
    connections
  })
  const onRequest: typeof dispatcher.onRequest = (request, response) => {
    dispatcher.onRequest(request, response)
    if (request.url !== "/livez") Deferred.doneUnsafe(passed, Effect.void)
  }
  const { port } = yield* listenExternal(anyOptions, { ...dispatcher, onRequest }, connections)
  const open = (reached: Array<string> = []) => {
    const handler = () =>
      Effect.sync(() => {
        reached.push("one")
        return HttpServerResponse.text("routed")
      })
    router.add("POST", "/configure", { access: "guarded", cached: null, handler })
    router.add("GET", "/operations/:id", { access: "guarded", cached: null, handler })
    return dispatcher.open
  }
  return { passed, port, open, traffic }
})

describe("before the routes are there", () => {
  it.live("probes are answered; everything else is held, and answered once the routes are there", () =>
    Effect.gen(function* () {
      const { open, passed, port, traffic } = yield* listening
      const held = yield* Effect.forkScoped(ask(port, "POST", "/configure", { json: { some: "body" } }), {
        startImmediately: true
      })
      yield* Deferred.await(passed)
      assert.strictEqual((yield* ask(port, "GET", "/livez")).text, "alive")
      assert.isUndefined(held.pollUnsafe())
      yield* open()
      assert.strictEqual((yield* Fiber.join(held)).text, "routed")
      assert.strictEqual((yield* ask(port, "GET", "/operations/x")).text, "routed")
      assert.strictEqual((yield* ask(port, "GET", "/livez")).text, "alive")
      assert.strictEqual((yield* ask(port, "GET", "/nowhere")).status, 404)
      // Its route was not known when it came.
      assert.include(traffic.text(), 'requests_total{method="POST",route="/configure",status="200"} 1\n')
    })
  )

  it.live("a peer that left meanwhile is not answered, and does not disturb one that stayed", () =>
    Effect.gen(function* () {
      const { open, passed, port } = yield* listening
      const socket = connect(port, "127.0.0.1")
      socket.write("GET /operations/gone HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2))
      yield* Deferred.await(passed)
      const gone = once(socket, "close")
      socket.destroy()
      yield* Effect.promise(() => gone)
      const stayed = yield* inBackground(ask(port, "GET", "/operations/stayed"))
      const reached: Array<string> = []
      yield* ask(port, "GET", "/livez")
      yield* open(reached)
      assert.strictEqual((yield* Fiber.join(stayed)).text, "routed")
      assert.deepStrictEqual(reached, ["one"])
    })
  )

  it.live(
    "held requests are bounded: the rest gets a 503, and probes are answered all the while",
    () =>
      Effect.gen(function* () {
        const { open, port } = yield* listening
        const socket = connect(port, "127.0.0.1")
        let text = ""
        socket.setEncoding("latin1").on("data", (chunk: string) => (text += chunk))
        const ended = once(socket, "close")
        socket.write("GET /operations/x HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(limits.busy + 1))
        // The port reads in order: once a later request is answered, the last of them has been refused.
        assert.strictEqual((yield* ask(port, "GET", "/livez")).text, "alive")
        yield* open()
        yield* Effect.promise(() => ended)
        const count = (pattern: RegExp) => text.match(pattern)?.length ?? 0
        assert.deepStrictEqual([count(/HTTP\/1\.1 200 /g), count(/HTTP\/1\.1 503 /g)], [limits.busy, 1])
        assert.include(text, '"code":"too_many_requests"')
      }),
    60_000
  )
})
