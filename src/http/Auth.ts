/**
 * Who may ask: bearer tokens on the routes that are not anonymous (reference section 7.4).
 *
 * It trusts a verifier for signatures and `plan/authorize.ts` for claims. A token is never logged or repeated.
 */
import * as Effect from "effect/Effect"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as HttpApiSecurity from "effect/http-api/HttpApiSecurity"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { authorize, missingToken } from "../plan/authorize.ts"
import type { Refusal } from "../plan/httpAnswer.ts"
import { answerOf } from "./answer.ts"

/** The claims of a token whose signature and expiry are good, undecoded; or why it is not (`unverified`). */
export type Verify = (token: Redacted.Redacted<string>) => Effect.Effect<unknown, Refusal>

export class Auth extends HttpApiMiddleware.Service<Auth>()("compute/http/Auth", {
  security: { bearer: HttpApiSecurity.bearer }
}) {
  /** `verify` null: everybody may ask. */
  static readonly layer = (options: { readonly verify: Verify | null; readonly computeId: string }): Layer.Layer<Auth> =>
    Layer.succeed(Auth, {
      bearer: (handler, { credential }) => {
        const { computeId, verify } = options
        if (verify === null) return handler
        const admitted: Effect.Effect<void, Refusal> = Redacted.value(credential) === ""
          ? Effect.fail(missingToken)
          : Effect.flatMap(verify(credential), (claims) => Effect.fromResult(authorize(claims, computeId)))
        return Effect.matchEffect(admitted, {
          onFailure: (refused) => Effect.succeed(answerOf(refused)),
          onSuccess: () => handler
        })
      }
    })
}
