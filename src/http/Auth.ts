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
import { accepts } from "./answer.ts"
import { authorize, missingToken, type Rights } from "./authorize.ts"
import { type Asking, isThisMachine, webPageRefusal } from "./crossSite.ts"
import type { Refusal } from "./refusals.ts"
import type { Access } from "./router.ts"
import type { Verifier } from "./Verifier.ts"

/** Somebody who was asked for no token. */
const anybody: Rights = { admin: false }

/** Who asks, as far as it was proven. */
export const Caller = Context.Reference<Rights>("compute/http/Caller", { defaultValue: () => anybody })

/** An `Exit` when it is known at once: no token is asked for, none was sent, or it was verified before. */
export type Admit = (access: Access, request: Asking) => Effect.Effect<Rights, Refusal>

export interface Admission {
  /** `null`: no tokens are asked for, and web pages are kept away instead. */
  readonly verifier: Verifier | null
  readonly computeId: string | null
  readonly allowedHosts: ReadonlySet<string>
}

const bearer = /^bearer +([^ ]+) *$/i

/** What a browser gets of the page holds no data. */
const isOpen = (access: Access, { headers }: Asking): boolean =>
  access === "open" || (access === "page" && accepts(headers.accept, "text/html"))

export const admitter = ({ allowedHosts, computeId, verifier }: Admission): Admit => {
  const free = Exit.succeed(anybody)
  const withoutToken = (request: Asking) => {
    const refused = webPageRefusal(request, allowedHosts)
    return refused === null ? free : Exit.fail(refused)
  }
  if (verifier === null) return (access, request) => (isOpen(access, request) ? free : withoutToken(request))
  const missing = Exit.fail(missingToken)
  return (access, request) => {
    if (isOpen(access, request)) return free
    const token = bearer.exec(request.headers.authorization ?? "")?.[1]
    if (token === undefined) return access === "machine" && isThisMachine(request) ? withoutToken(request) : missing
    const known = verifier.recall(token, Effect.runSync(Clock.currentTimeMillis) / 1000)
    if (known !== null) return Effect.fromResult(authorize(known, computeId))
    return Effect.flatMap(verifier.verify(Redacted.make(token)), (claims) =>
      Effect.fromResult(authorize(claims, computeId))
    )
  }
}

const challenges: Readonly<Record<string, string>> = {
  token_missing: 'Bearer realm="compute_ctl"',
  token_unverified: 'Bearer realm="compute_ctl", error="invalid_token"',
  token_forbidden: 'Bearer realm="compute_ctl", error="insufficient_scope"'
}

/** `WWW-Authenticate` of a refusal (RFC 6750, section 3); `null`: no token would help. */
export const challengeOf = ({ code }: Refusal): string | null => challenges[code] ?? null

/** Declares that a group asks for tokens; what is asked, `admitter` has asked before. */
export class Auth extends HttpApiMiddleware.Service<Auth>()("compute/http/Auth", {
  security: { bearer: HttpApiSecurity.bearer }
}) {
  static readonly layer: Layer.Layer<Auth> = Layer.succeed(Auth, { bearer: (handler) => handler })
}
