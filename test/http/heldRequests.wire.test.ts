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
import type { FastPath } from "../../src/http/probes.ts"
import { listenExternal } from "../../src/http/Server.ts"
import { anyOptions, ask, inBackground } from "./testServer.ts"

/** Answers the probe, and completes `passed` when a request came that it does not answer. */
const onlyLivez =
  (passed: Deferred.Deferred<void>): FastPath =>
  (request, response) => {
    if (request.url === "/livez") {
      response.end("alive")
      return true
    }
    Deferred.doneUnsafe(passed, Effect.void)
    return false
  }

const listening = Effect.gen(function* () {
  const passed = yield* Deferred.make<void>()
  const {
    listening: [first],
    port
  } = yield* listenExternal({ ...anyOptions, host: "127.0.0.1" }, onlyLivez(passed))
  assert.exists(first)
  return { passed, port, first }
})

describe("before the routes are there", () => {
  it.live("probes are answered; everything else is held, and answered once the routes are there", () =>
    Effect.gen(function* () {
      const { first, passed, port } = yield* listening
      const held = yield* Effect.forkScoped(ask(port, "POST", "/configure", { json: { some: "body" } }), {
        startImmediately: true
      })
      yield* Deferred.await(passed)
      assert.strictEqual((yield* ask(port, "GET", "/livez")).text, "alive")
      assert.isUndefined(held.pollUnsafe())
      yield* first.server.serve(Effect.succeed(HttpServerResponse.text("routed")))
      first.open()
      assert.strictEqual((yield* Fiber.join(held)).text, "routed")
      assert.strictEqual((yield* ask(port, "GET", "/anything")).text, "routed")
      assert.strictEqual((yield* ask(port, "GET", "/livez")).text, "alive")
    })
  )

  it.live("a peer that left meanwhile is not answered, and does not disturb one that stayed", () =>
    Effect.gen(function* () {
      const { first, passed, port } = yield* listening
      const socket = connect(port, "127.0.0.1")
      socket.write("GET /gone HTTP/1.1\r\nhost: x\r\n\r\n")
      yield* Deferred.await(passed)
      const gone = once(socket, "close")
      socket.destroy()
      yield* Effect.promise(() => gone)
      const stayed = yield* inBackground(ask(port, "GET", "/stayed"))
      const reached: Array<string> = []
      yield* ask(port, "GET", "/livez")
      yield* first.server.serve(
        Effect.sync(() => {
          reached.push("one")
          return HttpServerResponse.text("routed")
        })
      )
      first.open()
      assert.strictEqual((yield* Fiber.join(stayed)).text, "routed")
      assert.deepStrictEqual(reached, ["one"])
    })
  )

  it.live(
    "held requests are bounded: the rest gets a 503",
    () =>
      Effect.gen(function* () {
        const { first, port } = yield* listening
        const socket = connect(port, "127.0.0.1")
        let text = ""
        socket.setEncoding("latin1").on("data", (chunk: string) => (text += chunk))
        const asked = 4100
        socket.write(
          "GET /held HTTP/1.1\r\nhost: x\r\n\r\n".repeat(asked - 1) +
            "GET /held HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        const ended = once(socket, "close")
        // The port reads in order: once a later request is answered, the last of them has been refused.
        yield* ask(port, "GET", "/livez")
        yield* first.server.serve(Effect.succeed(HttpServerResponse.text("routed")))
        first.open()
        yield* Effect.promise(() => ended)
        const count = (pattern: RegExp) => text.match(pattern)?.length ?? 0
        assert.strictEqual(count(/HTTP\/1\.1 \d/g), asked)
        assert.strictEqual(count(/HTTP\/1\.1 503 /g), asked - 4096)
        assert.include(text, '"code":"not_open"')
      }),
    60_000
  )
})
