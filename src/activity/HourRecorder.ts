/**
 * Remembers for an hour what kept the compute awake, from what the state shows. Its actor is done when the state is.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { ComputeState } from "../compute/ComputeState.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { lastHour, type Minute, noMarks, remember } from "./lastHour.ts"

export interface HourRecorder {
  /** To be supervised. */
  readonly actor: Actor
  readonly minutes: (snapshot: Snapshot, now: number) => ReadonlyArray<Minute>
}

export const hourRecorder = (state: ComputeState["Service"]): HourRecorder => {
  let marks = noMarks
  const note = (snapshot: Snapshot) =>
    Effect.map(Clock.currentTimeMillis, (now) => void (marks = remember(marks, snapshot, now)))
  return {
    actor: { name: "activity recorder", kind: "auxiliary", run: Stream.runForEach(state.changes, note) },
    minutes: (snapshot, now) => lastHour(remember(marks, snapshot, now), snapshot, now)
  }
}
