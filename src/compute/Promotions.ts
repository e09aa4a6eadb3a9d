/**
 * Requests to make a primary of a replica. One at a time: whoever asks while one is under way is answered with it.
 *
 * A caller that goes away cancels nothing. What failed may be asked for again; what succeeded is answered again and
 * not done again. `lifecycle/Promote.ts` does the work.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { SpecConflict } from "../errors/Failure.ts"
import { type Asked, callersSpan } from "./Commands.ts"
import { ComputeState } from "./ComputeState.ts"
import type { Promotion, PromotionRequest } from "./promotion.ts"
import { identityConflict } from "./specConflict.ts"

/** How a promotion ended. */
export type Promoted = Extract<Promotion, { readonly _tag: "Completed" | "Failed" }>

export interface PromotionCommand extends Asked {
  readonly request: PromotionRequest
  /** Answers everybody who waits, and makes room for the next one. */
  readonly answer: (outcome: Promoted) => Effect.Effect<void>
}

interface UnderWay extends PromotionCommand {
  readonly reply: Deferred.Deferred<Promoted>
  readonly taken: boolean
}

const failed = (error: string): Promoted => ({ _tag: "Failed", error, at: null })

/**
 * A replica becomes a primary, once, whoever asks and how often.
 *
 * @example
 * ```ts
 * const compute = Effect.provide(Effect.void, Promotions.layer)
 * ```
 */
export class Promotions extends Context.Service<
  Promotions,
  {
    /** Answers when it is over. Never waits for a Postgres that does not run. Refused for another's spec. */
    readonly promote: (request: PromotionRequest) => Effect.Effect<Promoted, SpecConflict>

    // -- for the lifecycle ---------------------------------------------------------------------------------------
    readonly next: Effect.Effect<PromotionCommand>
    /** Nobody will promote any more: whoever waits is answered so. */
    readonly close: Effect.Effect<void>
  }
>()("compute/Promotions") {
  static readonly layer = Layer.effect(
    Promotions,
    Effect.gen(function* () {
      const state = yield* ComputeState
      const current = yield* SubscriptionRef.make<UnderWay | null>(null)
      const lock = yield* Semaphore.make(1)
      const exclusively = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.uninterruptible(lock.withPermit(effect))

      const open = Effect.fnUntraced(function* (request: PromotionRequest) {
        const reply = yield* Deferred.make<Promoted>()
        const answer = (outcome: Promoted) =>
          Effect.andThen(
            SubscriptionRef.update(current, (now) => (now?.reply === reply ? null : now)),
            Effect.asVoid(Deferred.succeed(reply, outcome))
          )
        yield* SubscriptionRef.set(current, { request, answer, reply, taken: false, caller: yield* callersSpan })
        return Deferred.await(reply)
      })

      /** What to wait for; found under the lock, waited for outside of it. */
      const join = Effect.fnUntraced(function* (request: PromotionRequest) {
        const conflict = identityConflict((yield* state.now).spec, request.spec)
        if (conflict !== null) return yield* conflict
        const now = yield* SubscriptionRef.get(current)
        if (now !== null) return Deferred.await(now.reply)
        const { postgresAlive, promotion, status } = yield* state.now
        if (promotion._tag === "Completed") return Effect.succeed<Promoted>(promotion)
        const serves = postgresAlive && status !== "init" && status !== "empty"
        return serves ? yield* open(request) : Effect.succeed(failed("there is no running Postgres to promote"))
      })

      const take = Effect.gen(function* () {
        const command = yield* SubscriptionRef.get(current)
        if (command === null || command.taken) return null
        yield* SubscriptionRef.set(current, { ...command, taken: true })
        return command
      })

      return Promotions.of({
        promote: Effect.fn("Promotions.promote")((request: PromotionRequest) =>
          Effect.flatten(exclusively(join(request)))
        ),
        next: Effect.gen(function* () {
          while (true) {
            yield* SubscriptionRef.changes(current).pipe(
              Stream.filter((now) => now !== null && !now.taken),
              Stream.runHead
            )
            const command = yield* exclusively(take)
            if (command !== null) return command
          }
        }),
        close: exclusively(
          Effect.flatMap(SubscriptionRef.get(current), (now) =>
            now === null ? Effect.void : now.answer(failed("the compute is ending"))
          )
        )
      })
    })
  )
}
