/**
 * Makes the catalog agree with the spec: one apply at a time, from a bounded queue, each ending in an apply report.
 *
 * A database in which something fails is a condition; a start goes on without it, a later spec is answered with it.
 * A caller that goes away cancels nothing. An apply that is cut short because the actor ends is `Abandoned`. A bug in
 * one apply is that apply's failure, and the next one is done.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Queue from "effect/Queue"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import type * as Tracer from "effect/Tracer"
import { ComputeState } from "../compute/ComputeState.ts"
import { counters } from "../compute/counters.ts"
import type { ApplyReport, Condition } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { isTerminating } from "../compute/transitions.ts"
import { Abandoned, ApplyFailed, Defect, type Failure } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { Admin } from "../pgwire/Admin.ts"
import { nearestSpan } from "../platform/tracing.ts"
import { type ApplierOptions, type ApplyRequest, applySpec } from "./apply.ts"
import { discardTemplate } from "./discardTemplate.ts"
import { migrate, updateNeonExtension } from "./migrations.ts"
import { failuresOf, printApplyReport, sortFailures } from "./outcome.ts"
import { leavesMigrations } from "./planMigrations.ts"
import { leavesTemplate } from "./planTemplate.ts"

interface QueuedApply {
  readonly request: ApplyRequest
  readonly reply: Deferred.Deferred<ApplyReport, Failure>
  /** The caller's, so that the work is seen in the caller's trace and not in a trace of its own. */
  readonly span: Tracer.AnySpan | undefined
}

export class Applier extends Context.Service<
  Applier,
  {
    /** Fails with `ApplyFailed` when any operation failed; what did not depend on it was done all the same. */
    readonly apply: (request: ApplyRequest) => Effect.Effect<ApplyReport, Failure>
    /** The loop that does the work; the supervisor runs it. */
    readonly actor: Actor
    /** Run once users may connect: what the start has left, such as migrations and the template. Mostly nothing. */
    readonly afterStart: Actor
  }
>()("compute/catalog/Applier") {
  static readonly layer = (options: ApplierOptions): Layer.Layer<Applier, never, Admin | ComputeState> =>
    Layer.effect(
      Applier,
      Effect.gen(function* () {
        const admin = yield* Admin
        const state = yield* ComputeState
        const lastReport = Effect.map(state.now, ({ applyReport }) => applyReport)
        /** Of the start; `null`: the catalog was left alone. */
        const started = yield* Ref.make<ApplyReport | null>(null)
        // Start and reconfigure are the callers, and each waits for its answer.
        const queue = yield* Queue.bounded<QueuedApply>(16)
        // An apply must not copy from a template that is being dropped.
        const lock = yield* Semaphore.make(1)
        const discard = lock.withPermit(discardTemplate).pipe(Effect.provideService(Admin, admin))

        const applyNow = (request: ApplyRequest): Effect.Effect<ApplyReport, Failure> =>
          lock.withPermit(applySpec(request, options)).pipe(
            Effect.provideService(Admin, admin),
            Effect.tap((applyReport) => state.note({ applyReport })),
            Effect.tap(({ operations }) =>
              Metric.update(
                counters.statementTimeouts,
                operations.filter(({ sqlState }) => sqlState === cancelled).length
              )
            ),
            Effect.tap((applyReport) => (request.kind === "start" ? Ref.set(started, applyReport) : Effect.void)),
            Effect.flatMap((applyReport) => conclude(applyReport, admin.systemDatabase)),
            Effect.provideService(ComputeState, state)
          )

        /** After a start, `afterStart` drops the template, when nobody waits for Postgres any more. */
        const discardAfter = ({ kind }: ApplyRequest) =>
          Effect.flatMap(lastReport, (applyReport) =>
            kind === "start" || applyReport === null || !leavesTemplate(applyReport) ? Effect.void : discard
          )

        const answer = ({ reply, request, span }: QueuedApply) =>
          Effect.onExit(
            span === undefined ? applyNow(request) : Effect.withParentSpan(applyNow(request), span),
            (exit) => Deferred.done(reply, replyOf(exit))
          ).pipe(goOn, Effect.andThen(goOn(discardAfter(request))))

        return Applier.of({
          apply: Effect.fn("Applier.apply")(function* (request: ApplyRequest) {
            const reply = yield* Deferred.make<ApplyReport, Failure>()
            yield* Queue.offer(queue, { request, reply, span: nearestSpan(yield* Effect.context<never>()) })
            return yield* Deferred.await(reply)
          }),
          actor: {
            name: "applier",
            kind: "essential",
            run: Effect.forever(Effect.flatMap(Queue.take(queue), answer))
          },
          afterStart: {
            name: "migrations",
            kind: "auxiliary",
            run: afterStart(options, Ref.get(started), discard).pipe(
              Effect.provideService(Admin, admin),
              Effect.provideService(ComputeState, state)
            )
          }
        })
      })
    )
}

/** A timeout, or `pg_cancel_backend` by somebody else. */
const cancelled = "57014"

