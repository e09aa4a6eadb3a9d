/**
 * Holds: somebody's word that the compute is needed for a while, which keeps `last_active` fresh until it expires.
 *
 * A hold ends with its time, when it is released, or with the compute. They are few, and none lasts longer than a day.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { ComputeState } from "../compute/ComputeState.ts"
import { livingHolds } from "./activity.ts"
import type { Actor } from "../compute/Supervisor.ts"

/** As often as the activity monitor looks. */
const every = Duration.millis(500)

const tick = Effect.gen(function*() {
  const state = yield* ComputeState
  const now = yield* Clock.currentTimeMillis
  const { holds } = yield* state.now
  const living = livingHolds(holds, now)
  // It held until the moment it expired, which may be before this look.
  const until = living.length > 0 ? now : Math.min(now, Math.max(...holds.map(({ expiresAt }) => expiresAt)))
  if (holds.length > 0) yield* state.active(DateTime.makeUnsafe(until))
  if (living.length < holds.length) yield* state.note((old) => ({ holds: livingHolds(old.holds, now) }))
})

/** Works in every status, also while Postgres does not answer. */
export const holdKeeper: Actor<ComputeState> = {
  name: "hold keeper",
  policy: "permanent",
  run: Effect.gen(function*() {
    const state = yield* ComputeState
    const somebodyHolds = state.changes.pipe(Stream.filter(({ holds }) => holds.length > 0), Stream.runHead)
    while (true) {
      yield* somebodyHolds
      yield* tick
      yield* Effect.sleep(every)
    }
  })
}
