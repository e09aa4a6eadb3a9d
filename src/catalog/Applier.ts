/**
 * Makes the catalog agree with the spec: one apply at a time, from a bounded mailbox, each ending in a applyReport.
 *
 * A caller that goes away cancels nothing. An apply that is cut short because the actor ends is `Abandoned`.
 */
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Ref from "effect/Ref"
import * as Semaphore from "effect/Semaphore"
import type * as Tracer from "effect/Tracer"
import { ComputeState, type ApplyReport } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { Abandoned, ApplyFailed, type Failure } from "../errors/Failure.ts"
import { Admin } from "../pgwire/Admin.ts"
import { nearestSpan } from "../platform/Spawn.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { discardTemplate, execute } from "./execute.ts"
import { migrate, updateNeonExtension } from "./migrations.ts"
import { observe } from "./observe.ts"
import { failuresOf, printApplyReport, applyReportOf } from "./outcome.ts"
import { planApply } from "./planApply.ts"
import { leavesTemplate } from "./planTemplate.ts"
import { completeOptions } from "./planText.ts"
import { freshTally, millisNow, openSession } from "./sessions.ts"

export interface ApplyRequest {
  readonly kind: ApplyReport["kind"]
  readonly spec: ParsedSpec
  /** Visit every wanted database, whatever the records say. */
  readonly force?: boolean
}

export interface ApplierOptions {
  /** The almost-superuser given to users. */
  readonly privilegedRole: string
  /** `CREATE DATABASE` copies files: for storage where fsync is off while the spec is applied. */
  readonly fileCopy?: boolean
}

interface Letter {
  readonly request: ApplyRequest
  readonly reply: Deferred.Deferred<ApplyReport, Failure>
  /** The sender's, so that the work is seen in the sender's trace and not in a trace of its own. */
  readonly span: Tracer.AnySpan | undefined
}

export class Applier extends Context.Service<
  Applier,
  {
    /** Fails with `ApplyFailed` when any operation failed; what did not depend on it was done all the same. */
    readonly apply: (request: ApplyRequest) => Effect.Effect<ApplyReport, Failure>
    readonly lastReceipt: Effect.Effect<ApplyReport | null>
    /** The loop that does the work; the supervisor runs it. */
    readonly actor: Actor
    /** Run once users may connect: migrations if the catalog was applied, the newest `neon` extension, no template. */
    readonly afterStart: Actor
  }
>()("compute/sql/Applier") {
  static readonly layer = (options: ApplierOptions): Layer.Layer<Applier, never, Admin | ComputeState> =>
    Layer.effect(
      Applier,
      Effect.gen(function* () {
        const admin = yield* Admin
        const state = yield* ComputeState
        const last = yield* Ref.make<ApplyReport | null>(null)
        // Start, reconfigure and promote are the senders, and each waits for its answer.
        const mailbox = yield* Queue.bounded<Letter>(16)
        // An apply must not copy from a template that is being dropped.
        const turn = yield* Semaphore.make(1)
        const discard = turn.withPermit(discardTemplate).pipe(Effect.provideService(Admin, admin))

        const applyNow = (request: ApplyRequest): Effect.Effect<ApplyReport, Failure> =>
          turn.withPermit(applySpec(request, options)).pipe(
            Effect.provideService(Admin, admin),
            Effect.tap((applyReport) => Effect.andThen(Ref.set(last, applyReport), state.note({ applyReport }))),
            Effect.tap(report),
            Effect.flatMap((applyReport) =>
              applyReport.outcome === "done"
                ? Effect.succeed(applyReport)
                : Effect.fail(new ApplyFailed({ failures: failuresOf(applyReport) }))
            )
          )

        const answer = ({ reply, request, span }: Letter) =>
          Effect.onExit(
            span === undefined ? applyNow(request) : Effect.withParentSpan(applyNow(request), span),
            (exit) =>
              Deferred.done(reply, Exit.hasInterrupts(exit) ? Exit.fail(new Abandoned({ what: "the apply" })) : exit)
          ).pipe(
            // A failure is the caller's to hear; a defect is a bug, and the supervisor's to see.
            Effect.catch(() => Effect.void),
            // A start has `afterStart` for it, when nobody waits for Postgres any more.
            Effect.andThen(
              Effect.flatMap(Ref.get(last), (applyReport) =>
                request.kind === "start" || applyReport === null || !leavesTemplate(applyReport) ? Effect.void : discard
              )
            )
          )

        return Applier.of({
          apply: Effect.fn("Applier.apply")(function* (request: ApplyRequest) {
            const reply = yield* Deferred.make<ApplyReport, Failure>()
            yield* Queue.offer(mailbox, { request, reply, span: nearestSpan(yield* Effect.context<never>()) })
            return yield* Deferred.await(reply)
          }),
          lastReceipt: Ref.get(last),
          actor: {
            name: "applier",
            policy: "permanent",
            run: Effect.forever(Effect.flatMap(Queue.take(mailbox), answer))
          },
          afterStart: {
            name: "migrations",
            policy: "temporary",
            run: Effect.gen(function* () {
              const migrated =
                (yield* Ref.get(last)) === null ? Exit.void : yield* Effect.exit(migrate(options.privilegedRole))
              const updated = yield* Effect.exit(updateNeonExtension)
              if ((yield* Ref.get(last)) !== null) yield* discard
              yield* updated
              yield* migrated
            }).pipe(Effect.provideService(Admin, admin))
          }
        })
      })
    )
}

/** Observes, plans, executes. Fails only when the catalog could not be read at all. */
export const applySpec: (request: ApplyRequest, options: ApplierOptions) => Effect.Effect<ApplyReport, Failure, Admin> =
  Effect.fn("Applier.applySpec")(function* (request, given) {
    const admin = yield* Admin
    const options = completeOptions(
      {
        ...given,
        kind: request.kind,
        force: request.force ?? false,
        // On a live system fsync is on, and copying files would then be the slowest way.
        fileCopy: given.fileCopy === true && request.kind === "start"
      },
      admin.superuser
    )
    const purpose = request.kind === "start" ? "apply_config" : "reconfigure"
    const tally = freshTally()
    const startedAt = DateTime.formatIso(yield* DateTime.now)
    const from = yield* millisNow
    return yield* Effect.scoped(
      Effect.gen(function* () {
        const session = yield* openSession(tally, purpose, null)
        const plan = planApply(request.spec, yield* observe(session, request.spec, options), options)
        const outcomes = yield* execute(plan, session, tally, purpose)
        const millis = (yield* millisNow) - from
        return applyReportOf(plan, outcomes, {
          startedAt,
          millis,
          roundTrips: tally.roundTrips,
          statements: tally.statements
        })
      })
    )
  })

const report = (applyReport: ApplyReport): Effect.Effect<void> =>
  applyReport.outcome === "done"
    ? Effect.logInfo(printApplyReport(applyReport))
    : Effect.andThen(
        Effect.logError(printApplyReport(applyReport)),
        Effect.forEach(failuresOf(applyReport), (line) => Effect.logError(line), { discard: true })
      )
