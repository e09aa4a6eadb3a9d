/**
 * Who may ask: bearer tokens on the routes that are not anonymous (reference section 7.4).
 *
 * It trusts a verifier for signatures and `plan/http/authorize.ts` for claims. A token is never logged or repeated.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as HttpApiSchema from "effect/http-api/HttpApiSchema"
import * as HttpApiSecurity from "effect/http-api/HttpApiSecurity"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { authorize, type Rights, missingToken } from "./authorize.ts"
import type { Refusal } from "./httpAnswer.ts"
import { answerOf } from "./answer.ts"
import type { Verify } from "./Verifier.ts"

/** Every answer that is not 2xx. */
export const Refused = Schema.Struct({
  error: Schema.String,
  code: Schema.String,
  hint: Schema.String,
  problems: Schema.optionalKey(Schema.Array(Schema.Struct({ path: Schema.String, message: Schema.String })))
}).annotate({ identifier: "Refused" })

export const refused = (...statuses: ReadonlyArray<number>) => statuses.map((status) => Refused.pipe(HttpApiSchema.status(status)))

/** Who asks, as far as it was proven. */
export class Caller extends Context.Service<Caller, Rights>()("compute/http/Caller") {}

/** Somebody who was asked for no token. */
const anybody: Rights = { admin: false }

export class Auth extends HttpApiMiddleware.Service<Auth, { provides: Caller }>()("compute/http/Auth", {
  security: { bearer: HttpApiSecurity.bearer },
  error: refused(400, 401, 403)
}) {
  /** `verify` null: everybody may ask. */
  static readonly layer = (options: { readonly verify: Verify | null; readonly computeId: string }): Layer.Layer<Auth> =>
    Layer.succeed(Auth, {
      bearer: (handler, { credential }) => {
        const { computeId, verify } = options
        if (verify === null) return Effect.provideService(handler, Caller, anybody)
        const admitted: Effect.Effect<Rights, Refusal> = Redacted.value(credential) === ""
          ? Effect.fail(missingToken)
          : Effect.flatMap(verify(credential), (claims) => Effect.fromResult(authorize(claims, computeId)))
        return Effect.matchEffect(admitted, {
          onFailure: (refusal) => Effect.succeed(answerOf(refusal)),
          onSuccess: (rights) => Effect.provideService(handler, Caller, rights)
        })
      }
    })
}
