/**
 * Many watch the status and some of them never read: what waits for them in memory is bounded, and they are dropped.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import { once } from "node:events"
import { createServer } from "node:http"
import { connect } from "node:net"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { bodyOf } from "../../src/http/refusals.ts"
import { makeTraffic } from "../../src/http/traffic.ts"
import { maxWaiting, Watchers } from "../../src/http/watchers.ts"
import { eventually } from "../support/waiting.ts"
import { ask, inBackground, inMemoryServices, open } from "./testServer.ts"

const most = 24

/** A server that has nothing but the stream. */
const streamOnly = Effect.gen(function* () {
  const traffic = makeTraffic()
  const watchers = new Watchers(yield* ComputeState, { apiVersion: "head", most, traffic })
  yield* inBackground(watchers.actor.run)
  const server = createServer((_, response) => {
    Effect.runFork(
      Effect.catch(watchers.watch(response), (refused) =>
        Effect.sync(() => response.writeHead(refused.status).end(JSON.stringify(bodyOf(refused))))
      )
    )
  })
  yield* Effect.acquireRelease(
    Effect.promise(() => once(server.listen(0, "127.0.0.1"), "listening")),
    () =>
      Effect.sync(() => {
        server.closeAllConnections()
        server.close()
      })
  )
  const address = server.address()
  return { port: typeof address === "object" && address !== null ? address.port : 0, traffic, watchers }
})

/** Asks for the stream, and reads it or not. Without reading it, it hears the head at most. */
const watcher = (port: number, reads: boolean) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const socket = connect(port, "127.0.0.1")
      let last = ""
      let closed = false
      socket.on("error", () => undefined).on("close", () => (closed = true))
      if (reads) socket.setEncoding("latin1").on("data", (chunk: string) => (last = (last + chunk).slice(-200)))
      await once(socket, "connect")
      socket.write("GET /status/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
      return { socket, last: () => last, isClosed: () => closed }
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

const watching = (port: number, count: number, reads: boolean) =>
  Effect.forEach(Array.from({ length: count }), () => watcher(port, reads))

/** What an event is larger than this by is its frame. */
const error = "x".repeat(64 * 1024)
const largestEvent = error.length + 1024

describe("watchers of the status", () => {
  it.live(
    "who never reads is dropped, and what waits for all stays within its bound meanwhile; who reads misses nothing",
    () =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        const { port, traffic, watchers } = yield* streamOnly
        const readers = yield* watching(port, most / 2, true)
        yield* Effect.forEach(readers, (one) => eventually("the first event", () => one.last().includes('"status"')))
        yield* watching(port, most / 2, false)
        const dropped = () => Number(/dropped_total\{reason="slow"\} (\d+)/.exec(traffic.text())?.[1] ?? 0)
        let highest = 0
        for (let n = 0; dropped() < most / 2; n++) {
          assert.isBelow(n, 1000, "what the kernel takes for them is bounded, too")
          yield* state.note({ error: `${error} event ${n}.` })
          // One event after the other: readers are as fast as they can be.
          for (const one of readers) yield* eventually(`event ${n}`, () => one.last().includes(`event ${n}.`))
          highest = Math.max(highest, watchers.waiting)
          assert.isAtMost(watchers.waiting, (most - dropped()) * (maxWaiting + largestEvent))
        }
        assert.isAbove(highest, maxWaiting)
        assert.strictEqual(dropped(), most / 2)
        yield* eventually("nothing that waits for those who read", () => watchers.waiting === 0)
        assert.isFalse(readers.some((one) => one.isClosed()))
      }).pipe(Effect.provide(inMemoryServices))
  )

  it.effect(
    "one for whom something waits through a whole heartbeat is dropped; one that reads is kept, and hears it",
    () =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        const { port, traffic, watchers } = yield* streamOnly
        const reader = yield* watcher(port, true)
        const asleep = yield* watcher(port, false)
        yield* eventually("both", () => reader.last().includes('"status"') && asleep.socket.bytesWritten > 0)
        for (let n = 0; watchers.waiting === 0; n++) {
          yield* state.note({ error: `${error} event ${n}.` })
          yield* eventually(`event ${n}`, () => reader.last().includes(`event ${n}.`))
        }
        assert.isAtMost(watchers.waiting, maxWaiting + largestEvent)
        yield* TestClock.adjust("15 seconds")
        yield* eventually("a heartbeat", () => reader.last().includes(": still here\n\n"))
        assert.include(traffic.text(), 'reason="slow"} 0\n')
        yield* TestClock.adjust("15 seconds")
        assert.include(traffic.text(), 'reason="slow"} 1\n')
        assert.isFalse(reader.isClosed())
      }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("more than the most are refused, and there is room again when one leaves", () =>
    Effect.gen(function* () {
      const { port, watchers } = yield* streamOnly
      const all = yield* watching(port, most, true)
      yield* Effect.forEach(all, (one) => eventually("its first event", () => one.last().includes('"status"')))
      const refused = yield* ask(port, "GET", "/status/stream")
      assert.deepStrictEqual([refused.status, JSON.parse(refused.text).code], [503, "too_many_watchers"])
      all[0]?.socket.destroy()
      yield* eventually("room", () =>
        Effect.gen(function* () {
          const next = yield* watcher(port, true)
          yield* eventually("an answer", () => next.last() !== "" || next.isClosed())
          return next.last().includes('"status"')
        })
      )
      assert.strictEqual(watchers.waiting, 0)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a stream says that no proxy may keep it, and asking for its head does not begin one", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      for (const [path, accept] of [
        ["/status/stream", "*/*"],
        ["/status", "text/event-stream"]
      ] as const) {
        const { headers, status, text } = yield* ask(port, "HEAD", path, { headers: { accept } })
        assert.deepStrictEqual(
          [status, text, ...["content-type", "cache-control", "x-accel-buffering"].map((name) => headers.get(name))],
          [200, "", "text/event-stream", "no-store", "no"]
        )
      }
    }).pipe(Effect.provide(inMemoryServices))
  )
})
