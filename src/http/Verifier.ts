/**
 * Checks a token's signature and expiry against a JSON Web Key Set (reference section 7.4). Judges no claims.
 *
 * One algorithm is accepted: EdDSA, or RS256 as soon as one key declares it. Keys are tried in order, whatever `kid`
 * says; a key that cannot be read is said once and not tried.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { compactVerify } from "jose/jws/compact/verify"
import { importJWK } from "jose/key/import"
import { unverified } from "../plan/authorize.ts"
import type { Verify } from "./Auth.ts"

/** Clocks of the control plane and of this machine may differ this much. */
const leewaySeconds = 60

const Jwk = Schema.Record(Schema.String, Schema.Unknown)
const decodeJwk = Schema.decodeUnknownEffect(Jwk)

const Payload = Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown))
const decodePayload = Schema.decodeUnknownOption(Payload)

const alive = (exp: unknown, nowSeconds: number): boolean =>
  exp === undefined || (typeof exp === "number" && nowSeconds <= exp + leewaySeconds)

/** A verifier for these keys, which are read at the first token. With none that can be used it refuses everybody. */
export const verifierOf = (jwks: ReadonlyArray<unknown>): Verify => {
  const declared = jwks.some((jwk) => typeof jwk === "object" && jwk !== null && "alg" in jwk && jwk.alg === "RS256")
  const algorithm = declared ? "RS256" : "EdDSA"

  const read = Effect.forEach(jwks, (jwk, index) =>
    decodeJwk(jwk).pipe(
      Effect.flatMap((fields) => Effect.tryPromise(() => importJWK(fields, algorithm))),
      Effect.option,
      Effect.tap((key) => Option.isNone(key) ? Effect.logWarning(`key ${index} of the JWKS cannot be used`) : Effect.void)
    )).pipe(Effect.map((keys) => keys.flatMap((key) => Option.isSome(key) ? [key.value] : [])))
  let known: Effect.Success<typeof read> | undefined
  const keep = (found: Effect.Success<typeof read>) => Effect.sync(() => known = found)
  const keys = Effect.suspend(() => known === undefined ? Effect.flatMap(read, keep) : Effect.succeed(known))

  return Effect.fnUntraced(function*(token) {
    const text = Redacted.value(token)
    const now = yield* Clock.currentTimeMillis
    for (const key of yield* keys) {
      const verified = yield* Effect.option(Effect.tryPromise(() => compactVerify(text, key, { algorithms: [algorithm] })))
      if (Option.isNone(verified)) continue
      const claims = decodePayload(new TextDecoder().decode(verified.value.payload))
      return Option.isSome(claims) && alive(claims.value["exp"], now / 1000) ? claims.value : yield* Effect.fail(unverified)
    }
    return yield* Effect.fail(unverified)
  })
}
