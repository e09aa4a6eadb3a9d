/**
 * When a lease on an LSN is asked for again (reference section 11.5).
 */
import * as Duration from "effect/Duration"

/** A minute before it ends; one that is shorter than two minutes, at half its time. An ended one at once. */
export const renewAfter = (validMillis: number): Duration.Duration =>
  Duration.millis(Math.max(validMillis - 60_000, validMillis / 2, 0))

/** After the so-many-th failure in a row (1, 2, …): half a second, then half as long again, up to a minute. */
export const leasePause = (failures: number): Duration.Duration =>
  Duration.millis(Math.min(500 * 1.5 ** (Math.max(failures, 1) - 1), 60_000))