/** An apply that met the end of the compute has not failed: nobody waits for it, and the next start does the rest. */
const conclude = Effect.fnUntraced(function* (applyReport: ApplyReport, systemDatabase: string) {
  const { status } = yield* (yield* ComputeState).now
  if (applyReport.outcome !== "done" && isTerminating(status)) {
    yield* Effect.logInfo(`the compute ends, which cut an apply short: ${printApplyReport(applyReport)}`)
    return yield* new Abandoned({ what: "the apply" })
  }
  yield* logReport(applyReport)
  return yield* decide(applyReport, systemDatabase)
})

/** Says which databases are broken. The rest of a start must not wait for their owners; all else that failed counts. */
const decide = Effect.fnUntraced(function* (applyReport: ApplyReport, systemDatabase: string) {
  const state = yield* ComputeState
  const { broken, others } = sortFailures(applyReport, systemDatabase)
  for (const { about, code } of (yield* state.now).degraded)
    if (code === "database_broken" && about !== undefined && !broken.has(about)) yield* state.clear(code, about)
  for (const [about, lines] of broken) yield* state.raise(brokenDatabase(about, lines))
  const failures = applyReport.kind === "start" ? others : failuresOf(applyReport)
  return failures.length === 0 ? applyReport : yield* new ApplyFailed({ failures })
})

const brokenDatabase = (about: string, [first = "", ...more]: ReadonlyArray<string>): Condition => ({
  code: "database_broken",
  about,
  message:
    `${about} is not as the spec says: ${first}${more.length === 0 ? "" : `; and ${more.length} more`}. ` +
    "The other databases are served; the next apply tries again"
})

/** The caller has its answer, so nothing that goes wrong is lost; the next one is to have one, too. */
const goOn = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<unknown, E, R> =>
  Effect.catchCause(effect, (cause) =>
    Cause.hasInterrupts(cause) ? Effect.failCause(cause) : Effect.logDebug("an apply did not succeed", cause)
  )

/** A bug is a failure with a name, and an interruption is the actor's end. */
const replyOf = (exit: Exit.Exit<ApplyReport, Failure>): Exit.Exit<ApplyReport, Failure> => {
  if (Exit.hasInterrupts(exit)) return Exit.fail(new Abandoned({ what: "the apply" }))
  if (Exit.isSuccess(exit) || !Cause.hasDies(exit.cause)) return exit
  return Exit.fail(new Defect({ what: "applying the catalog", cause: Cause.squash(exit.cause) }))
}

/** Between two attempts at what is done after the start: 1 s, doubling, at most 5 minutes. */
const pauses = Schedule.exponential("1 second").pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.minutes(5)))),
  Schedule.jittered
)

/** What a start leaves to be done once users may connect. */
const leftBy = (start: ApplyReport | null) => ({
  migrations: start !== null && leavesMigrations(start),
  template: start !== null && leavesTemplate(start),
  // An apply sees to the extension itself, unless that failed.
  neon: start === null || start.operations.some((one) => one.object === "extension neon" && one.outcome === "failed")
})

/** Until all of it is done. What fails shows as a condition, and keeps nothing else from being done. */
const afterStart = Effect.fn("Applier.afterStart")(function* (
  options: ApplierOptions,
  start: Effect.Effect<ApplyReport | null>,
  discard: Effect.Effect<void>
) {
  const left = leftBy(yield* start)
  const attempt = Effect.gen(function* () {
    const migrated = yield* left.migrations
      ? succeeds("migrations", migrate(options.privilegedRole))
      : Effect.succeed(true)
    const updated = yield* left.neon
      ? succeeds("update of the extension neon", updateNeonExtension)
      : Effect.succeed(true)
    return migrated && updated
  })
  const done = yield* attempt
  if (left.template) yield* discard
  if (done) return
  yield* Effect.sleep("1 second")
  yield* Effect.repeat(attempt, { schedule: pauses, until: (all) => all })
})

const succeeds = Effect.fnUntraced(function* <A, R>(what: string, effect: Effect.Effect<A, Failure, R>) {
  const state = yield* ComputeState
  const exit = yield* Effect.exit(effect)
  if (Exit.isSuccess(exit)) {
    yield* state.clear("migration_failed", what)
    return true
  }
  if (Cause.hasInterrupts(exit.cause)) return yield* Effect.interrupt
  yield* state.raise({
    code: "migration_failed",
    about: what,
    message:
      `the ${what} after the start failed (${causesOf(Cause.squash(exit.cause)).join(": ")}) and will be tried ` +
      "again; users are served meanwhile"
  })
  return false
})

const logReport = (applyReport: ApplyReport): Effect.Effect<void> =>
  applyReport.outcome === "done"
    ? Effect.logInfo(printApplyReport(applyReport))
    : Effect.andThen(
        Effect.logError(printApplyReport(applyReport)),
        Effect.forEach(failuresOf(applyReport), (line) => Effect.logError(line), { discard: true })
      )
