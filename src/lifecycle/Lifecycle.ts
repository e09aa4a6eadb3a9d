/**
 * The life of one compute, from spec to exit. Read this first.
 *
 * Each step is a room. Rooms do not know each other; this file introduces them. What to do is decided in `plan/`,
 * what may happen in `lifecycle/table.ts`, and what went wrong in `domain/Failure.ts`.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { Applier } from "../catalog/Applier.ts"
import { Commands, type Configure, type Refresh } from "../compute/Commands.ts"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { Promotions } from "../compute/Promotions.ts"
import type { Fact, Snapshot } from "../compute/snapshot.ts"
import { supervise } from "../compute/Supervisor.ts"
import { isTerminating, type Status, type Trigger } from "../compute/transitions.ts"
import { Abandoned, type ExitStatus, type Failure, PostmasterDied } from "../errors/Failure.ts"
import { causesOf, explain, hintOf } from "../errors/policy.ts"
import { crashReport } from "../postgres/crashReport.ts"
import { Pgdata } from "../postgres/Pgdata.ts"
import { Postmaster, type Running } from "../postgres/Postmaster.ts"
import { type PlanInputs, planWarnings, startPlan } from "../postgres/startPlan.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { Storage, type Timeline } from "../storage/Storage.ts"
import { promote } from "./Promote.ts"
import { applyCatalog, reconfigure } from "./Reconfigure.ts"

// ---------------------------------------------------------------------------------------------------------------------
// How long a finished compute stays up so that its control plane can read how it went (reference section 3.5).
//
// "fast" and "immediate" are the control plane's words for lingering, not Postgres shutdown modes; for those see
// `shutdownStages.ts`.
// ---------------------------------------------------------------------------------------------------------------------

/** Long enough for a control plane that polls to see the end, or the error. */
export const long = Duration.seconds(30)
/** Long enough for an answer that is on its way. */
export const short = Duration.millis(300)

/**
 * `ending` is the last status before the end was reached: a failed *start* lingers so that its error can be read;
 * a Postgres that died while running does not, so that its successor can start at once.
 */
export const exitDelay = (ending: Status, everRan: boolean): Duration.Duration =>
  ending === "termination_pending_fast" || (ending === "failed" && !everRan) ? long : short

// ---------------------------------------------------------------------------------------------------------------------
// Steps along the table, as the corridor takes them, and how a failure is told where it is consumed.
//
// Refuses nothing that the table allows; the one thing that may come in between is an order to end.
// ---------------------------------------------------------------------------------------------------------------------

/** Takes a row. The only thing that may have come in between is an order to end. */
export const advance = (on: Trigger, fact: Fact = {}) =>
  Effect.flatMap(ComputeState, (state) => state.send(on, fact)).pipe(
    Effect.catchTag("IllegalTransition", (refused) =>
      isTerminating(refused.from) ? Effect.fail(new Abandoned({ what: on })) : Effect.die(refused)
    )
  )

/** Into `failed`, with the whole chain of causes; a compute that is failed or ending already keeps its status. */
export const failWith = Effect.fnUntraced(function* (what: string, failure: Failure) {
  const state = yield* ComputeState
  const error = explain(failure)
  yield* report(what, failure)
  yield* state.send("Broke", { error }).pipe(Effect.catchTag("IllegalTransition", () => state.note({ error })))
})

/** Told once, where it is consumed: the sentence, its causes, and what to do. */
export const report = (what: string, failure: Failure) =>
  Effect.logError(`${what}: ${causesOf(failure).join(": ")} (hint: ${hintOf(failure)})`)

// ---------------------------------------------------------------------------------------------------------------------

/** How a life ended. Postgres's own exit when it was running; a failure when something went wrong. */
export interface Ended {
  readonly exit: ExitStatus | null
  readonly failure: Failure | null
}

interface Alive {
  readonly timeline: Timeline
  readonly postgres: Running
}

