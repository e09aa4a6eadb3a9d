/**
 * The routes about what is around Postgres: the local file cache, extensions on demand, and a replica's promotion.
 *
 * Before Postgres was looked for there is nothing around it yet, and they say so.
 */
import * as Effect from "effect/Effect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import type { Failure } from "../errors/Failure.ts"
import { parseLsn } from "../spec/Lsn.ts"
import type { Outfit } from "../compute/ComputeHooks.ts"
import { type Refusal, refusal, refusalOf } from "./httpAnswer.ts"
import { promotionBody } from "../compute/promotion.ts"
import type { Promotions } from "../compute/Promotions.ts"
import { answered, json, readBody, within } from "./answer.ts"
import { PromoteBody } from "./bodies.ts"
import type { EndpointOptions } from "./options.ts"

const tooEarly = refusal(412, "too_early", "Postgres was not looked for yet", "GET /status says where the start is")
const notAnLsn = refusal(400, "lsn_malformed", "wal_flush_lsn: expected an LSN such as 0/16B9188", "send where the primary's WAL ends")

const accepted = HttpServerResponse.empty({ status: 202 })
const done = HttpServerResponse.empty({ status: 200 })

export const neighbours = (options: EndpointOptions, promotions: Promotions["Service"]) => {
  const { dialect } = options
  const around = Effect.flatMap(options.outfit, (outfit) => outfit === null ? Effect.fail(tooEarly) : Effect.succeed(outfit))
  const ask = <A>(answer: (outfit: Outfit["Service"]) => Effect.Effect<A, Failure | Refusal>) => answered(Effect.flatMap(around, answer))

  /** The reference tells an unknown list of extensions (409) from a store that is not configured (412). */
  const extensionRefusal = (failure: Failure): Refusal => {
    const refused = refusalOf(failure)
    const noList = dialect === "head" && failure._tag === "ExtensionsUnavailable" && failure.missing === "list"
    return noList ? { ...refused, status: 409 } : refused
  }

  const promote = Effect.gen(function*() {
    const { spec, wal_flush_lsn } = yield* readBody(PromoteBody, dialect, "invalid request body")
    const flushed = yield* Effect.mapError(Effect.fromOption(parseLsn(wal_flush_lsn)), () => notAnLsn)
    const parsed = yield* Effect.fromResult(options.parseSpec(spec))
    const outcome = yield* within("the promotion", options.patience.configure)(promotions.promote({ spec: parsed, flushed }))
    return json(promotionBody(outcome), outcome._tag === "Completed" ? 200 : 500)
  })

  return {
    prewarm: ({ query }: { readonly query: { readonly from_endpoint?: string } }) =>
      ask(({ fileCache }) => Effect.as(fileCache.prewarm(query.from_endpoint ?? null), accepted)),
    prewarmState: () => ask(({ fileCache }) => Effect.map(fileCache.prewarmState, (state) => json(state))),
    cancelPrewarm: () => ask(({ fileCache }) => Effect.as(fileCache.cancelPrewarm, accepted)),
    offload: () => ask(({ fileCache }) => Effect.as(fileCache.offload, accepted)),
    offloadState: () => ask(({ fileCache }) => Effect.map(fileCache.offloadState, (state) => json(state))),
    promote: () => answered(promote),
    fetchExtension: ({ params, query }: {
      readonly params: { readonly id: string }
      readonly query: { readonly is_library?: "true" | "false" }
    }) =>
      ask((outfit) =>
        outfit.fetchExtension(params.id, query.is_library === "true").pipe(
          Effect.mapError(extensionRefusal),
          Effect.as(dialect === "2024" ? HttpServerResponse.text("OK") : done)
        ))
  }
}
