/**
 * Makes a primary of a running replica (reference section 11.6), with the files of the new primary in place before
 * Postgres is promoted, so that the walproposer finds its safekeepers.
 *
 * Everything is said in files that the next spec replaces, nothing by ALTER SYSTEM. Each step may find that it is done
 * already: after a failure the same request goes on where it stopped.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { ComputeState } from "../compute/ComputeState.ts"
import { type Failure, PromotionFailed } from "../errors/Failure.ts"
import { type Lsn, printLsn } from "../spec/Lsn.ts"
import { explain } from "../errors/explain.ts"
import { Outfit } from "../compute/ComputeHooks.ts"
import { Pgdata } from "../postgres/Pgdata.ts"
import { Standby } from "./standby.ts"
import { promotedSpec, promotionRefusal, type PromotionRequest, type PromotionStep } from "../compute/promotion.ts"
import type { Facts } from "../postgres/Facts.ts"
import { openFiles, startPlan } from "../postgres/startPlan.ts"
import type { Running } from "../postgres/Postmaster.ts"
import type { Promoted, PromotionOrder } from "../compute/Promotions.ts"
import { reconfigure, rewriteFiles } from "./Reconfigure.ts"

/** Looks at the replay, a second apart. */
const looks = 21

/** `false`: it is no standby any more, so an earlier attempt has promoted it. */
const catchUp = Effect.fnUntraced(function*(flushed: Lsn) {
  const standby = yield* Standby
  for (let look = 1; look <= looks; look++) {
    const replayed = yield* standby.replayed
    if (replayed === null) return false
    if (replayed >= flushed) return true
    if (look === 1) yield* Effect.logInfo(`replayed to ${printLsn(replayed)}, the primary's WAL ends at ${printLsn(flushed)}`)
    if (look < looks) yield* Effect.sleep("1 second")
  }
  return yield* new PromotionFailed({ detail: `didn't catch up with primary in ${looks - 1} retries` })
})

const promotePostgres = Effect.gen(function*() {
  const standby = yield* Standby
  if (!(yield* standby.promote)) return yield* new PromotionFailed({ detail: "pg_promote() did not succeed within its time" })
  if (!(yield* standby.takesWrites)) return yield* new PromotionFailed({ detail: "Postgres is promoted and takes no writes all the same" })
})

/** Milliseconds of the step; it is shown while it runs. */
const timed = Effect.fnUntraced(function*<A, E, R>(step: PromotionStep, effect: Effect.Effect<A, E, R>) {
  const state = yield* ComputeState
  yield* state.note({ promotion: { _tag: "Promoting", step } })
  const before = yield* Clock.currentTimeMillis
  const value = yield* effect
  const millis = (yield* Clock.currentTimeMillis) - before
  yield* Effect.logInfo(`promotion, ${step}: ${millis} ms`)
  return { value, millis }
})

/** A replica that could not be promoted goes on as the replica it was. */
const asPrimary = Effect.fnUntraced(function*(request: PromotionRequest, facts: Facts, postgres: Running) {
  const pgdata = yield* Pgdata
  const files = openFiles(startPlan(promotedSpec(request.spec), facts))
  const { value: before } = yield* timed("preparing the files", rewriteFiles(files, postgres))
  return yield* timed("promoting Postgres", promotePostgres).pipe(
    Effect.tapError(() => Effect.andThen(pgdata.rewrite(before), postgres.reload))
  )
})

const run = Effect.fn("Promote.run")(function*(request: PromotionRequest, facts: Facts, postgres: Running) {
  const state = yield* ComputeState
  const { promotion, spec } = yield* state.now
  const prewarm = yield* (yield* Outfit).fileCache.prewarmState
  const refused = spec === null ? "there is no spec yet" : promotionRefusal(spec, promotion, prewarm.status)
  if (prewarm.status === "failed") yield* Effect.logWarning("the file cache is cold: its prewarm failed")
  if (refused !== null) return yield* new PromotionFailed({ detail: refused })
  const waited = yield* timed("waiting for the WAL", catchUp(request.flushed))
  const promoted = waited.value ? yield* asPrimary(request, facts, postgres) : { millis: 0 }
  const primary = promotedSpec(request.spec)
  const applied = yield* timed("applying the spec", reconfigure(primary, startPlan(primary, facts), postgres))
  return { _tag: "Completed", lsnWait: waited.millis, promote: promoted.millis, reconfigure: applied.millis } satisfies Promoted
})

/** Never fails, and the compute runs on either way. How it went stays to be read, and is what the next attempt begins with. */
export const promote = Effect.fn("Promote.promote")(function*(
  { answer, request }: PromotionOrder,
  facts: Facts,
  postgres: Running,
  tell: (failure: Failure) => Effect.Effect<void>
) {
  const state = yield* ComputeState
  const failed = Effect.fnUntraced(function*(failure: Failure) {
    yield* tell(failure)
    const { promotion } = yield* state.now
    return { _tag: "Failed", error: explain(failure), at: promotion._tag === "Promoting" ? promotion.step : null } satisfies Promoted
  })
  const outcome: Promoted = yield* run(request, facts, postgres).pipe(Effect.catch(failed))
  yield* state.note({ promotion: outcome })
  yield* answer(outcome)
})
