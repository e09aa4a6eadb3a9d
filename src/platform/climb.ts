/**
 * Climbs a ladder of signals until a process has left. Every rung has its grace, so the climb ends.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { ExitStatus } from "../errors/ExitStatus.ts"
import type { Rung } from "./stopLadder.ts"

export interface Climb {
  readonly ladder: ReadonlyArray<Rung>
  readonly exit: Effect.Effect<ExitStatus>
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Completes when the current grace shall be cut short. Taken anew for each rung. */
  readonly hasten?: Effect.Effect<void>
  /** Told before each signal but not when the process had left already. */
  readonly onRung?: (rung: Rung) => Effect.Effect<void>
}

/** A ladder that stops short of SIGKILL would leave a child behind. */
const lastResort: Rung = { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }

/** How the process left, or `null` when not even SIGKILL made it leave within its grace. */
export const climb = Effect.fnUntraced(function*(options: Climb): Effect.fn.Return<ExitStatus | null> {
  const { exit, hasten = Effect.never, ladder, onRung = () => Effect.void, signal } = options
  const rungs = ladder.some((rung) => rung.signal === "SIGKILL") ? ladder : [...ladder, lastResort]
  const already = yield* Effect.timeoutOption(exit, 0)
  if (Option.isSome(already)) return already.value
  for (const [index, rung] of rungs.entries()) {
    yield* onRung(rung)
    yield* signal(rung.signal)
    const cut = index === rungs.length - 1 ? Effect.never : hasten
    const left = yield* Effect.raceFirst(Effect.asSome(exit), Effect.as(cut, Option.none())).pipe(
      Effect.timeoutOrElse({ duration: rung.grace, orElse: () => Effect.succeedNone })
    )
    if (Option.isSome(left)) return left.value
  }
  return null
})
