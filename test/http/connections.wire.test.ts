/**
 * Room for probes: whatever strangers do with their connections, a newcomer is answered, and what is at work goes on.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { type ConnectionLimits, limitsFor } from "../../src/http/connections.ts"
import { selfSigned } from "../support/certificates.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { eventually } from "../support/waiting.ts"
import { peer, request, securePeer, smallPort } from "./smallPort.ts"

const limits: ConnectionLimits = { open: 8, silentOfPeer: 8, busy: 6, watching: 4 }
const another = "127.0.0.2"

const many = <A, E, R>(count: number, make: Effect.Effect<A, E, R>) =>
  Effect.forEach(Array.from({ length: count }), () => make)

/** A stranger's probe, on a connection of its own. */
const probe = Effect.fnUntraced(function* (port: number) {
  const one = yield* peer(port)
  one.send(request("/livez"))
  yield* one.hears(/ 200 OK[^]*alive$/)
})

const certificate = Effect.gen(function* () {
  const folder = yield* temporaryFolder
  const { certificate, key } = selfSigned("ec-p256")
  const files = { certPath: path.join(folder, "cert.pem"), keyPath: path.join(folder, "key.pem") }
  fs.writeFileSync(files.certPath, certificate)
  fs.writeFileSync(files.keyPath, key)
  return files
})

describe("limits", () => {
  it("leave descriptors for Postgres and files, and requests fewer than connections", () => {
    for (const descriptors of [64, 128, 256, 300, 1024, 4096, 65_536, 1_048_576]) {
      const { busy, open, silentOfPeer, watching } = limitsFor(descriptors)
      assert.isAtMost(open, Math.max(16, descriptors - 128), `${descriptors}`)
      assert.isTrue(0 < watching && watching < busy && busy < open && silentOfPeer < open, `${descriptors}`)
    }
    assert.isAtLeast(limitsFor(20_000).watching, 1500)
  })
})

describe("silent connections", () => {
  it.live("the longest silent one leaves for a newcomer; one that asked meanwhile stays", () =>
    Effect.gen(function* () {
      const { port, traffic } = yield* smallPort(limits)
      const all = yield* many(limits.open, peer(port))
      all[0]?.send(request("/livez"))
      yield* all[0]?.hears(/alive$/) ?? Effect.void
      for (const gone of [1, 2, 3]) {
        yield* probe(port)
        yield* all[gone]?.closed ?? Effect.void
      }
      assert.deepStrictEqual(
        all.map((one) => one.isClosed()),
        [false, true, true, true, false, false, false, false]
      )
      assert.include(traffic.text(), 'compute_ctl_http_connections_dropped_total{reason="silent"} 3\n')
    })
  )

  it.live("a request that comes in drops is silence, however lively its drops are", () =>
    Effect.gen(function* () {
      const { port } = yield* smallPort(limits)
      const all = yield* many(limits.open, peer(port))
      for (const drop of request("/livez").slice(0, -2)) {
        for (const one of all) if (!one.isClosed()) one.send(drop)
        yield* probe(port)
      }
      yield* Effect.forEach(all, (one) => one.closed)
    })
  )

  // Only Linux has every address of 127.0.0.0/8 on its loopback.
  if (process.platform === "linux")
    it.live("a peer with more than its share loses its own, not another's", () =>
      Effect.gen(function* () {
        const { port } = yield* smallPort({ ...limits, silentOfPeer: 4 })
        const quiet = yield* peer(port, another)
        const greedy = yield* many(3 * limits.open, peer(port))
        yield* Effect.forEach(greedy.slice(0, -4), (one) => one.closed)
        quiet.send(request("/livez"))
        yield* quiet.hears(/alive$/)
        assert.deepStrictEqual(
          greedy.slice(-4).map((one) => one.isClosed()),
          [false, false, false, false]
        )
      })
    )
})

describe("requests under way", () => {
  it.live("are not given up for newcomers; too many are refused, and probes are answered all the while", () =>
    Effect.gen(function* () {
      const { held, port } = yield* smallPort(limits)
      const waiting = yield* many(limits.busy, peer(port))
      for (const one of waiting) one.send(request("/wait"))
      yield* eventually("all that may wait", () => held() === limits.busy)
      const refused = yield* peer(port)
      refused.send(request("/wait"))
      yield* refused.closed
      assert.match(refused.heard(), /^HTTP\/1\.1 503 [^]*retry-after: 1[^]*"code":"too_many_requests"/)
      yield* many(3 * limits.open, probe(port))
      assert.isFalse(waiting.some((one) => one.isClosed()))
      waiting[0]?.leave()
      yield* eventually("room for another", () => held() === limits.busy - 1)
      const next = yield* peer(port)
      next.send(request("/wait"))
      yield* eventually("the other", () => held() === limits.busy)
    })
  )

  it.live("of a peer that left are not worked on, neither the first in line nor those behind it", () =>
    Effect.gen(function* () {
      const { held, port } = yield* smallPort(limits)
      const one = yield* peer(port)
      one.send(request("/wait").repeat(3))
      yield* eventually("its requests", () => held() === 3)
      one.leave()
      yield* eventually("their end", () => held() === 0)
      const others = yield* many(limits.busy, peer(port))
      for (const other of others) other.send(request("/wait"))
      yield* eventually("room for as many as before", () => held() === limits.busy)
    })
  )
})

describe("TLS", () => {
  it.live("a request under way stays, a silent connection leaves, before and after its handshake", () =>
    Effect.gen(function* () {
      const { held, port } = yield* smallPort(limits, yield* certificate)
      const busy = yield* securePeer(port)
      busy.send(request("/wait"))
      yield* eventually("its request", () => held() === 1)
      const shaken = yield* securePeer(port)
      const unshaken = yield* peer(port)
      for (let n = 0; n < limits.open; n++) {
        const newcomer = yield* securePeer(port)
        newcomer.send(request("/livez"))
        yield* newcomer.hears(/alive$/)
      }
      yield* shaken.closed
      yield* unshaken.closed
      assert.isFalse(busy.isClosed())
      busy.leave()
      yield* eventually("its end", () => held() === 0)
    })
  )

  it.live("a handshake that does not come is given up, and keeps no port open", () =>
    Effect.gen(function* () {
      const files = yield* certificate
      const scope = yield* Scope.make()
      const { port } = yield* smallPort(limits, files).pipe(Scope.provide(scope))
      const first = yield* peer(port)
      yield* first.closed
      const second = yield* peer(port)
      yield* Scope.close(scope, Exit.void)
      yield* second.closed
    })
  )
})
