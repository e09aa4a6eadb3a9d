/**
 * Whether a verified token's claims admit a caller to this compute, and whether the token's time is now
 * (docs/reference/compute_ctl.md#authorization). Verifies no signature. Pure.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type Refusal, refusal } from "./refusals.ts"

/** `aud` may be one audience or a list (RFC 7519). The one scope is the administrator's, who may ask every compute. */
const Claims = Schema.Struct({
  compute_id: Schema.optionalKey(Schema.NullOr(Schema.String)),
  scope: Schema.optionalKey(Schema.NullOr(Schema.Literal("compute_ctl:admin"))),
  aud: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.String, Schema.Array(Schema.String)])))
})

const decode = Schema.decodeUnknownResult(Claims)

const audience = "compute"
const hint = "ask the control plane for a token made for this compute"

export const missingToken: Refusal = refusal(
  400,
  "token_missing",
  "invalid authorization token",
  "send `Authorization: Bearer <token>`"
)
export const unverified: Refusal = refusal(401, "token_unverified", "failed to verify authorization token", hint)

const denied = (status: number, error: string): Refusal =>
  refusal(
    status,
    status === 401 ? "token_unverified" : "token_forbidden",
    `${error} in authorization token claims`,
    hint
  )

/** What a caller has proven beyond being admitted. */
export interface Rights {
  readonly admin: boolean
}

/** Clocks of the control plane and of this machine may differ this much. */
const leewaySeconds = 60

/** A moment as a claim says it. `1e999` is a number to JSON's reader, and never passes. */
const isMoment = (claim: unknown): claim is number => typeof claim === "number" && Number.isFinite(claim)

/** Is now between `nbf` and `exp`? Either may be missing; one that is no moment is never met. */
export const isTimely = (
  { exp, nbf }: { readonly exp?: unknown; readonly nbf?: unknown },
  nowSeconds: number
): boolean =>
  (exp === undefined || (isMoment(exp) && nowSeconds <= exp + leewaySeconds)) &&
  (nbf === undefined || (isMoment(nbf) && nowSeconds >= nbf - leewaySeconds))

/** `computeId` `null`: this compute has none, so that no token can be made for it. */
export const authorize = (claims: unknown, computeId: string | null): Result.Result<Rights, Refusal> => {
  const decoded = decode(claims)
  if (Result.isFailure(decoded)) return Result.fail(unverified)
  const { aud, compute_id, scope } = decoded.success
  if (scope === "compute_ctl:admin") {
    if (aud === undefined || aud === null) return Result.fail(denied(401, "missing audience"))
    return (typeof aud === "string" ? aud === audience : aud.includes(audience))
      ? Result.succeed({ admin: true })
      : Result.fail(denied(401, "invalid audience"))
  }
  if (compute_id === undefined || compute_id === null) return Result.fail(denied(403, "missing compute_id"))
  return compute_id === computeId ? Result.succeed({ admin: false }) : Result.fail(denied(403, "invalid compute ID"))
}
