/**
 * The deadline of anything that waits for somebody else: a `TimedOut` that names what was waited for.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { TimedOut } from "./Failure.ts"

/** Interrupts the effect after `duration` and fails; `what` completes "timed out after … ms: ". */
export const within =
  (what: string, duration: Duration.Input) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | TimedOut, R> =>
    Effect.timeoutOrElse(effect, {
      duration,
      orElse: () => Effect.fail(new TimedOut({ what, millis: Duration.toMillis(duration) }))
    })
