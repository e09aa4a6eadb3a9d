/**
 * Waits on virtual time for what real files or processes bring about.
 */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"

/** A virtual second passes between looks, and a real turn of the event loop; in vain after ten real seconds. */
export const passes = <A>(what: string, look: () => A | null | false) =>
  Effect.gen(function* () {
    for (const deadline = performance.now() + 10_000; performance.now() < deadline;) {
      const found = look()
      if (found !== null && found !== false) return found
      yield* TestClock.adjust("1 second")
      yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
    }
    return assert.fail(`in vain: ${what}`)
  })
