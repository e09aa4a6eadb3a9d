/**
 * A crash at a named step of a storage: nothing after it happens.
 */
import { assert } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { Failpoint, type Step } from "../../src/storage/local/failpoint.ts"

/** Runs an effect until it reaches the step, and leaves it there; `interrupt` lets go of what it holds. */
export const crashAt = Effect.fnUntraced(function* <A, E>(step: Step, effect: Effect.Effect<A, E>) {
  const reached = yield* Deferred.make<void>()
  const fiber = yield* Effect.forkChild(
    Effect.provideService(effect, Failpoint, (at) =>
      at === step ? Effect.andThen(Deferred.succeed(reached, undefined), Effect.never) : Effect.void
    )
  )
  const ended = yield* Effect.raceFirst(
    Effect.as(Deferred.await(reached), "reached"),
    Effect.map(Fiber.await(fiber), (exit) => `ended before it: ${JSON.stringify(exit)}`)
  )
  assert.strictEqual(ended, "reached", step)
  return { fiber, interrupt: Fiber.interrupt(fiber) }
})
