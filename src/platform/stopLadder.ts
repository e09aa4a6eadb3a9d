/**
 * How Postgres is asked to leave: firmly, then roughly, then not asked.
 *
 * There is no SIGTERM rung. Postgres reads it as a smart stop, which waits for every client to leave of its own
 * accord.
 */
import * as Duration from "effect/Duration"

export interface Rung {
  /** `SIGTERM` is for helper programs; the postmaster never gets it. */
  readonly signal: "SIGTERM" | "SIGINT" | "SIGQUIT" | "SIGKILL"
  readonly grace: Duration.Duration
  readonly meaning: string
}

export const stopLadder: ReadonlyArray<Rung> = [
  { signal: "SIGINT", grace: Duration.seconds(60), meaning: "fast: roll back, write the shutdown checkpoint" },
  { signal: "SIGQUIT", grace: Duration.seconds(10), meaning: "immediate: drop everything, recover on the next start" },
  { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }
]
