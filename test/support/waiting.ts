/**
 * Waits on state that real files, processes or peers bring about: no test sleeps for a time that it hopes is enough.
 */
import * as Effect from "effect/Effect"
import { tail } from "./postgres.ts"

type Missing = null | undefined | false
type Look<A, E, R> = () => A | Missing | Promise<A | Missing> | Effect.Effect<A | Missing, E, R>

const lookFor = <A, E, R>(look: Look<A, E, R>): Effect.Effect<A | Missing, E, R> =>
  Effect.suspend(() => {
    const found = look()
    return Effect.isEffect(found) ? found : Effect.promise(async () => found)
  })

/** Looks until there is something, or says after 20 seconds what it was waiting for, with the end of `output`. */
export const eventually = <A, E = never, R = never>(
  what: string,
  look: Look<A, E, R>,
  output = () => ""
): Effect.Effect<A, E, R> =>
  Effect.gen(function* () {
    const deadline = performance.now() + 20_000
    for (;;) {
      const found = yield* lookFor(look)
      if (found !== null && found !== undefined && found !== false) return found
      if (performance.now() > deadline) throw new Error(`waited in vain for ${what}:\n${tail(output())}`)
      yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 10)))
    }
  })
