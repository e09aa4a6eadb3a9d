/**
 * `/activity` and `/holds` over real sockets: explained, bounded, released.
 */
import { assert, describe, it } from "@effect/vitest"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import { explainSample, maxHolds, maxHoldSeconds } from "../../src/activity/activity.ts"
import { holdActor } from "../../src/activity/ActivityMonitor.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { ask, inBackground, inMemoryServices, open, reach, refusedOf } from "./testServer.ts"

const hold = (port: number, json: unknown) => ask(port, "POST", "/holds", { json })

describe("/activity", () => {
  it.live("says by what, when, and why, and nothing before anybody looked", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      const { port } = yield* open()
      const before = JSON.parse((yield* ask(port, "GET", "/activity")).text)
      assert.deepInclude(before, { last_active: null, looked_at: null, awake_because: [] })
      const sample = {
        at: 5_000,
        busy: 0,
        idleSince: 3_000,
        autovacuum: 1,
        walsenders: 0,
        subscriptions: 0,
        statistics: { activeMillis: 0, sessions: 0, own: { begun: 0, opened: 0, atMost: 0 }, quiet: true }
      }
      yield* state.note({ activity: explainSample(null, sample, false), downtime: { current: 0, total: 70 } })
      yield* state.active(DateTime.makeUnsafe(5_000))
      const { last_hour, ...now } = JSON.parse((yield* ask(port, "GET", "/activity")).text)
      assert.strictEqual(last_hour.length, 60)
      assert.deepStrictEqual(now, {
        status: "running",
        last_active: "1970-01-01T00:00:05+00:00",
        awake_because: ["1 autovacuum worker is at work"],
        looked_at: "1970-01-01T00:00:05Z",
        kinds: {
          client: { sessions: 0, last_active: "1970-01-01T00:00:03Z" },
          walsender: { sessions: 0, last_active: null },
          subscription: { sessions: 0, last_active: null },
          autovacuum: { sessions: 1, last_active: "1970-01-01T00:00:05Z" },
          statistics: { sessions: null, last_active: null }
        },
        suspend_timeout_seconds: null,
        exit_when_idle_seconds: null,
        holds: [],
        downtime: { current_ms: 0, total_ms: 70 }
      })
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("/holds", () => {
  it.live("a hold is a reason to be awake until it is released", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      yield* inBackground(holdActor.run)
      const made = yield* hold(port, { reason: "nightly backup", ttl_seconds: 600 })
      assert.strictEqual(made.status, 201)
      const { id } = JSON.parse(made.text)
      const activity = JSON.parse((yield* ask(port, "GET", "/activity")).text)
      assert.match(activity.awake_because[0], /^a hold says "nightly backup", for \d+ s more$/)
      assert.deepStrictEqual(
        JSON.parse((yield* ask(port, "GET", "/holds")).text).holds.map((one: { id: string }) => one.id),
        [id]
      )
      assert.isNotNull(JSON.parse((yield* ask(port, "GET", "/status")).text).last_active)
      assert.strictEqual((yield* ask(port, "DELETE", `/holds/${id}`)).status, 200)
      assert.deepStrictEqual(JSON.parse((yield* ask(port, "GET", "/holds")).text).holds, [])
      assert.strictEqual(refusedOf(yield* ask(port, "DELETE", `/holds/${id}`)).code, "hold_unknown")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("there are never more than the most, nor longer ones, and each has a reason", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      const made = yield* Effect.forEach(
        Array.from({ length: maxHolds + 8 }),
        (_, n) => hold(port, { reason: `reason ${n}`, ttl_seconds: 60 }),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(made.filter(({ status }) => status === 201).length, maxHolds)
      for (const answer of made.filter(({ status }) => status !== 201))
        assert.strictEqual(refusedOf(answer).code, "too_many_holds")
      for (const json of [
        { reason: "", ttl_seconds: 1 },
        { reason: "x".repeat(201), ttl_seconds: 1 },
        { reason: "x", ttl_seconds: 0 },
        { reason: "x", ttl_seconds: maxHoldSeconds + 1 },
        { reason: "x", ttl_seconds: 1.5 },
        { reason: "x" },
        []
      ])
        assert.strictEqual((yield* hold(port, json)).status, 422, JSON.stringify(json).slice(0, 50))
    }).pipe(Effect.provide(inMemoryServices))
  )
})
