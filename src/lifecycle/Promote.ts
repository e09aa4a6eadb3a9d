/**
 * Makes a primary of a running replica (docs/reference/compute_ctl.md#promote), with the files of the new primary in
 * place before Postgres is promoted, so that the walproposer finds its safekeepers.
 *
 * Everything is said in files that the next spec replaces, nothing by ALTER SYSTEM. Each step may find that it is done
 * already: after a failure the same request goes on where it stopped.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { promotedSpec, promotionRefusal, type PromotionRequest, type PromotionStep } from "../compute/promotion.ts"
import type { Promoted, PromotionCommand } from "../compute/Promotions.ts"
import { type Failure, NotSupported, PromotionFailed } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { Admin } from "../pgwire/Admin.ts"
import { Pgdata } from "../postgres/Pgdata.ts"
import type { PlanInputs } from "../postgres/PlanInputs.ts"
import type { Running } from "../postgres/Postmaster.ts"
import { openFiles, startPlan } from "../postgres/startPlan.ts"
import { invalidLsn, type Lsn, parseLsn, printLsn } from "../spec/identifiers.ts"
import { defectsAsFailures, logFailure } from "./outcome.ts"
import { reconfigure, rewriteFiles } from "./Reconfigure.ts"

// ---------------------------------------------------------------------------------------------------------------------
// What a standby is asked on its way to a primary. Each question has a session of its own, for a session may outlive
// what it knew of the server it began on.
// ---------------------------------------------------------------------------------------------------------------------

export interface Standby {
  /** How far WAL is replayed; `null`: it is no standby any more. */
  readonly replayed: Effect.Effect<Lsn | null, Failure>
  /** Whether Postgres says that it is promoted. It is given a minute. */
  readonly promote: Effect.Effect<boolean, Failure>
  readonly takesWrites: Effect.Effect<boolean, Failure>
}

const nobody = Effect.fail(new NotSupported({ what: "a promotion", because: "there is no Postgres here to promote" }))

export const Standby = Context.Reference<Standby>("compute/pg/Standby", {
  defaultValue: () => ({ replayed: nobody, promote: nobody, takesWrites: nobody })
})

const promoteWithin = Duration.seconds(60)

const make = (admin: Admin["Service"]): Standby => {
  const ask = (sql: string, within?: Duration.Duration) =>
    Effect.scoped(Effect.flatMap(admin.connect("promote"), (wire) => wire.rows(sql, within)))
  const seconds = Duration.toSeconds(promoteWithin)
  return {
    replayed: Effect.map(
      ask("SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn()", Duration.seconds(10)),
      ([row]) => (row?.[0] === "t" ? Option.getOrElse(parseLsn(row[1] ?? ""), () => invalidLsn) : null)
    ),
    promote: Effect.map(
      ask(`SELECT pg_catalog.pg_promote(true, ${seconds})`, Duration.sum(promoteWithin, Duration.seconds(10))),
      ([row]) => row?.[0] === "t"
    ),
    takesWrites: Effect.map(ask("SHOW transaction_read_only", Duration.seconds(10)), ([row]) => row?.[0] === "off")
  }
}

export const standby: Layer.Layer<never, never, Admin> = Layer.effect(Standby, Effect.map(Admin, make))

// ---------------------------------------------------------------------------------------------------------------------

/** Looks at the replay, a second apart. */
const looks = 21

/** `false`: it is no standby any more, so an earlier attempt has promoted it. */
const catchUp = Effect.fnUntraced(function* (flushLsn: Lsn) {
  const standby = yield* Standby
  for (let look = 1; look <= looks; look++) {
    const replayed = yield* standby.replayed
    if (replayed === null) return false
    if (replayed >= flushLsn) return true
    if (look === 1)
      yield* Effect.logInfo(`replayed to ${printLsn(replayed)}, the primary's WAL ends at ${printLsn(flushLsn)}`)
    if (look < looks) yield* Effect.sleep("1 second")
  }
  return yield* new PromotionFailed({ detail: `didn't catch up with primary in ${looks - 1} retries` })
})

const promotePostgres = Effect.gen(function* () {
  const standby = yield* Standby
  if (!(yield* standby.promote))
    return yield* new PromotionFailed({ detail: "pg_promote() did not succeed within its time" })
  if (!(yield* standby.takesWrites))
    return yield* new PromotionFailed({ detail: "Postgres is promoted and takes no writes all the same" })
})

/** Milliseconds of the step; it is shown while it runs. */
const timed = Effect.fnUntraced(function* <A, E, R>(step: PromotionStep, effect: Effect.Effect<A, E, R>) {
  const state = yield* ComputeState
  yield* state.note({ promotion: { _tag: "Promoting", step } })
  const before = yield* Clock.currentTimeMillis
  const value = yield* effect
  const millis = (yield* Clock.currentTimeMillis) - before
  yield* Effect.logInfo(`promotion, ${step}: ${millis} ms`)
  return { value, millis }
})

/** A replica that could not be promoted goes on as the replica it was. */
const asPrimary = Effect.fnUntraced(function* (request: PromotionRequest, inputs: PlanInputs, postgres: Running) {
  const pgdata = yield* Pgdata
  const primary = promotedSpec(request.spec)
  const files = openFiles(startPlan(primary, inputs))
  const {
    value: { before }
  } = yield* timed("preparing the files", rewriteFiles(primary, files, postgres))
  return yield* timed("promoting Postgres", promotePostgres).pipe(
    Effect.tapError(() => Effect.andThen(pgdata.rewrite(before), postgres.reload))
  )
})

const run = Effect.fn("Promote.run")(function* (request: PromotionRequest, inputs: PlanInputs, postgres: Running) {
  const state = yield* ComputeState
  const { promotion, spec } = yield* state.now
  const prewarm = yield* (yield* ComputeHooks).fileCache.prewarmState
  const refused = spec === null ? "there is no spec yet" : promotionRefusal(spec, promotion, prewarm.status)
  if (prewarm.status === "failed") yield* Effect.logWarning("the file cache is cold: its prewarm failed")
  if (refused !== null) return yield* new PromotionFailed({ detail: refused })
  const waited = yield* timed("waiting for the WAL", catchUp(request.flushLsn))
  const promoted = waited.value ? yield* asPrimary(request, inputs, postgres) : { millis: 0 }
  const primary = promotedSpec(request.spec)
  const applied = yield* timed("applying the spec", reconfigure(primary, startPlan(primary, inputs), postgres))
  return {
    _tag: "Completed",
    lsnWait: waited.millis,
    promote: promoted.millis,
    reconfigure: applied.millis
  } satisfies Promoted
})

/** Never fails, and the compute runs on either way. How it went can be read, and is where the next attempt begins. */
export const promote = Effect.fn("Promote.promote")(function* (
  { answer, request }: PromotionCommand,
  inputs: PlanInputs,
  postgres: Running
) {
  const state = yield* ComputeState
  const failed = Effect.fnUntraced(function* (failure: Failure) {
    yield* logFailure("the replica could not be promoted", failure)
    const { promotion } = yield* state.now
    return {
      _tag: "Failed",
      error: explain(failure),
      at: promotion._tag === "Promoting" ? promotion.step : null
    } satisfies Promoted
  })
  const outcome: Promoted = yield* run(request, inputs, postgres).pipe(
    defectsAsFailures("the promotion"),
    Effect.catch(failed)
  )
  yield* state.note({ promotion: outcome })
  yield* answer(outcome)
})
