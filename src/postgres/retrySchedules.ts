/**
 * How often, and after which pauses, the parts of a start are tried again (reference sections 4.6 and 4.7).
 *
 * A schedule is the list of pauses between attempts: one attempt more than it has pauses.
 */
import * as Duration from "effect/Duration"

/** `postgres --sync-safekeepers`: six attempts; the first retry is at once, the later ones wait a little longer each. */
export const settlePauses: ReadonlyArray<Duration.Duration> = Array.from({ length: 5 }, (_, retry) =>
  Duration.millis(retry === 0 ? 0 : Math.min(1000 * 1.1 ** retry, 3000)))

/** The basebackup: eleven attempts, half a second, then half as long again each time: 57 s of pauses in all. */
export const basebackupPauses: ReadonlyArray<Duration.Duration> = Array.from({ length: 10 }, (_, retry) =>
  Duration.millis(500 * 1.5 ** retry))
