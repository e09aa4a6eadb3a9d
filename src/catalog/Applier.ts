/**
 * Makes the catalog agree with the spec: one apply at a time, from a bounded queue, each ending in an apply report.
 *
 * A caller that goes away cancels nothing. An apply that is cut short because the actor ends is `Abandoned`.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Semaphore from "effect/Semaphore"
import type * as Tracer from "effect/Tracer"
import { ComputeState } from "../compute/ComputeState.ts"
import type { ApplyReport } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { Abandoned, ApplyFailed, type Failure } from "../errors/Failure.ts"
import { Admin } from "../pgwire/Admin.ts"
import { nearestSpan } from "../platform/tracing.ts"
import { type ApplierOptions, type ApplyRequest, applySpec } from "./apply.ts"
import { discardTemplate } from "./discardTemplate.ts"
import { migrate, updateNeonExtension } from "./migrations.ts"
import { failuresOf, printApplyReport } from "./outcome.ts"
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
    /** Run once users may connect: migrations if the catalog was applied, the newest `neon` extension, no template. */
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
        // Start and reconfigure are the callers, and each waits for its answer.
        const queue = yield* Queue.bounded<QueuedApply>(16)
        // An apply must not copy from a template that is being dropped.
        const lock = yield* Semaphore.make(1)
        const discard = lock.withPermit(discardTemplate).pipe(Effect.provideService(Admin, admin))

        const applyNow = (request: ApplyRequest): Effect.Effect<ApplyReport, Failure> =>
          lock.withPermit(applySpec(request, options)).pipe(
            Effect.provideService(Admin, admin),
            Effect.tap((applyReport) => state.note({ applyReport })),
            Effect.tap(logReport),
            Effect.flatMap((applyReport) =>
              applyReport.outcome === "done"
                ? Effect.succeed(applyReport)
                : Effect.fail(new ApplyFailed({ failures: failuresOf(applyReport) }))
            )
          )

        const answer = ({ reply, request, span }: QueuedApply) =>
          Effect.onExit(
            span === undefined ? applyNow(request) : Effect.withParentSpan(applyNow(request), span),
            (exit) =>
              Deferred.done(reply, Exit.hasInterrupts(exit) ? Exit.fail(new Abandoned({ what: "the apply" })) : exit)
          ).pipe(
            // The caller gets a failure. A defect is a bug: it ends the actor, and the supervisor handles it.
            Effect.catch(() => Effect.void),
            // After a start, `afterStart` drops the template, when nobody waits for Postgres any more.
            Effect.andThen(
              Effect.flatMap(lastReport, (applyReport) =>
                request.kind === "start" || applyReport === null || !leavesTemplate(applyReport) ? Effect.void : discard
              )
            )
          )

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
            run: Effect.gen(function* () {
              const migrated =
                (yield* lastReport) === null ? Exit.void : yield* Effect.exit(migrate(options.privilegedRole))
              const updated = yield* Effect.exit(updateNeonExtension)
              if ((yield* lastReport) !== null) yield* discard
              yield* updated
              yield* migrated
            }).pipe(Effect.provideService(Admin, admin))
          }
        })
      })
    )
}

const logReport = (applyReport: ApplyReport): Effect.Effect<void> =>
  applyReport.outcome === "done"
    ? Effect.logInfo(printApplyReport(applyReport))
    : Effect.andThen(
        Effect.logError(printApplyReport(applyReport)),
        Effect.forEach(failuresOf(applyReport), (line) => Effect.logError(line), { discard: true })
      )
