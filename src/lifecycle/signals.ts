/**
 * Signals that ask for the end: the first asks in order, each further one escalates. `main.ts` listens for them before
 * it does anything else, so that there is no moment at which one is not heard. What SIGHUP asks for is for `reload.ts`
 * where no terminal can hang up.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { Commands } from "../compute/Commands.ts"
import type { Actor } from "../compute/Supervisor.ts"

/** A signal, by its name and by its number, which is how it is searched for in logs. */
export interface Signal {
  readonly name: string
  readonly number: number
}

export interface Signals {
  /** Returns with the first one, however often it is asked. */
  readonly first: Effect.Effect<Signal>
  /** The next one that nobody has taken, the first included. */
  readonly next: Effect.Effect<Signal>
  /** The next SIGHUP that asks for the spec to be read again; those that come meanwhile count as one. */
  readonly hangUps: Effect.Effect<Signal>
}

/**
 * A terminal's Ctrl-C reaches us from the terminal and again from whatever runner stands between: within this time
 * the same signal is the same keystroke, and not yet impatience.
 */
const echo = Duration.millis(300)

export const received = ({ name, number }: Signal): string => `received ${number} termination signal (${name})`

export const signalActor = (signals: Pick<Signals, "next">): Actor<Commands> => ({
  name: "signal handler",
  kind: "essential",
  run: Effect.gen(function* () {
    const commands = yield* Commands
    const first = yield* signals.next
    yield* Effect.logInfo(received(first))
    yield* commands.terminate("immediate")
    const at = yield* Clock.currentTimeMillis
    while (true) {
      const next = yield* signals.next
      if (next.name === first.name && (yield* Clock.currentTimeMillis) - at < Duration.toMillis(echo)) continue
      yield* Effect.logInfo(`${received(next)} again: hurrying`)
      yield* commands.escalate
    }
  })
})
