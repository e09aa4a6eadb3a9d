/**
 * What outsiders ask of the compute: a new spec, the end, the end sooner. The corridor takes them one at a time.
 *
 * The status moves when an order is accepted, so two callers can not both be accepted. A caller that goes away
 * cancels nothing: the order is the corridor's from then on.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { ComputeState, type Snapshot } from "./ComputeState.ts"
import type { Failure } from "./domain/Failure.ts"
import type { ParsedSpec } from "./domain/ParsedSpec.ts"
import { isTerminating } from "./lifecycle/Status.ts"
import { IllegalTransition } from "./lifecycle/table.ts"

/** A spec that was accepted, and whoever waits to hear how it went. */
export interface Configure {
  readonly spec: ParsedSpec
  readonly reply: Deferred.Deferred<Snapshot, Failure>
}

/** `fast` lingers so that the end can be read; `immediate` does not. Neither chooses how Postgres is stopped. */
export type TerminateMode = "fast" | "immediate"

export class Orders extends Context.Service<Orders, {
  /** Answers when the spec is applied, or why it was not. Refused unless the compute is empty, running or healable. */
  readonly configure: (spec: ParsedSpec) => Effect.Effect<Snapshot, Failure | IllegalTransition>
  /** Accepted in every status; asked again in a hurry, it hurries. Does not wait for the end. */
  readonly terminate: (mode: TerminateMode) => Effect.Effect<void>
  /** The next rung of the stop ladder now, and no lingering. */
  readonly hasten: Effect.Effect<void>

  // -- the corridor's side -------------------------------------------------------------------------------------
  readonly next: Effect.Effect<Configure>
  /** One element for every time somebody was in a hurry, also before it was listened to. */
  readonly hurries: Stream.Stream<number>
  /** Returns once somebody has been in a hurry. */
  readonly hurried: Effect.Effect<void>
}>()("compute/Orders") {
  static readonly layer = Layer.effect(
    Orders,
    Effect.gen(function*() {
      const state = yield* ComputeState
      // Acceptance is gated by the status, so one order is the most there can be; the bound is a safety net.
      const specs = yield* Queue.bounded<Configure>(4)
      const hurry = yield* SubscriptionRef.make(0)
      const hurries = SubscriptionRef.changes(hurry).pipe(Stream.filter((times) => times > 0))

      const configure = Effect.fn("Orders.configure")(function*(spec: ParsedSpec) {
        const before = yield* state.now
        if (before.status === "failed" && !before.postgresAlive) {
          return yield* new IllegalTransition({ from: "failed", on: "SpecArrived" })
        }
        const reply = yield* Deferred.make<Snapshot, Failure>()
        yield* Effect.uninterruptible(
          Effect.andThen(state.send("SpecArrived"), Queue.offer(specs, { spec, reply }))
        )
        return yield* Deferred.await(reply)
      })

      const terminate = Effect.fn("Orders.terminate")(function*(mode: TerminateMode) {
        const trigger = mode === "fast" ? "TerminateFastAsked" : "TerminateImmediateAsked"
        yield* state.send(trigger).pipe(Effect.catchTag("IllegalTransition", (refused) =>
          // Already ending: nothing to change, and not the caller's fault.
          isTerminating(refused.from) ? Effect.void : Effect.die(refused)))
      })

      return Orders.of({
        configure,
        terminate,
        hasten: SubscriptionRef.update(hurry, (times) => times + 1),
        next: Queue.take(specs),
        hurries,
        hurried: Effect.asVoid(Stream.runHead(hurries))
      })
    })
  )
}
