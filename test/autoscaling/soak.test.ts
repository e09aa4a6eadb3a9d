/**
 * An hour of an agent's life on virtual time: nothing piles up, no timer is left, every answer comes.
 */
import { assert, describe, it } from "@effect/vitest"
import type * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import { TestClock } from "effect/testing"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { serveAgent, type Message, type Peer, type AgentOptions } from "../../src/autoscaling/agent.ts"
import { MiB, thresholdOf, usableOf } from "../../src/autoscaling/decisions.ts"
import type { FileCache } from "../../src/autoscaling/FileCache.ts"
import { VmMetrics } from "../../src/autoscaling/metrics.ts"
import { CgroupUnusable, WireFailed } from "../../src/errors/Failure.ts"

const GiB = 1024 * MiB

/** A peer in memory: receives what the test sends, and keeps what the monitor sends. */
const memoryPeer = Effect.gen(function* () {
  const inbox = yield* Queue.unbounded<Message, Cause.Done>()
  const received: Array<string> = []
  let closed: { readonly code: number; readonly reason: string } | undefined
  const peer: Peer = {
    name: "memory",
    receive: Queue.take(inbox),
    send: (text) => Effect.sync(() => void received.push(text)),
    close: (code, reason) => Effect.sync(() => void (closed ??= { code, reason })),
    drop: () => undefined
  }
  const send = (text: string) => Queue.offer(inbox, { _tag: "Text", text })
  return { peer, send, received, leave: Queue.end(inbox), closed: () => closed }
})

const collectGarbage = (() => {
  setFlagsFromString("--expose-gc")
  return runInNewContext("gc") as () => void
})()

const heapUsed = () => {
  collectGarbage()
  collectGarbage()
  return process.memoryUsage().heapUsed
}

const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length

describe("samples that never come", () => {
  it.effect("let a downscale be denied for five seconds, and then be without an answer", () =>
    Effect.gen(function* () {
      const { received, peer, send } = yield* memoryPeer
      const broken = Effect.fail(new CgroupUnusable({ cgroup: "memory", detail: "its memory.stat cannot be read" }))
      const options: AgentOptions = {
        totalMemory: Effect.succeed(2 * GiB),
        cgroup: Effect.succeed({ folder: "memory", anonymous: broken }),
        policy: "refuse",
        warnUnwatchable: () => Effect.void,
        openCache: Effect.succeed(null)
      }
      yield* Effect.forkChild(serveAgent(peer, Effect.never, options), { startImmediately: true })
      yield* send(`{"min":1,"max":1}`)
      const ask = (id: number) =>
        send(JSON.stringify({ content: { target: { cpu: 1, mem: GiB } }, type: "DownscaleRequest", id }))
      yield* TestClock.adjust("4900 millis")
      yield* ask(2)
      yield* TestClock.adjust("200 millis")
      yield* ask(4)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(received, [
        `{"version":1}`,
        `{"type":"DownscaleResult","Ok":false,"Status":"haven't received enough cgroup memory stats yet","id":2}`,
        `{"type":"InternalError","error":"failed to downscale","id":4}`
      ])
      assert.deepInclude(yield* (yield* VmMetrics).now, {
        samples: 0,
        upscaleRequests: 0,
        downscalesDenied: 1,
        downscalesFailed: 1
      })
    }).pipe(Effect.provide(VmMetrics.layer))
  )
})

