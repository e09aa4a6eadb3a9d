/**
 * Who may ask: bearer tokens on the routes that are not anonymous (docs/reference/compute_ctl.md#authorization).
 *
 * `admitter` is the only place that decides it, and every request passes it before its route is reached. It trusts a
 * verifier for signatures and `authorize.ts` for claims. A token is never logged or repeated.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as HttpApiSecurity from "effect/http-api/HttpApiSecurity"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { authorize, missingToken, type Rights } from "./authorize.ts"
import { refused } from "./bodies.ts"
import type { Refusal } from "./refusals.ts"
import type { Access } from "./router.ts"
import type { Verifier } from "./Verifier.ts"

/** Somebody who was asked for no token. */
const anybody: Rights = { admin: false }

/** Who asks, as far as it was proven. */
export const Caller = Context.Reference<Rights>("compute/http/Caller", { defaultValue: () => anybody })

/** An `Exit` when it is known at once: no token is asked for, none was sent, or it was verified before. */
export type Admit = (access: Access, authorization: string | undefined) => Effect.Effect<Rights, Refusal>

const bearer = /^bearer +([^ ]+) *$/i

/** `verifier` null: everybody may ask. */
export const admitter = (verifier: Verifier | null, computeId: string): Admit => {
  const free = Exit.succeed(anybody)
  if (verifier === null) return () => free
  const missing = Exit.fail(missingToken)
  return (access, authorization) => {
    if (access === "open") return free
    const token = bearer.exec(authorization ?? "")?.[1]
    if (token === undefined) return missing
    const known = verifier.recall(token, Effect.runSync(Clock.currentTimeMillis) / 1000)
    if (known !== null) return Effect.fromResult(authorize(known, computeId))
    return Effect.flatMap(verifier.verify(Redacted.make(token)), (claims) =>
      Effect.fromResult(authorize(claims, computeId))
    )
  }
}

/** Declares that a group asks for tokens; what is asked, `admitter` has asked before. */
export class Auth extends HttpApiMiddleware.Service<Auth>()("compute/http/Auth", {
  security: { bearer: HttpApiSecurity.bearer },
  error: refused(400, 401, 403)
}) {
  static readonly layer: Layer.Layer<Auth> = Layer.succeed(Auth, { bearer: (handler) => handler })
}
