/**
 * A running compute: takes specs, refreshes and promotions one at a time, and keeps its actors alive, until the end is
 * asked for or comes by itself. Ends nothing; that is `shutdown.ts`.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Semaphore from "effect/Semaphore"
import { Applier } from "../catalog/Applier.ts"
import { Commands, type Configure, type Refresh } from "../compute/Commands.ts"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { Promotions } from "../compute/Promotions.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import { type Actor, supervise } from "../compute/Supervisor.ts"
import { configureConflict } from "../compute/specConflict.ts"
import { Abandoned, type ExitStatus, type Failure } from "../errors/Failure.ts"
import { causesOf, policyOf } from "../errors/policy.ts"
import { below } from "../platform/tracing.ts"
import type { PlanInputs } from "../postgres/PlanInputs.ts"
import type { Running } from "../postgres/Postmaster.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { startPlan } from "../postgres/startPlan.ts"
import { abandonedAtTheEnd, advance, defectsAsFailures, failWith, logFailure, terminationAsked } from "./outcome.ts"
import { postgresWatch, stoppedFromOutside } from "./postgresWatch.ts"
import { promote } from "./Promote.ts"
import { reconfigure } from "./Reconfigure.ts"
import { replicaWatch } from "./replicaWatch.ts"
import type { Serving } from "./start.ts"
import { startHistory } from "./startHistory.ts"

/** Why a compute that served ends. What went wrong is a `Failure` instead. */
export type Ending =
  | { readonly _tag: "Asked" }
  /** Postgres has left, unasked. */
  | { readonly _tag: "Exited"; readonly postgres: Running; readonly exit: ExitStatus }
  /** Somebody other than us told Postgres to stop, and it is about to. */
  | { readonly _tag: "StoppedFromOutside" }

/** Serves until the compute has to end. Fails when an essential actor gives up. */
export const serve = Effect.fnUntraced(function* (
  { postgres, timeline }: Serving,
  first: ParsedSpec,
  inputs: PlanInputs,
  replicaMaxLag: Duration.Duration
) {
  const applier = yield* Applier
  const hooks = yield* ComputeHooks
  const turn = yield* Semaphore.make(1)
  /** A spec that failed with what ends a running compute. */
  const fatal = yield* Deferred.make<never, Failure>()
  const actors = supervise([
    yield* commandActor(turn, postgres, inputs, fatal),
    yield* promotionActor(turn, postgres, inputs),
    { name: "storage archiver", kind: "auxiliary", run: timeline.keep },
    postgresWatch(postgres),
    ...(first.mode._tag === "Replica" ? [replicaWatch(replicaMaxLag)] : []),
    startHistory(timeline),
    applier.afterStart,
    { name: "first run hooks", kind: "auxiliary", run: hooks.onRunning(first) },
    ...hooks.actors(postgres.reload)
  ])
  return yield* Effect.raceAllFirst([
    Effect.map(postgres.exit, (exit): Ending => ({ _tag: "Exited", postgres, exit })),
    Effect.as(terminationAsked, { _tag: "Asked" } satisfies Ending),
    Effect.as(stoppedFromOutside(postgres), { _tag: "StoppedFromOutside" } satisfies Ending),
    Deferred.await(fatal),
    Effect.andThen(actors, Effect.never)
  ])
})

const commandActor = Effect.fnUntraced(function* (
  turn: Semaphore.Semaphore,
  postgres: Running,
  inputs: PlanInputs,
  fatal: Deferred.Deferred<never, Failure>
) {
  const commands = yield* Commands
  return {
    name: "command queue",
    kind: "essential",
    run: Effect.forever(
      Effect.flatMap(commands.next, (command) =>
        turn
          .withPermit(
            command._tag === "Refresh"
              ? refresh(command, postgres, inputs)
              : configure(command, postgres, inputs, fatal)
          )
          .pipe(below(command.caller))
      )
    )
  } satisfies Actor<unknown>
})

const promotionActor = Effect.fnUntraced(function* (turn: Semaphore.Semaphore, postgres: Running, inputs: PlanInputs) {
  const promotions = yield* Promotions
  return {
    name: "promotion",
    kind: "essential",
    run: Effect.forever(
      Effect.flatMap(promotions.next, (command) =>
        turn.withPermit(promote(command, inputs, postgres)).pipe(below(command.caller))
      )
    )
  } satisfies Actor<unknown>
})

