/**
 * The life of one compute, from spec to exit. Read this first.
 *
 * It waits for a spec, starts (`start.ts`), serves (`serve.ts`) and ends (`shutdown.ts`), and nothing leaves around the
 * end. What may happen is in `compute/transitions.ts`, what each failure means in `errors/policy.ts`.
 */
import type * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import { callersSpan, Commands, type Configure } from "../compute/Commands.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import type { Failure } from "../errors/Failure.ts"
import { below } from "../platform/tracing.ts"
import type { PlanInputs } from "../postgres/PlanInputs.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { advance, defectsAsFailures, terminationAsked, unlessAsked } from "./outcome.ts"
import { type Ending, serve } from "./serve.ts"
import { escalating, exitDelay, shutdown } from "./shutdown.ts"
import { type Held, nothingHeld, start } from "./start.ts"

export interface LifecycleOptions {
  /** `null`: wait for one. */
  readonly spec: ParsedSpec | null
  readonly inputs: PlanInputs
  /** Lag or silence after which a replica is not ready; zero, the default: it always is. */
  readonly replicaMaxLag?: Duration.Duration
  /** Fails when no start can succeed; before anything is claimed or built. By default nothing is asked. */
  readonly beforeStart?: Effect.Effect<void, Failure>
  /** What else the compute is nothing without; its failure ends the compute. By default nothing. */
  readonly essential?: Effect.Effect<never, Failure>
  /** For callers who hold the outcome in their own hands and need no delay. */
  readonly exitDelayOf?: typeof exitDelay
}

/**
 * From the first spec to the end. Never fails: a failure is part of how it ended. Postgres and the claim on the
 * timeline are gone before the exit delay begins, so a successor need not wait for it.
 *
 * @example
 * ```ts
 * const spec = yield* Effect.fromResult(parseSpec(wire, { source: "a test", storage: "local" }))
 * const parts = Layer.mergeAll(simulationLayer, Commands.layer, Promotions.layer)
 * const ended = yield* runLifecycle({ spec, inputs }).pipe(
 *   Effect.provide(Layer.provideMerge(parts, ComputeState.layer))
 * )
 * ```
 */
export const runLifecycle = (options: LifecycleOptions) =>
  Effect.flatMap(callersSpan, (caller) => below(null)(lifecycle(options, caller)))

/** The start alone belongs to the trace of whoever started us. */
const lifecycle = Effect.fnUntraced(function* (options: LifecycleOptions, caller: Configure["caller"]) {
  const state = yield* ComputeState
  const commands = yield* Commands
  const held = yield* Ref.make<Held>(nothingHeld)
  const toTheEnd = Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      // Not an actor: it has to outlive them, and go on until the end is reached.
      yield* Effect.forkScoped(escalating(held))
      return yield* shutdown(held, yield* Effect.exit(restore(live(options, caller, held))))
    }).pipe(
      Effect.scoped,
      Effect.flatMap((ended) => Effect.map(conclude, (ending) => ({ ended, ending })))
    )
  )
  const { ended, ending } = yield* toTheEnd
  const { metrics, spec } = yield* state.now
  const delay = (options.exitDelayOf ?? exitDelay)(ending, metrics.total_startup_ms > 0, spec !== null)
  yield* Effect.raceFirst(Effect.sleep(delay), Effect.raceFirst(commands.escalated, terminationAsked)).pipe(
    Effect.ensuring(conclude)
  )
  return ended
})

/** Everything before the end. */
const live = (options: LifecycleOptions, caller: Configure["caller"], held: Ref.Ref<Held>) =>
  Effect.gen(function* () {
    const first = options.spec === null ? yield* awaitSpec : immediately(options.spec, caller)
    if (first === null) return { _tag: "Asked" } satisfies Ending
    const serving = yield* advance("StartBegan", { spec: first.spec }).pipe(
      Effect.andThen(options.beforeStart ?? Effect.void),
      Effect.andThen(unlessAsked("the start", start(first.spec, options.inputs, held))),
      defectsAsFailures("the start"),
      Effect.tapError((failure) => first.answer(Result.fail(failure))),
      Effect.tap(() => Effect.flatMap(advance("PostgresReady"), (snapshot) => first.answer(Result.succeed(snapshot)))),
      below(first.caller)
    )
    return yield* serve(serving, first.spec, options.inputs, options.replicaMaxLag ?? Duration.zero)
  }).pipe(
    defectsAsFailures("the compute"),
    Effect.raceFirst(options.essential ?? Effect.never),
    // Asked for in the middle of something: not a failure.
    Effect.catchTag("Abandoned", () => Effect.succeed<Ending>({ _tag: "Asked" }))
  )

/** The spec is in hand at once: nobody waits to hear of it, but the command has the same shape. */
const immediately = (spec: ParsedSpec, caller: Configure["caller"]): Configure => ({
  _tag: "Configure",
  spec,
  answer: () => Effect.void,
  caller
})

/** Until a spec arrives, whose clock starts then, or (`null`) the end is asked for. */
const awaitSpec = Effect.gen(function* () {
  const state = yield* ComputeState
  const commands = yield* Commands
  yield* state.note({ waitingFor: "a spec: nobody has sent one to POST /configure" })
  const command = yield* Effect.raceFirst(commands.next, Effect.as(terminationAsked, null))
  // Without a spec there is nothing to refresh, so the table refuses it.
  if (command === null || command._tag === "Refresh") return null
  yield* state.note(({ since, ...now }) => clockStarts(since)(now))
  return command
})

/** What was waited before a spec arrived is no part of the start. */
export const clockStarts =
  (at: DateTime.Utc) =>
  ({ metrics, startTime }: Pick<Snapshot, "metrics" | "startTime">): Pick<Snapshot, "metrics" | "startTime"> => ({
    startTime: at,
    metrics: { ...metrics, wait_for_spec_ms: at.epochMilliseconds - startTime.epochMilliseconds }
  })

/** An end that was asked for becomes `terminated`, now that Postgres is gone. Answers the status it was asked in. */
const conclude = Effect.gen(function* () {
  const state = yield* ComputeState
  const { status } = yield* state.now
  if (status === "termination_pending_fast" || status === "termination_pending_immediate") {
    yield* Effect.orDie(state.send("PostgresGone"))
  }
  return status
})
