/**
 * How the kit lets time pass: to moments that nothing announces, and until something is so, without an end that a
 * busy machine could come upon.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"

/** Something that must never happen has happened. The run ends with it. */
export class Found extends Data.TaggedError("Found")<{
  readonly kind: "lost" | "unsent" | "failed start" | "failed stop" | "two writers" | "damage"
  readonly detail: string
}> {}

export const found = (kind: Found["kind"], detail: string): Found => new Found({ kind, detail })

/** Nobody waits longer: whatever is waited for does not come any more. */
const patience = 240_000

export const until = (what: string, is: () => boolean): Effect.Effect<void, Found> =>
  Effect.gen(function* () {
    const from = performance.now()
    while (!is()) {
      if (performance.now() - from > patience) return yield* found("failed start", `waited in vain until ${what}`)
      yield* Effect.sleep(10)
    }
  })

/** Whether it came to be so in time. */
export const withinMillis = (millis: number, is: () => boolean): Effect.Effect<boolean> =>
  Effect.gen(function* () {
    const from = performance.now()
    while (!is()) {
      if (performance.now() - from > millis) return false
      yield* Effect.sleep(10)
    }
    return true
  })

/** A moment in a range of milliseconds, the early ones more often: short phases are met as well as long ones. */
export const someMoment = (mostMillis: number): Effect.Effect<void> =>
  Effect.flatMap(Random.next, (drawn) => Effect.sleep(drawn * drawn * mostMillis))

export const anyMoment = (mostMillis: number): Effect.Effect<void> =>
  Effect.flatMap(Random.next, (drawn) => Effect.sleep(drawn * mostMillis))

export const oneOf = <A>(choices: ReadonlyArray<A>): Effect.Effect<A> =>
  Effect.map(Random.nextIntBetween(0, choices.length, { halfOpen: true }), (at) => choices[at] as A)

export const chance = (share: number): Effect.Effect<boolean> => Effect.map(Random.next, (drawn) => drawn < share)

/** By weight. */
export const drawn = <A extends { readonly weight: number }>(choices: ReadonlyArray<A>): Effect.Effect<A> =>
  Effect.map(Random.next, (share) => {
    let left = share * choices.reduce((sum, { weight }) => sum + weight, 0)
    for (const choice of choices) {
      left -= choice.weight
      if (left < 0) return choice
    }
    return choices.at(-1) as A
  })
