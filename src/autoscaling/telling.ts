/**
 * How the vm-monitor tells what went wrong: on one line, and not more often than a reader can bear.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { causesOf } from "../errors/explain.ts"

export const reasonOf = (error: unknown): string => causesOf(error).join(": ")

/** Warns at most once in a while, and then says how many lines were kept back. */
export const quietly = (everyMillis: number): (text: string) => Effect.Effect<void> => {
  let toldAt: number | null = null
  let kept = 0
  return (text) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      if (toldAt !== null && now - toldAt < everyMillis) return Effect.sync(() => void kept++)
      const more = kept === 0 ? "" : ` (and ${kept} like it before)`
      toldAt = now
      kept = 0
      return Effect.logWarning(`${text}${more}`)
    })
}
