/**
 * Where ports of this machine alone listen: on each loopback address that it has.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { networkInterfaces } from "node:os"
import { prepare } from "../../src/http/cachedBodies.ts"
import { Connections, limitsFor } from "../../src/http/connections.ts"
import { makeDispatcher } from "../../src/http/dispatch.ts"
import { listenInternal } from "../../src/http/listen.ts"
import { Router } from "../../src/http/router.ts"
import { makeTraffic } from "../../src/http/traffic.ts"
import { printHostPort } from "../../src/pgwire/address.ts"
import { ask, inMemoryServices, open } from "./testServer.ts"

/** For documentation (RFC 5737): no machine has it. */
const nobodys = "192.0.2.1"

const listening = Effect.fnUntraced(function* (addresses: ReadonlyArray<string>) {
  const traffic = makeTraffic()
  const connections = new Connections(limitsFor(1024), traffic)
  const router = new Router()
  const alive = prepare(200, "text/plain", "alive")
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

describe("the external port", () => {
  it.live("on localhost listens on every loopback address, with one port", () =>
    Effect.gen(function* () {
      const { port } = yield* open({ host: "localhost" })
      const addresses = Object.values(networkInterfaces())
        .flat()
        .flatMap((one) => (one?.internal === true && ["127.0.0.1", "::1"].includes(one.address) ? [one.address] : []))
      assert.isNotEmpty(addresses)
      for (const address of addresses) {
        const answer = yield* Effect.promise(() => fetch(`http://${printHostPort({ host: address, port })}/livez`))
        assert.strictEqual(answer.status, 200, address)
      }
    }).pipe(Effect.provide(inMemoryServices))
  )
})
