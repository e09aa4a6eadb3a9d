/**
 * Commands to make a primary of a replica. One at a time: whoever asks while one is under way hears how that one went.
 *
 * A caller that goes away cancels nothing. What failed may be asked for again; what succeeded is answered again and
 * not done again. The corridor does the work (`Promote.ts`).
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { PrewarmState } from "./ComputeHooks.ts"
import { saidBy } from "../postgres/postgresqlConf.ts"
import type { Lsn } from "../spec/identifiers.ts"
import type { GenericOption, ParsedSpec } from "../spec/ParsedSpec.ts"
import { ComputeState } from "./ComputeState.ts"

// ---------------------------------------------------------------------------------------------------------------------
// A replica on its way to a primary: the steps, and what the outside reads of them (reference section 11.6).
// ---------------------------------------------------------------------------------------------------------------------

export type PromotionStep = "waiting for the WAL" | "preparing the files" | "promoting Postgres" | "applying the spec"

export type Promotion =
  | { readonly _tag: "NotPromoted" }
  | { readonly _tag: "Promoting"; readonly step: PromotionStep }
  /** Milliseconds of each step; 0 for one that an earlier attempt had taken already. */
  | { readonly _tag: "Completed"; readonly lsnWait: number; readonly promote: number; readonly reconfigure: number }
  /** It may be asked for again: what is done already is not done twice. `at` is the step that failed; `null`: none was begun. */
  | { readonly _tag: "Failed"; readonly error: string; readonly at: PromotionStep | null }

export const notPromoted: Promotion = { _tag: "NotPromoted" }

/** What is asked of a replica. */
export interface PromotionRequest {
  /** The primary's, as it was until now. */
  readonly spec: ParsedSpec
  /** Where the primary's WAL ended. */
  readonly flushLsn: Lsn
}

/**
 * Why this compute cannot be promoted; `null`: it can. A promotion that only lacks its spec can be finished. Where
 * there is a store to warm the file cache from, a cold one is not let in (reference section 11.6); one whose warming
 * failed is.
 */
export const promotionRefusal = (spec: ParsedSpec, last: Promotion, prewarm: PrewarmState["status"]): string | null => {
  if (last._tag === "Failed" && last.at === "applying the spec") return null
  if (spec.mode._tag !== "Replica") return `compute mode "${spec.mode._tag}" is not replica`
  const cold = prewarm === "not_prewarmed" ? "NotPrewarmed" : prewarm === "prewarming" ? "Prewarming" : null
  return cold !== null && spec.endpointStorage.address !== null ? `compute ${cold}` : null
}

const standbyNames = "synchronous_standby_names"

/**
 * The spec that the new primary runs by. The walproposer is its synchronous standby from the first commit on, also
 * when the spec leaves that to others. In the file, where the next spec replaces it; what ALTER SYSTEM writes would
 * win over all later specs.
 */
export const promotedSpec = (spec: ParsedSpec): ParsedSpec => {
  const primary: ParsedSpec = { ...spec, mode: { _tag: "Primary" } }
  if (spec.neon === null || spec.neon.safekeepers.length === 0 || saidBy(spec)(standbyNames) !== null) return primary
  const setting: GenericOption = { name: standbyNames, value: "walproposer", quoted: true }
  return { ...primary, settings: [...(spec.settings ?? []), setting] }
}

/** What `/promote` answers, in the reference's words; while it is under way it is not promoted yet. */
export const promotionBody = (promotion: Promotion) => {
  switch (promotion._tag) {
    case "NotPromoted":
      return { status: "not_promoted" } as const
    case "Promoting":
      return { status: "not_promoted", step: promotion.step } as const
    case "Completed":
      return {
        status: "completed",
        lsn_wait_time_ms: promotion.lsnWait,
        pg_promote_time_ms: promotion.promote,
        reconfigure_time_ms: promotion.reconfigure
      } as const
    case "Failed":
      return { status: "failed", error: promotion.error } as const
  }
}

// ---------------------------------------------------------------------------------------------------------------------

/** How a promotion ended. */
export type Promoted = Extract<Promotion, { readonly _tag: "Completed" | "Failed" }>

export interface PromotionOrder {
  readonly request: PromotionRequest
  /** Tells everybody who waits, and makes room for the next one. */
  readonly answer: (outcome: Promoted) => Effect.Effect<void>
}

interface UnderWay extends PromotionOrder {
  readonly reply: Deferred.Deferred<Promoted>
  readonly taken: boolean
}

const failed = (error: string): Promoted => ({ _tag: "Failed", error, at: null })

export class Promotions extends Context.Service<
  Promotions,
  {
    /** Answers when it is over. Never waits for a Postgres that does not run. */
    readonly promote: (request: PromotionRequest) => Effect.Effect<Promoted>

    // -- the corridor's side -------------------------------------------------------------------------------------
    readonly next: Effect.Effect<PromotionOrder>
    /** Nobody will promote any more: whoever waits hears so. */
    readonly close: Effect.Effect<void>
  }
>()("compute/Promotions") {
  static readonly layer = Layer.effect(
    Promotions,
    Effect.gen(function* () {
      const state = yield* ComputeState
      const current = yield* SubscriptionRef.make<UnderWay | null>(null)
      const lock = yield* Semaphore.make(1)
      const alone = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.uninterruptible(lock.withPermit(effect))

      const open = Effect.fnUntraced(function* (request: PromotionRequest) {
        const reply = yield* Deferred.make<Promoted>()
        const answer = (outcome: Promoted) =>
          Effect.andThen(
            SubscriptionRef.update(current, (now) => (now?.reply === reply ? null : now)),
            Effect.asVoid(Deferred.succeed(reply, outcome))
          )
        yield* SubscriptionRef.set(current, { request, answer, reply, taken: false })
        return Deferred.await(reply)
      })

      /** What to wait for; found alone, waited for in company. */
      const join = Effect.fnUntraced(function* (request: PromotionRequest) {
        const now = yield* SubscriptionRef.get(current)
        if (now !== null) return Deferred.await(now.reply)
        const { postgresAlive, promotion, status } = yield* state.now
        if (promotion._tag === "Completed") return Effect.succeed<Promoted>(promotion)
        const serves = postgresAlive && status !== "init" && status !== "empty"
        return serves ? yield* open(request) : Effect.succeed(failed("there is no running Postgres to promote"))
      })

      const take = Effect.gen(function* () {
        const order = yield* SubscriptionRef.get(current)
        if (order === null || order.taken) return null
        yield* SubscriptionRef.set(current, { ...order, taken: true })
        return order
      })

      return Promotions.of({
        promote: Effect.fn("Promotions.promote")((request: PromotionRequest) => Effect.flatten(alone(join(request)))),
        next: Effect.gen(function* () {
          while (true) {
            yield* SubscriptionRef.changes(current).pipe(
              Stream.filter((now) => now !== null && !now.taken),
              Stream.runHead
            )
            const order = yield* alone(take)
            if (order !== null) return order
          }
        }),
        close: alone(
          Effect.flatMap(SubscriptionRef.get(current), (now) =>
            now === null ? Effect.void : now.answer(failed("the compute is ending"))
          )
        )
      })
    })
  )
}
