/**
 * Orders to make a primary of a replica. One at a time: whoever asks while one is under way hears how that one went.
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
import { ComputeState } from "./ComputeState.ts"
import type { Promotion, PromotionRequest } from "./promotion.ts"

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

export class Promotions extends Context.Service<Promotions, {
  /** Answers when it is over. Never waits for a Postgres that does not run. */
  readonly promote: (request: PromotionRequest) => Effect.Effect<Promoted>

  // -- the corridor's side -------------------------------------------------------------------------------------
  readonly next: Effect.Effect<PromotionOrder>
  /** Nobody will promote any more: whoever waits hears so. */
  readonly close: Effect.Effect<void>
}>()("compute/Promotions") {
  static readonly layer = Layer.effect(
    Promotions,
    Effect.gen(function*() {
      const state = yield* ComputeState
      const current = yield* SubscriptionRef.make<UnderWay | null>(null)
      const lock = yield* Semaphore.make(1)
      const alone = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.uninterruptible(lock.withPermit(effect))

      const open = Effect.fnUntraced(function*(request: PromotionRequest) {
        const reply = yield* Deferred.make<Promoted>()
        const answer = (outcome: Promoted) =>
          Effect.andThen(
            SubscriptionRef.update(current, (now) => now?.reply === reply ? null : now),
            Effect.asVoid(Deferred.succeed(reply, outcome))
          )
        yield* SubscriptionRef.set(current, { request, answer, reply, taken: false })
        return Deferred.await(reply)
      })

      /** What to wait for; found alone, waited for in company. */
      const join = Effect.fnUntraced(function*(request: PromotionRequest) {
        const now = yield* SubscriptionRef.get(current)
        if (now !== null) return Deferred.await(now.reply)
        const { postgresAlive, promotion, status } = yield* state.now
        if (promotion._tag === "Completed") return Effect.succeed<Promoted>(promotion)
        const serves = postgresAlive && status !== "init" && status !== "empty"
        return serves ? yield* open(request) : Effect.succeed(failed("there is no running Postgres to promote"))
      })

      const take = Effect.gen(function*() {
        const order = yield* SubscriptionRef.get(current)
        if (order === null || order.taken) return null
        yield* SubscriptionRef.set(current, { ...order, taken: true })
        return order
      })

      return Promotions.of({
        promote: Effect.fn("Promotions.promote")((request: PromotionRequest) => Effect.flatten(alone(join(request)))),
        next: Effect.gen(function*() {
          while (true) {
            yield* SubscriptionRef.changes(current).pipe(Stream.filter((now) => now !== null && !now.taken), Stream.runHead)
            const order = yield* alone(take)
            if (order !== null) return order
          }
        }),
        close: alone(Effect.flatMap(SubscriptionRef.get(current), (now) =>
          now === null ? Effect.void : now.answer(failed("the compute is ending"))))
      })
    })
  )
}
