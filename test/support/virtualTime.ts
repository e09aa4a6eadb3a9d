/**
 * Waits on virtual time for what real files or processes bring about, and a wall clock that somebody sets.
 */
import { assert } from "@effect/vitest"
import * as Clock from "effect/Clock"
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

/** The virtual clock with a wall clock that can be set, as people and NTP do; its monotonic time goes on as it was. */
export const clockThatIsSet = Effect.map(Clock.Clock, (virtual) => {
  let ahead = 0
  const currentTimeMillisUnsafe = () => virtual.currentTimeMillisUnsafe() + ahead
  const clock: Clock.Clock = {
    ...virtual,
    currentTimeMillisUnsafe,
    currentTimeMillis: Effect.sync(currentTimeMillisUnsafe)
  }
  return { clock, set: (millis: number) => void (ahead += millis) }
})
