/**
 * How long a finished compute stays up so that its control plane can read how it went (reference section 3.5).
 *
 * "fast" and "immediate" are the control plane's words for lingering, not Postgres shutdown modes; for those see
 * `stopLadder.ts`.
 */
import * as Duration from "effect/Duration"
import type { Status } from "../compute/Status.ts"

/** Long enough for a control plane that polls to see the end, or the error. */
export const long = Duration.seconds(30)
/** Long enough for an answer that is on its way. */
export const short = Duration.millis(300)

/**
 * `ending` is the last status before the end was reached: a failed *start* lingers so that its error can be read;
 * a Postgres that died while running does not, so that its successor can start at once.
 */
export const linger = (ending: Status, everRan: boolean): Duration.Duration =>
  ending === "termination_pending_fast" || (ending === "failed" && !everRan) ? long : short
