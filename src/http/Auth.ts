/**
 * Who may ask: bearer tokens on the routes that are not anonymous (docs/reference/compute_ctl.md#authorization).
 *
 * It trusts a verifier for signatures and `authorize.ts` for claims. A token is never logged or repeated.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as HttpApiSecurity from "effect/http-api/HttpApiSecurity"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { answerOf } from "./answer.ts"
import { authorize, missingToken, type Rights } from "./authorize.ts"
import { refused } from "./bodies.ts"
import type { Refusal } from "./refusals.ts"
import type { Verify } from "./Verifier.ts"

/** Who asks, as far as it was proven. */
export class Caller extends Context.Service<Caller, Rights>()("compute/http/Caller") {}

/** Somebody who was asked for no token. */
const anybody: Rights = { admin: false }

export class Auth extends HttpApiMiddleware.Service<Auth, { provides: Caller }>()("compute/http/Auth", {
  security: { bearer: HttpApiSecurity.bearer },
  error: refused(400, 401, 403)
}) {
  /** `verify` null: everybody may ask. */
  static readonly layer = (options: {
    readonly verify: Verify | null
    readonly computeId: string
  }): Layer.Layer<Auth> =>
    Layer.succeed(Auth, {
      bearer: (handler, { credential }) => {
        const { computeId, verify } = options
        if (verify === null) return Effect.provideService(handler, Caller, anybody)
        const admitted: Effect.Effect<Rights, Refusal> =
          Redacted.value(credential) === ""
            ? Effect.fail(missingToken)
            : Effect.flatMap(verify(credential), (claims) => Effect.fromResult(authorize(claims, computeId)))
        return Effect.matchEffect(admitted, {
          onFailure: (refusal) => Effect.succeed(answerOf(refusal)),
          onSuccess: (rights) => Effect.provideService(handler, Caller, rights)
        })
      }
    })
}