/** One accepted spec, applied to the running Postgres. When that fails, the error policy says whether it goes on. */
const configure = Effect.fn("Lifecycle.configure")(function* (
  command: Configure,
  postgres: Running,
  inputs: PlanInputs,
  fatal: Deferred.Deferred<never, Failure>
) {
  const applied = advance("ConfigureBegan").pipe(
    Effect.andThen(applyLater(command.spec, postgres, inputs)),
    defectsAsFailures("applying the spec"),
    abandonedAtTheEnd("the new spec"),
    Effect.tapError((failure) =>
      failure._tag === "Abandoned"
        ? Effect.void
        : policyOf(failure).whileRunning === "unchanged"
          ? asBefore(failure)
          : failWith("could not configure compute node", failure)
    )
  )
  const outcome = yield* answerable(command, applied)
  yield* command.answer(outcome)
  if (Result.isFailure(outcome) && policyOf(outcome.failure).whileRunning === "end") {
    yield* Deferred.fail(fatal, outcome.failure)
  }
})

/** A promotion may have come between its acceptance and its turn, so what it must not change is looked at again. */
const applyLater = Effect.fnUntraced(function* (spec: ParsedSpec, postgres: Running, inputs: PlanInputs) {
  const conflict = configureConflict((yield* (yield* ComputeState).now).spec, spec)
  if (conflict !== null) return yield* conflict
  yield* reconfigure(spec, startPlan(spec, inputs), postgres)
  return yield* advance("ConfigureDone")
})

/** A spec that is refused changes nothing: what had failed before it is as failed as it was. */
const asBefore = Effect.fnUntraced(function* (failure: Failure) {
  const { error } = yield* (yield* ComputeState).now
  yield* logFailure("a spec was refused", failure)
  yield* error === null ? advance("ConfigureDone") : advance("Broke", { error })
})

/** How it went; who waits is answered after an interruption, too. */
const answerable = <R>(command: Configure, effect: Effect.Effect<Snapshot, Failure, R>) =>
  Effect.result(effect).pipe(
    Effect.onInterrupt(() => command.answer(Result.fail(new Abandoned({ what: "the new spec" }))))
  )

/**
 * The spec is fetched again and applied, until that succeeds. A queued spec is fresher and is applied instead; when
 * there is none for this compute any more, it ends.
 */
const refresh = Effect.fn("Lifecycle.refresh")(
  function* ({ fetch }: Refresh, postgres: Running, inputs: PlanInputs) {
    const commands = yield* Commands
    const state = yield* ComputeState
    const gone = Effect.logError("there is no spec for this compute any more, so it ends").pipe(
      Effect.andThen(commands.terminate("immediate")),
      Effect.andThen(Effect.never)
    )
    while (true) {
      yield* advance("RefreshBegan")
      const queued = yield* commands.takeQueued
      const found = queued === null ? fetch : Effect.succeed(queued.spec)
      const applied = Effect.flatMap(found, (spec) => (spec === null ? gone : applyLater(spec, postgres, inputs))).pipe(
        defectsAsFailures("refreshing the spec")
      )
      const outcome = yield* queued === null
        ? Effect.result(applied)
        : answerable(queued, below(queued.caller)(applied))
      if (queued !== null) yield* queued.answer(outcome)
      if (Result.isSuccess(outcome)) return yield* state.clear("refresh_failed")
      yield* logFailure("the spec could not be refreshed", outcome.failure)
      const message = `the spec could not be refreshed and is tried again: ${causesOf(outcome.failure).join(": ")}`
      yield* state.raise({ code: "refresh_failed", message })
      yield* advance("RefreshRetry")
      yield* Effect.raceFirst(Effect.flatMap(refreshPause, Effect.sleep), commands.whenQueued)
    }
  },
  Effect.catchTag("Abandoned", () => Effect.never)
)

/** Between two attempts: 5 s, by up to a fifth more or less, so that a fleet does not ask in step. */
const refreshPause = Effect.map(Random.nextBetween(0.8, 1.2), (factor) => Duration.millis(5_000 * factor))
