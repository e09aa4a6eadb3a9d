/**
 * The replica watch in virtual time: what it finds is told, a Postgres that does not answer is asked again, and a
 * replica that was promoted is watched no more.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Ref from "effect/Ref"
import { TestClock } from "effect/testing"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import type { ReplicaSample } from "../../src/compute/replication.ts"
import { type Failure, TimedOut } from "../../src/errors/Failure.ts"
import { ReplicaLook, replicaWatch } from "../../src/lifecycle/replicaWatch.ts"
import { streaming } from "../support/replica.ts"

const gone: ReplicaSample = { ...streaming, receiver: null }

/** A watch with a bound of ten seconds, over a Postgres that answers what the test says. */
const watching = Effect.gen(function* () {
  const state = yield* ComputeState
  const answer = yield* Ref.make<Effect.Effect<ReplicaSample | null, Failure>>(Effect.succeed(streaming))
  const sessions = yield* Ref.make(0)
  const fiber = yield* replicaWatch("10 seconds").run.pipe(
    Effect.provideService(
      ReplicaLook,
      Effect.as(
        Ref.update(sessions, (n) => n + 1),
        Effect.flatten(Ref.get(answer))
      )
    ),
    Effect.forkChild({ startImmediately: true })
  )
  const now = Effect.map(state.now, ({ degraded, replica }) => ({
    receiver: replica?.receiver,
    conditions: degraded.map(({ code }) => code)
  }))
  return {
    fiber,
    now,
    say: (what: Effect.Effect<ReplicaSample | null, Failure>) => Ref.set(answer, what),
    sessions,
    state
  }
})

describe("the replica watch", () => {
  it.effect("tells when a replica stops following, and when it follows again", () =>
    Effect.gen(function* () {
      const { now, say, sessions } = yield* watching
      yield* TestClock.adjust("100 seconds")
      assert.deepStrictEqual(yield* now, { receiver: "streaming", conditions: [] })
      yield* say(Effect.succeed(gone))
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* now, { receiver: null, conditions: [] })
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual((yield* now).conditions, ["replica_not_following"])
      yield* say(Effect.succeed(streaming))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* now, { receiver: "streaming", conditions: [] })
      assert.strictEqual(yield* Ref.get(sessions), 1, "all by one session")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("goes on by a new session when Postgres did not answer, and keeps what it knew", () =>
    Effect.gen(function* () {
      const { now, say, sessions } = yield* watching
      yield* say(Effect.fail(new TimedOut({ what: "an answer", millis: 5000 })))
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(
        yield* now,
        { receiver: "streaming", conditions: [] },
        "it is the Postgres watch's to tell"
      )
      assert.isAbove(yield* Ref.get(sessions), 10)
      yield* say(Effect.succeed(gone))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual((yield* now).conditions, ["replica_not_following"], "last heard of 31 s ago")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("is done with a replica that was promoted", () =>
    Effect.gen(function* () {
      const { fiber, now, say, state } = yield* watching
      yield* say(Effect.succeed(gone))
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual((yield* now).conditions, ["replica_not_following"])
      yield* say(Effect.succeed(null))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      const { degraded, replica } = yield* state.now
      assert.deepStrictEqual([degraded, replica], [[], null])
    }).pipe(Effect.provide(ComputeState.layer))
  )
})