describe("an hour", () => {
  it.effect(
    "of health checks, pressure, scaling, unusable messages, and a file cache that comes late and fails at times",
    () =>
      Effect.gen(function* () {
        const { closed, received, leave, peer, send } = yield* memoryPeer
        let anonymous = 100 * MiB
        let opened = 0
        let alive = 0
        let resizes = 0
        const cache: FileCache = {
          found: 0,
          resize: (wanted) =>
            ++resizes % 7 === 0
              ? Effect.fail(new WireFailed({ operation: "query", peer: "memory", detail: "connection lost" }))
              : Effect.succeed(wanted)
        }
        const options: AgentOptions = {
          totalMemory: Effect.succeed(2 * GiB),
          cgroup: Effect.succeed({ folder: "memory", anonymous: Effect.sync(() => anonymous) }),
          policy: "refuse",
          warnUnwatchable: () => Effect.void,
          openCache: Effect.succeed(
            Effect.gen(function* () {
              if (++opened < 10)
                return yield* new WireFailed({ operation: "connect", peer: "memory", detail: "connection refused" })
              yield* Effect.acquireRelease(
                Effect.sync(() => alive++),
                () => Effect.sync(() => alive--)
              )
              return cache
            })
          )
        }
        const timersBefore = timers()
        const connection = yield* Effect.forkChild(serveAgent(peer, Effect.never, options), { startImmediately: true })
        yield* send(`{"min":1,"max":1}`)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(received.splice(0), [`{"version":1}`])

        let id = 0
        const answers = new Map<string, number>()
        const minute = Effect.fnUntraced(function* (n: number) {
          // Every third minute memory is short; every fifth brings unusable messages.
          anonymous = n % 3 === 0 ? thresholdOf(usableOf(4 * GiB)) : 100 * MiB
          for (let second = 0; second < 60; second += 5) {
            yield* send(`{"content":{},"type":"HealthCheck","id":${(id += 2)}}`)
            if (n % 5 === 0) yield* send(`{"content":{},"type":"Junk","id":${(id += 2)}}`)
            const type = n % 2 === 0 ? "UpscaleNotification" : "DownscaleRequest"
            const content = n % 2 === 0 ? { granted: { cpu: 1, mem: 4 * GiB } } : { target: { cpu: 1, mem: GiB } }
            yield* send(JSON.stringify({ content, type, id: (id += 2) }))
            yield* TestClock.adjust("5 seconds")
          }
          for (const text of received.splice(0)) {
            const type = String((JSON.parse(text) as Record<string, unknown>)["type"])
            answers.set(type, (answers.get(type) ?? 0) + 1)
          }
        })
        yield* Effect.forEach([1, 2, 3, 4, 5], minute, { discard: true })
        const heapBefore = heapUsed()
        yield* Effect.forEach(
          Array.from({ length: 55 }, (_, n) => n + 6),
          minute,
          { discard: true }
        )
        const grown = heapUsed() - heapBefore

        assert.isBelow(grown, 4_000_000, "bytes of heap after 55 more minutes")
        assert.isAtMost(timers() - timersBefore, 2)
        assert.strictEqual(answers.get("HealthCheck"), 720)
        assert.strictEqual(answers.get("InvalidMessage"), 144)
        const counts = yield* (yield* VmMetrics).now
        assert.strictEqual(counts.upscalesConfirmed + counts.upscalesFailed, 360)
        assert.strictEqual(counts.downscalesGranted + counts.downscalesDenied + counts.downscalesFailed, 360)
        for (const count of [
          counts.upscalesFailed,
          counts.downscalesGranted,
          counts.downscalesDenied,
          counts.downscalesFailed
        ]) {
          assert.isAbove(count, 0)
        }
        assert.strictEqual(answers.get("UpscaleConfirmation"), counts.upscalesConfirmed)
        assert.strictEqual(answers.get("DownscaleResult"), counts.downscalesGranted + counts.downscalesDenied)
        assert.strictEqual(answers.get("InternalError"), counts.upscalesFailed + counts.downscalesFailed)
        // The first sample, and ten a second.
        assert.isAtMost(Math.abs(counts.samples - 36_011), 5)
        assert.isAtMost(answers.get("UpscaleRequest") ?? 0, 20 * 60 + 20)
        assert.isAtLeast(answers.get("UpscaleRequest") ?? 0, 10 * 59)
        assert.deepInclude(counts, { connected: 1, connections: 1, sampleFailures: 0 })
        assert.strictEqual(alive, 1)

        yield* leave
        yield* Fiber.join(connection)
        assert.deepStrictEqual(closed(), { code: 1000, reason: "the agent left" })
        assert.strictEqual(alive, 0)
        assert.deepInclude(yield* (yield* VmMetrics).now, { connected: 0 })
      }).pipe(Effect.provide(VmMetrics.layer)),
    60_000
  )

  it.effect("of silence is a minute of it", () =>
    Effect.gen(function* () {
      const { closed, peer, send } = yield* memoryPeer
      const options: AgentOptions = {
        totalMemory: Effect.succeed(GiB),
        cgroup: null,
        policy: "refuse",
        warnUnwatchable: () => Effect.void,
        openCache: Effect.succeed(null)
      }
      const connection = yield* Effect.forkChild(serveAgent(peer, Effect.never, options), { startImmediately: true })
      yield* send(`{"min":1,"max":1}`)
      yield* TestClock.adjust("59 seconds")
      assert.isUndefined(closed())
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(connection)
      assert.deepStrictEqual(closed(), { code: 1001, reason: "nothing was heard for a minute" })
    }).pipe(Effect.provide(VmMetrics.layer))
  )

  it.effect(
    "of a thousand agents, each replaced by the next",
    () =>
      Effect.gen(function* () {
        const options: AgentOptions = {
          totalMemory: Effect.succeed(GiB),
          cgroup: Effect.succeed({ folder: "memory", anonymous: Effect.succeed(2 * GiB) }),
          policy: "refuse",
          warnUnwatchable: () => Effect.void,
          openCache: Effect.succeed(Effect.andThen(Effect.sleep("1 second"), Effect.succeed(null)))
        }
        const agent = Effect.gen(function* () {
          const { closed, received, peer, send } = yield* memoryPeer
          const replaced = yield* Deferred.make<void>()
          const connection = yield* Effect.forkChild(serveAgent(peer, Deferred.await(replaced), options), {
            startImmediately: true
          })
          yield* send(`{"min":1,"max":1}`)
          yield* TestClock.adjust("3600 millis")
          yield* Deferred.succeed(replaced, undefined)
          yield* Fiber.join(connection)
          assert.deepInclude(closed(), { code: 1001 })
          assert.deepStrictEqual(
            received.map((text) => (JSON.parse(text) as { id?: number }).id),
            [undefined, 3, 5, 7]
          )
        })
        yield* Effect.repeat(agent, { times: 99 })
        const before = heapUsed()
        yield* Effect.repeat(agent, { times: 899 })
        assert.isBelow(heapUsed() - before, 4_000_000)
        assert.deepInclude(yield* (yield* VmMetrics).now, { connected: 0, connections: 1_000, replaced: 1_000 })
      }).pipe(Effect.provide(VmMetrics.layer)),
    60_000
  )
})
