/**
 * The renewal of leases in virtual time: when it asks, when it asks again, and what it does about a refusal.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import { ComputeState } from "../../../src/compute/ComputeState.ts"
import { type Failure, PageserverRefused, TimedOut } from "../../../src/errors/Failure.ts"
import type { NeonStorage, ParsedSpec } from "../../../src/spec/ParsedSpec.ts"
import { makeLeaseRenewal, renewAfter } from "../../../src/storage/neon/leases.ts"
import type { Lease } from "../../../src/storage/neon/pageserver.ts"
import { emptySpec } from "../../support/specs.ts"

const minutes = (count: number) => count * 60_000

const neonAt = (url: string): NeonStorage => ({
  pageservers: {
    shardCount: 0,
    stripeSize: null,
    shards: [{ number: 0, pageservers: [{ libpqUrl: url, grpcUrl: null }] }],
    preferProtocol: "libpq"
  },
  safekeepers: [],
  safekeepersGeneration: null,
  token: null,
  fromSettings: new Set()
})
const specAt = (url: string): ParsedSpec => ({ ...emptySpec, mode: { _tag: "Static", lsn: 16n }, neon: neonAt(url) })

/** Renews against answers that a function of the address and the time gives. */
const renewing = Effect.fnUntraced(function* (answer: (url: string, now: number) => Effect.Effect<Lease, Failure>) {
  const state = yield* ComputeState
  const asked: Array<readonly [seconds: number, url: string]> = []
  const spec = specAt("old")
  const renewal = yield* makeLeaseRenewal(state, { spec, neon: neonAt("old"), lsn: 16n }, (_, neon) =>
    Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const url = neon.pageservers.shards[0]?.pageservers[0]?.libpqUrl ?? ""
      asked.push([now / 1000, url])
      return yield* answer(url, now)
    })
  )
  yield* state.note({ spec })
  yield* Effect.forkChild(renewal.keep, { startImmediately: true })
  return { state, asked, times: () => asked.map(([seconds]) => seconds) }
})

const granted = (forMillis: number) => (_: string, now: number) =>
  Effect.succeed<Lease>({ _tag: "Granted", until: now + forMillis })

