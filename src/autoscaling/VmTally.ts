/**
 * What the vm-monitor has seen and decided, for whoever renders metrics. Lost with the process.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import { type Tally, zeroTally } from "./metrics.ts"

/** The names of the tally's counts; the values that may be unknown are not among them. */
type Count = { [K in keyof Tally]: null extends Tally[K] ? never : K }[keyof Tally]

export class VmTally extends Context.Service<VmTally, {
  readonly now: Effect.Effect<Tally>
  readonly count: (what: Count, by?: number) => Effect.Effect<void>
  readonly note: (values: Partial<Pick<Tally, "meanBytes" | "thresholdBytes" | "cacheBytes">>) => Effect.Effect<void>
}>()("compute/vm/VmTally") {
  static readonly layer: Layer.Layer<VmTally> = Layer.effect(
    VmTally,
    Effect.gen(function*() {
      const ref = yield* Ref.make(zeroTally)
      return VmTally.of({
        now: Ref.get(ref),
        count: (what, by = 1) => Ref.update(ref, (old) => ({ ...old, [what]: old[what] + by })),
        note: (values) => Ref.update(ref, (old) => ({ ...old, ...values }))
      })
    })
  )
}