/** The Postgres that a hurried caller means, while there is one. */
type Current = Ref.Ref<Running | null>

/**
 * From the first spec (`null`: wait for one) to the end. Never fails: a failure is part of how it ended. Postgres
 * and the claim on the timeline are gone before the lingering begins, so a successor need not wait for it.
 * `exitDelayOf` is for callers who hold the outcome in their own hands and need no lingering.
 */
export const life = Effect.fnUntraced(function* (
  given: ParsedSpec | null,
  inputs: PlanInputs,
  exitDelayOf: typeof exitDelay = exitDelay
) {
  const state = yield* ComputeState
  const commands = yield* Commands
  const current: Current = yield* Ref.make<Running | null>(null)

  const first = yield* given === null ? awaitFirst : immediately(given)
  const ended =
    first === null
      ? nothingHappened
      : yield* Effect.raceFirst(live(first, inputs, current), hurrying(current)).pipe(
          Effect.catch((failure) =>
            Effect.as(
              Effect.andThen(
                failure._tag === "Abandoned" ? Effect.void : failWith("the compute failed", failure),
                first.answer(Result.fail(failure))
              ),
              { exit: null, failure } satisfies Ended
            )
          )
        )
  yield* state.note({ postgresAlive: false })
  yield* commands.close
  yield* (yield* Promotions).close

  const everRan = (yield* state.now).metrics.total_startup_ms > 0
  const stay = exitDelayOf(yield* conclude, everRan)
  yield* Effect.raceFirst(Effect.sleep(stay), Effect.raceFirst(commands.escalated, asked))
  yield* conclude
  return ended
})

const nothingHappened: Ended = { exit: null, failure: null }

// -- birth -----------------------------------------------------------------------------------------------------

/** The spec is in hand at once: nobody waits to hear of it, but the order has the same shape. */
const immediately = (spec: ParsedSpec): Effect.Effect<Configure | null> =>
  Effect.succeed({ _tag: "Configure", spec, answer: () => Effect.void })

/** Empty: until a spec arrives, whose clock starts then, or (`null`) the end is asked for. */
const awaitFirst = Effect.gen(function* () {
  const state = yield* ComputeState
  const commands = yield* Commands
  const order = yield* Effect.raceFirst(commands.next, Effect.as(asked, null))
  // Without a spec there is nothing to refresh, so the state refuses it.
  if (order === null || order._tag === "Refresh") return null
  yield* state.note(({ metrics, since, startTime }) => ({
    startTime: since,
    metrics: { ...metrics, wait_for_spec_ms: since.epochMilliseconds - startTime.epochMilliseconds }
  }))
  return order
})

const live = Effect.fnUntraced(function* (first: Configure, inputs: PlanInputs, current: Current) {
  const state = yield* ComputeState
  const hooks = yield* ComputeHooks
  yield* advance("StartBegan", { spec: first.spec })
  const alive = yield* unlessAsked("the start", start(first.spec, inputs, current))
  const { metrics } = yield* state.now
  yield* Effect.logInfo(`compute start finished ${JSON.stringify(metrics)}`)

  const died = yield* advance("PostgresReady").pipe(
    Effect.tap((snapshot) => first.answer(Result.succeed(snapshot))),
    Effect.tap(() => hooks.onRunning(first.spec)),
    Effect.andThen(serve(alive, inputs)),
    Effect.catchTag("Abandoned", () => Effect.succeed(null))
  )
  // Companions leave beside Postgres: a pgbouncer in front of it must not go on taking clients in.
  const [exit] = yield* Effect.all([died === null ? alive.postgres.stop : Effect.succeed(died), hooks.onStopped], {
    concurrency: "unbounded"
  })
  yield* state.note({ postgresAlive: false })
  const failure = died === null ? null : yield* reportCrash(alive.postgres, died)
  yield* state.note({ flushLsn: yield* leave(alive.timeline, exit) })
  return { exit, failure } satisfies Ended
}, Effect.scoped)

