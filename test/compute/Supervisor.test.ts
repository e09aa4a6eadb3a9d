/**
 * No actor dies without a sound, and none is restarted for ever.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Ref from "effect/Ref"
import * as TestClock from "effect/testing/TestClock"
import { type Actor, intensity, supervise } from "../../src/compute/Supervisor.ts"
import { causesOf } from "../../src/errors/policy.ts"

const forever: Actor = { name: "sleeper", policy: "permanent", run: Effect.never }

const counting = (starts: Ref.Ref<number>, then: Effect.Effect<void, unknown>): Effect.Effect<void, unknown> =>
  Effect.andThen(
    Ref.update(starts, (count) => count + 1),
    then
  )

describe("supervise", () => {
  it.effect("gives up an actor that crashes in a loop, and says why", () =>
    Effect.gen(function* () {
      const starts = yield* Ref.make(0)
      const actor: Actor = {
        name: "crasher",
        policy: "permanent",
        run: counting(starts, Effect.fail(new Error("disk on fire")))
      }
      const failure = yield* Effect.flip(supervise([actor, forever]))
      assert.strictEqual(failure._tag, "ActorGaveUp")
      assert.strictEqual(failure.actor, "crasher")
      assert.strictEqual(yield* Ref.get(starts), intensity.restarts + 1)
      assert.include(causesOf(failure).join("\n"), "disk on fire")
    })
  )

  it.effect("counts a bug like a failure", () =>
    Effect.gen(function* () {
      const starts = yield* Ref.make(0)
      const actor: Actor = { name: "buggy", policy: "transient", run: counting(starts, Effect.die("a bug")) }
      const failure = yield* Effect.flip(supervise([actor]))
      assert.strictEqual(failure.actor, "buggy")
      assert.strictEqual(yield* Ref.get(starts), intensity.restarts + 1)
    })
  )

  it.effect("counts an end that should not have come, though nothing failed", () =>
    Effect.gen(function* () {
      const failure = yield* Effect.flip(
        supervise([{ name: "quitter", policy: "permanent", run: Effect.void }, forever])
      )
      assert.strictEqual(failure.actor, "quitter")
    })
  )

  it.effect("restarts one that crashes rarely for as long as it lives", () =>
    Effect.gen(function* () {
      const starts = yield* Ref.make(0)
      const rare = counting(
        starts,
        Effect.andThen(Effect.sleep(Duration.millis(intensity.withinMillis)), Effect.fail("now and then"))
      )
      const fiber = yield* Effect.forkChild(supervise([{ name: "rare", policy: "permanent", run: rare }]), {
        startImmediately: true
      })
      for (let round = 0; round < 20; round++) yield* TestClock.adjust(Duration.millis(intensity.withinMillis))
      assert.strictEqual(yield* Ref.get(starts), 21)
      yield* Fiber.interrupt(fiber)
    })
  )

  it.effect("stops the others when one is given up", () =>
    Effect.gen(function* () {
      const stopped = yield* Deferred.make<void>()
      const run = Effect.onInterrupt(Effect.never, () => Deferred.succeed(stopped, undefined))
      const other: Actor = { name: "other", policy: "permanent", run }
      yield* Effect.flip(supervise([other, { name: "crasher", policy: "permanent", run: Effect.fail("no") }]))
      yield* Deferred.await(stopped)
    })
  )

  it.effect("is done when every actor is, and keeps the rest when one is", () =>
    Effect.gen(function* () {
      const release = yield* Deferred.make<void>()
      const actors: ReadonlyArray<Actor> = [
        { name: "done", policy: "transient", run: Effect.void },
        { name: "failed, and may", policy: "temporary", run: Effect.fail("it does not matter") },
        { name: "waits", policy: "transient", run: Deferred.await(release) }
      ]
      const fiber = yield* Effect.forkChild(supervise(actors), { startImmediately: true })
      yield* TestClock.adjust("1 hour")
      assert.isUndefined(fiber.pollUnsafe())
      yield* Deferred.succeed(release, undefined)
      yield* Fiber.join(fiber)
    })
  )

  it.effect("interrupts every actor when it is interrupted itself", () =>
    Effect.gen(function* () {
      const stopped = yield* Ref.make(0)
      const actor = (name: string): Actor => ({
        name,
        policy: "permanent",
        run: Effect.onInterrupt(Effect.never, () => Ref.update(stopped, (count) => count + 1))
      })
      const fiber = yield* Effect.forkChild(supervise([actor("a"), actor("b")]), { startImmediately: true })
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* Ref.get(stopped), 2)
    })
  )
})
