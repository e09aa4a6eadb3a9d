/**
 * Says how far a start has come that has WAL to replay: a line every few seconds, and the condition `recovering` for as
 * long as it lasts. A start without a recovery worth speaking of says nothing.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Running } from "../postgres/Postmaster.ts"
import { printRecovery } from "../postgres/recoveryProgress.ts"
import type { Lsn } from "../spec/identifiers.ts"

const lookEvery = "1 second"
/** Every so many looks one line. */
const looksPerLine = 5

const report = Effect.fnUntraced(function* (postgres: Running) {
  const state = yield* ComputeState
  let first: { readonly at: Lsn; readonly millis: number } | null = null
  for (let look = 0; ; look++) {
    yield* Effect.sleep(lookEvery)
    const position = yield* postgres.recovery
    if (position === null) continue
    const millis = yield* Clock.currentTimeMillis
    first ??= { at: position.at, millis }
    const message = printRecovery(position, first.at, (millis - first.millis) / 1000)
    const { degraded } = yield* state.now
    const isNew = !degraded.some(({ code }) => code === "recovering")
    yield* state.raise({ code: "recovering", message })
    if (!isNew && look % looksPerLine === 0) yield* Effect.logInfo(message)
  }
})

/** `ready`, with reports while it is waited for. */
export const reportRecovery = <E>(postgres: Running, ready: Effect.Effect<void, E>) =>
  Effect.raceFirst(ready, report(postgres)).pipe(
    Effect.ensuring(Effect.flatMap(ComputeState, (state) => state.clear("recovering")))
  )