const start = Effect.fn("Compute.start")(function* (spec: ParsedSpec, inputs: PlanInputs, current: Current) {
  const state = yield* ComputeState
  const storage = yield* Storage
  const pgdata = yield* Pgdata
  const postmaster = yield* Postmaster
  const hooks = yield* ComputeHooks
  const plan = startPlan(spec, inputs)
  for (const warning of planWarnings(spec, inputs)) yield* Effect.logWarning(warning)

  const timeline = yield* state.timed("claim the timeline", storage.claim(spec, pgdata.directory))
  yield* pgdata.begin(plan, storage.kind === "neon" ? "Archive" : "InPlace")
  const lsn = yield* state.timed("settle", timeline.commitLsn("start"))
  const [built] = yield* Effect.all(
    [state.timed("build PGDATA", pgdata.build(plan, timeline.source(lsn))), hooks.beforeStart(spec)],
    { concurrency: "unbounded" }
  )

  yield* hooks.beforeSpawn(spec)
  const postgres = yield* postmaster.start({ token: spec.neon?.token ?? null })
  yield* Ref.set(current, postgres)
  yield* state.note({ postgresAlive: true })
  yield* hooks.afterSpawn(postgres.pid)
  yield* state.timed("start Postgres", postgres.ready)

  yield* state.timed("apply the spec", applyCatalog("start", spec, plan, postgres))
  if (plan.opening.length > 0) {
    yield* pgdata.rewrite(plan.opening)
    yield* postgres.reload
  }
  yield* state.timed("secure the storage", timeline.secure)
  yield* state.note((now) => ({
    metrics: {
      ...now.metrics,
      basebackup_bytes: built.archiveBytes,
      pageserver_connect_micros: built.connectMicros,
      basebackup_ms: millisOf(now, "build PGDATA"),
      start_postgres_ms: millisOf(now, "start Postgres"),
      config_ms: millisOf(now, "apply the spec") + millisOf(now, "secure the storage"),
      total_startup_ms: now.steps.reduce((end, step) => Math.max(end, step.startedAt + step.millis), 1)
    }
  }))
  return { timeline, postgres } satisfies Alive
})

const millisOf = (snapshot: Snapshot, step: string): number =>
  snapshot.steps.find(({ name }) => name === step)?.millis ?? 0

// -- running ---------------------------------------------------------------------------------------------------

/** Serves commands and keeps the storage until the end is asked for (`null`) or Postgres leaves by itself. */
const serve = Effect.fnUntraced(function* ({ postgres, timeline }: Alive, inputs: PlanInputs) {
  const commands = yield* Commands
  const promotions = yield* Promotions
  const applier = yield* Applier
  const hooks = yield* ComputeHooks
  const turn = yield* Semaphore.make(1)
  const orderly = Effect.forever(
    Effect.flatMap(commands.next, (order) =>
      turn.withPermit(order._tag === "Refresh" ? refresh(order, postgres, inputs) : take(order, postgres, inputs))
    )
  )
  const promoting = Effect.forever(
    Effect.flatMap(promotions.next, (order) =>
      turn.withPermit(
        promote(order, inputs, postgres, (failure) => report("the replica could not be promoted", failure))
      )
    )
  )
  const upkeep = supervise([
    { name: "storage keeper", policy: "transient", run: timeline.keep },
    applier.afterStart,
    ...hooks.actors(postgres.reload)
  ])
  return yield* Effect.raceAllFirst([
    Effect.map(postgres.exit, (exit): ExitStatus | null => exit),
    Effect.as(asked, null),
    orderly,
    promoting,
    Effect.andThen(upkeep, Effect.never)
  ])
})

