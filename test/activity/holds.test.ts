/**
 * Holds and the words for activity: what counts, for how long, and that no hold outlives its time.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { TestClock } from "effect/testing"
import { explainSample, reasonsAwake, type Sample, sawTheSame } from "../../src/activity/activity.ts"
import { holdActor, monotonicMillis } from "../../src/activity/ActivityMonitor.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import type { Hold } from "../../src/compute/snapshot.ts"
import { clockThatIsSet } from "../support/virtualTime.ts"

const idle: Sample = {
  at: 1_000,
  busy: 0,
  idleSince: null,
  autovacuum: 0,
  walsenders: 0,
  subscriptions: 0,
  statistics: { activeMillis: 0, sessions: 0, own: { begun: 0, opened: 0, atMost: 0 }, quiet: true }
}

const keep = holdActor.run.pipe(Effect.forkChild({ startImmediately: true }))

const holdFor = Effect.fnUntraced(function* (id: string, millis: number) {
  const state = yield* ComputeState
  const now = yield* Clock.currentTimeMillis
  const endsAt = (yield* monotonicMillis) + millis
  const hold: Hold = { id, reason: "backup", createdAt: now, expiresAt: now + millis, endsAt }
  yield* state.note(({ holds }) => ({ holds: [...holds, hold] }))
})

describe("the actor of holds", () => {
  it.effect("keeps last_active fresh while a hold lives, in any status, and not a moment longer", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* keep
      yield* TestClock.adjust("1 hour")
      assert.isNull((yield* state.now).lastActive)
      const from = yield* Clock.currentTimeMillis
      yield* holdFor("a", 60_250)
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* state.now).lastActive?.epochMilliseconds, from + 30_000)
      yield* TestClock.adjust("1 hour")
      const { holds, lastActive } = yield* state.now
      assert.strictEqual(lastActive?.epochMilliseconds, from + 60_250)
      assert.deepStrictEqual(holds, [])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("of several holds the longest counts, and each goes at its own time", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* keep
      yield* holdFor("short", 10_000)
      yield* holdFor("long", 20_000)
      yield* TestClock.adjust("11 seconds")
      assert.deepStrictEqual(
        (yield* state.now).holds.map(({ id }) => id),
        ["long"]
      )
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* state.now).lastActive?.epochMilliseconds, 20_000)
    }).pipe(Effect.provide(ComputeState.layer))
  )
})

describe("a clock that is set", () => {
  for (const [what, step] of [
    ["ahead", 3_600_000],
    ["back", -3_600_000]
  ] as const)
    it.effect(`neither ends nor prolongs a hold when it is set ${what}`, () =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        yield* TestClock.setTime(10_000_000)
        const { clock, set } = yield* clockThatIsSet
        yield* Effect.provideService(keep, Clock.Clock, clock)
        yield* holdFor("a", 60_000)
        yield* TestClock.adjust("10 seconds")
        set(step)
        yield* TestClock.adjust("49 seconds")
        assert.lengthOf((yield* state.now).holds, 1)
        yield* TestClock.adjust("2 seconds")
        assert.lengthOf((yield* state.now).holds, 0)
      }).pipe(Effect.provide(ComputeState.layer))
    )
})

describe("activity explained", () => {
  it("says each reason once, and nothing when there is none", () => {
    assert.deepStrictEqual(reasonsAwake(null, [], 0), [])
    assert.deepStrictEqual(reasonsAwake(explainSample(null, idle, false), [], 0), [])
    const all = explainSample(null, { ...idle, busy: 1, walsenders: 2, subscriptions: 1, autovacuum: 3 }, true)
    const hold: Hold = { id: "h", reason: "backup", createdAt: 0, expiresAt: 0, endsAt: 1_500 }
    assert.deepStrictEqual(reasonsAwake(all, [hold], 1_000), [
      "1 client session is busy or inside a transaction",
      "2 replicas or subscribers follow us",
      "1 subscription of ours has a worker",
      "3 autovacuum workers are at work",
      "the statistics of user databases moved",
      'a hold says "backup", for 1 s more'
    ])
  })

  const Counts = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3 }))
  const AnySample = Schema.Struct({
    busy: Counts,
    walsenders: Counts,
    subscriptions: Counts,
    autovacuum: Counts,
    idleSince: Schema.NullOr(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5_000 })))
  })
  it.prop(
    "the moment of each kind never goes back, and is never in the future",
    { samples: Schema.Array(AnySample) },
    ({ samples }) => {
      let before = null
      for (const [index, one] of samples.entries()) {
        const sample: Sample = { ...idle, ...one, at: 1_000 * (index + 1) }
        const after = explainSample(before, sample, false)
        for (const kind of ["client", "walsender", "subscription", "autovacuum"] as const) {
          assert.isAtMost(after.last[kind] ?? 0, sample.at)
          assert.isAtLeast(after.last[kind] ?? 0, before?.last[kind] ?? 0)
          if (after.sessions[kind] > 0) assert.strictEqual(after.last[kind], sample.at)
        }
        assert.isTrue(sawTheSame(after, { ...after, at: after.at + 1 }))
        before = after
      }
    }
  )
})
