/**
 * Where the internal port listens: on each loopback address that the machine has.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { Connections, limitsFor } from "../../src/http/connections.ts"
import { makeDispatcher } from "../../src/http/dispatch.ts"
import { listenInternal } from "../../src/http/listen.ts"
import { Router } from "../../src/http/router.ts"
import { makeTraffic } from "../../src/http/traffic.ts"
import { ask } from "./testServer.ts"

/** For documentation (RFC 5737): no machine has it. */
const nobodys = "192.0.2.1"

const listening = Effect.fnUntraced(function* (addresses: ReadonlyArray<string>) {
  const traffic = makeTraffic()
  const connections = new Connections(limitsFor(1024), traffic)
  const router = new Router()
  const alive = { status: 200, type: "text/plain", body: "alive", length: 5 }
  router.add("GET", "/livez", { access: "open", cached: () => alive, handler: null })
  const dispatcher = makeDispatcher({ router, admit: () => Exit.succeed({ admin: false }), traffic, connections })
  return yield* listenInternal(0, dispatcher, connections, addresses)
})

describe("the internal port", () => {
  for (const addresses of [
    [nobodys, "127.0.0.1"],
    ["127.0.0.1", nobodys]
  ]) {
    it.live(`${addresses.join(" and ")}: listens on the one that there is`, () =>
      Effect.gen(function* () {
        const { port } = yield* listening(addresses)
        assert.strictEqual((yield* ask(port, "GET", "/livez")).text, "alive")
      })
    )
  }

  it.live("without any of its addresses it fails, and says which port it was", () =>
    Effect.gen(function* () {
      const failure = yield* Effect.flip(listening([nobodys]))
      assert.strictEqual(failure._tag, "ListenFailed")
      assert.match(failure.message, /the internal HTTP API/)
    })
  )
})