/** One accepted spec, applied to the running Postgres. Its failure is the caller's and the status's, not ours. */
const take = Effect.fn("Compute.take")(function* (order: Configure, postgres: Running, inputs: PlanInputs) {
  const applied = advance("ConfigureBegan").pipe(
    Effect.andThen(reconfigure(order.spec, startPlan(order.spec, inputs), postgres)),
    Effect.andThen(advance("ConfigureDone")),
    Effect.tapError((failure) => failWith("could not configure compute node", failure))
  )
  yield* order.answer(yield* answerable(order, applied))
})

/** How it went; who waits hears of an interruption too. */
const answerable = <R>(order: Configure, effect: Effect.Effect<Snapshot, Failure, R>) =>
  Effect.result(effect).pipe(
    Effect.onInterrupt(() => order.answer(Result.fail(new Abandoned({ what: "the new spec" }))))
  )

/**
 * The spec is fetched again and applied, until that succeeds. A spec that waits in line is fresher and is applied
 * instead; when there is none for us any more, we end.
 */
const refresh = Effect.fn("Compute.refresh")(function* (asked: Refresh, postgres: Running, inputs: PlanInputs) {
  const commands = yield* Commands
  const gone = Effect.logError("there is no spec for this compute any more, so it ends").pipe(
    Effect.andThen(commands.terminate("immediate")),
    Effect.andThen(Effect.never)
  )
  while (true) {
    yield* advance("RefreshBegan")
    const queued = yield* commands.takeQueued
    const found = queued === null ? asked.fetch : Effect.succeed(queued.spec)
    const applied = Effect.flatMap(found, (spec) =>
      spec === null
        ? gone
        : Effect.andThen(reconfigure(spec, startPlan(spec, inputs), postgres), advance("ConfigureDone"))
    )
    const outcome = yield* queued === null ? Effect.result(applied) : answerable(queued, applied)
    if (queued !== null) yield* queued.answer(outcome)
    if (Result.isSuccess(outcome)) return
    yield* report("the spec could not be refreshed", outcome.failure)
    yield* advance("RefreshRetry")
    yield* Effect.raceFirst(Effect.sleep(refreshEvery), commands.whenQueued)
  }
})

/** Between two attempts to fetch and apply a spec again. */
const refreshEvery = Duration.seconds(5)

// -- end -------------------------------------------------------------------------------------------------------

const asked = Effect.flatMap(ComputeState, (state) =>
  state.until("termination_pending_fast", "termination_pending_immediate")
)

/** Whatever is under way when the end is asked for is dropped, and its waiters hear `Abandoned`. */
const unlessAsked = <A, R>(what: string, effect: Effect.Effect<A, Failure, R>) =>
  Effect.raceFirst(
    effect,
    Effect.flatMap(asked, () => Effect.fail(new Abandoned({ what })))
  )

/** A second signal, and each one after it, takes the stop stages's next stage at once. Never ends by itself. */
const hurrying = (current: Current) =>
  Effect.flatMap(Commands, (commands) =>
    Stream.runForEach(commands.escalations, () =>
      Effect.flatMap(Ref.get(current), (postgres) => postgres?.escalate ?? Effect.void)
    )
  ).pipe(Effect.andThen(Effect.never))

/** Postgres left unasked: the story for the status and the log. */
const reportCrash = Effect.fnUntraced(function* (postgres: Running, exit: ExitStatus) {
  const log = yield* postgres.recentLog
  const failure = new PostmasterDied({ exit, crashReport: crashReport(exit, log), log })
  yield* failWith("Postgres is gone", failure)
  return failure
})

/** What storage wants to know of the end, then the last commitLsn. A failure is told; it holds nobody up. */
const leave = Effect.fnUntraced(function* (timeline: Timeline, exit: ExitStatus) {
  const commands = yield* Commands
  const orderly = Effect.andThen(timeline.leave(exit), timeline.commitLsn("end"))
  return yield* Effect.raceFirst(orderly, Effect.as(commands.escalated, null)).pipe(
    Effect.catch((failure) => Effect.as(report("the end could not be settled", failure), null))
  )
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
