/**
 * Who listens where, by `/proc`: this process with real sockets.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import { listensOn } from "../../src/platform/listeners.ts"
import { freePort } from "../support/ports.ts"

const listening = (host: string, port: number) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const server = net.createServer()
      await once(server.listen({ host, port, ipv6Only: true }), "listening")
      return server
    }),
    (server) => Effect.sync(() => server.close())
  )

const asks = (port: number, ...addresses: ReadonlyArray<string>) =>
  Effect.promise(() => Promise.all(addresses.map((address) => listensOn(process.pid, address, port))))

const onLinux = fs.existsSync("/proc/self/net/tcp")
const hasIpv6 = fs.existsSync("/proc/self/net/if_inet6")

describe.each(onLinux ? [true] : [])("a process that listens", () => {
  it.effect("on one address has that one alone, and on all has each of its family", () =>
    Effect.gen(function* () {
      const [one, all] = [yield* freePort, yield* freePort]
      yield* listening("127.0.0.1", one)
      yield* listening("0.0.0.0", all)
      assert.deepStrictEqual(yield* asks(one, "127.0.0.1", "127.0.0.2", "::1"), [true, false, false])
      assert.deepStrictEqual(yield* asks(all, "127.0.0.1", "127.0.0.2", "::1"), [true, true, false])
      if (!hasIpv6) return
      const [loopback, every] = [yield* freePort, yield* freePort]
      yield* listening("::1", loopback)
      yield* listening("::", every)
      assert.deepStrictEqual(yield* asks(loopback, "::1", "fe80::1", "127.0.0.1"), [true, false, false])
      assert.deepStrictEqual(yield* asks(every, "::1", "fe80::1", "127.0.0.1"), [true, true, false])
    })
  )

  it.effect("is told from others: a socket of somebody else's is not its own, and nothing is known of no process", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      yield* listening("127.0.0.1", port)
      assert.isFalse(yield* Effect.promise(() => listensOn(process.ppid, "127.0.0.1", port)))
      assert.isNull(yield* Effect.promise(() => listensOn(2 ** 22 + 1, "127.0.0.1", port)))
    })
  )
})