describe("the renewal of a lease", () => {
  it.prop(
    "comes before the end, and not before half of the time",
    {
      valid: Schema.Int.check(Schema.isBetween({ minimum: -10_000, maximum: minutes(600) }))
    },
    ({ valid }) => {
      const pause = Duration.toMillis(renewAfter(valid))
      assert.isAtLeast(pause, 0)
      if (valid > 0) assert.isBelow(pause, valid)
      if (valid > 0) assert.isAtLeast(pause, valid / 2)
    }
  )

  it("is a minute before the end, or at half the time of a short one", () => {
    assert.strictEqual(Duration.toMillis(renewAfter(minutes(10))), minutes(9))
    assert.strictEqual(Duration.toMillis(renewAfter(minutes(2))), minutes(1))
    assert.strictEqual(Duration.toMillis(renewAfter(minutes(1))), minutes(0.5))
    assert.strictEqual(Duration.toMillis(renewAfter(-5)), 0)
  })

  it.effect("failures are half a second apart at first and a minute at last", () =>
    Effect.gen(function* () {
      const { times } = yield* renewing(() => Effect.fail(new TimedOut({ what: "a lease", millis: 1 })))
      yield* TestClock.adjust("10 minutes")
      const seconds = times()
      const pauses = seconds.slice(1).map((time, index) => time - (seconds[index] ?? 0))
      assert.deepStrictEqual(pauses.slice(0, 3), [0.5, 0.75, 1.125])
      assert.deepStrictEqual(pauses.slice(-2).map(Math.round), [60, 60])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("a request of the start that failed is followed by another in half a second", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const asked: Array<number> = []
      const given = { spec: specAt("old"), neon: neonAt("old"), lsn: 16n }
      const renewal = yield* makeLeaseRenewal(state, given, () =>
        Effect.flatMap(Clock.currentTimeMillis, (now) => {
          asked.push(now)
          return Effect.fail(new TimedOut({ what: "a lease", millis: 1 }))
        })
      )
      yield* renewal.begin
      yield* Effect.forkChild(renewal.keep, { startImmediately: true })
      yield* TestClock.adjust("500 millis")
      assert.deepStrictEqual(asked, [0, 500])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("a lease of ten minutes is asked for every nine", () =>
    Effect.gen(function* () {
      const { times } = yield* renewing(granted(minutes(10)))
      yield* TestClock.adjust("28 minutes")
      assert.deepStrictEqual(times(), [0, 540, 1080, 1620])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("the lease that the start took is renewed, not taken again", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      let count = 0
      const renewal = yield* makeLeaseRenewal(state, { spec: specAt("old"), neon: neonAt("old"), lsn: 16n }, () => {
        count += 1
        return Effect.succeed<Lease>({ _tag: "Granted", until: minutes(10) })
      })
      yield* renewal.begin
      yield* Effect.forkChild(renewal.keep, { startImmediately: true })
      yield* TestClock.adjust("8 minutes")
      assert.strictEqual(count, 1)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("a clock ahead of the pageserver's does not make it ask without a pause", () =>
    Effect.gen(function* () {
      const { times } = yield* renewing(granted(-minutes(1)))
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(times(), [0, 0.5, 1, 1.5, 2])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("failures are tried again, ever more slowly, and forgotten at the first success", () =>
    Effect.gen(function* () {
      let good = false
      const { times } = yield* renewing((url, now) =>
        good ? granted(minutes(10))(url, now) : Effect.fail(new TimedOut({ what: "a lease", millis: 1 }))
      )
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(times(), [0, 0.5, 1.25])
      good = true
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(times(), [0, 0.5, 1.25, 2.375])
      yield* TestClock.adjust("9 minutes")
      assert.lengthOf(times(), 5)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("a new address is asked at once", () =>
    Effect.gen(function* () {
      const { asked, state } = yield* renewing(granted(minutes(10)))
      yield* TestClock.adjust("1 minute")
      yield* state.note({ spec: specAt("new") })
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(asked, [
        [0, "old"],
        [60, "new"]
      ])
      yield* state.note({ spec: { ...specAt("new"), operationId: "a spec that changes nothing here" } })
      yield* TestClock.adjust("1 minute")
      assert.lengthOf(asked, 2)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("a pageserver that refuses the token is a condition, and is asked until it takes it", () =>
    Effect.gen(function* () {
      let good = false
      const refused = new PageserverRefused({ peer: "pageserver:6400", reason: "token" })
      const { state } = yield* renewing((url, now) => (good ? granted(minutes(10))(url, now) : Effect.fail(refused)))
      yield* TestClock.adjust("1 minute")
      const [condition] = (yield* state.now).degraded
      assert.strictEqual(condition?.code, "lsn_lease_refused")
      assert.match(condition?.message ?? "", /pageserver:6400 does not take the token for this tenant/)
      good = true
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual((yield* state.now).degraded, [])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("a refusal is final until the address is another one, and shows as a condition meanwhile", () =>
    Effect.gen(function* () {
      const { asked, state } = yield* renewing((url, now) =>
        url === "old" ? Effect.succeed({ _tag: "Refused", because: "it is gone" }) : granted(minutes(10))(url, now)
      )
      yield* TestClock.adjust("10 hours")
      assert.lengthOf(asked, 1)
      assert.deepStrictEqual(
        (yield* state.now).degraded.map(({ code }) => code),
        ["lsn_lease_refused"]
      )
      yield* state.note({ spec: specAt("new") })
      yield* TestClock.adjust("1 millis")
      assert.lengthOf(asked, 2)
      assert.deepStrictEqual((yield* state.now).degraded, [])
    }).pipe(Effect.provide(ComputeState.layer))
  )
})
