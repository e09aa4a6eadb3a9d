/**
 * Checks a token's signature and its times against a set of public keys (reference section 7.4), with `jose`.
 *
 * Every key is tried, whatever `kid` says. EdDSA, unless some key declares RS256: then RS256 alone. The library is
 * loaded with the first token, because most starts never see one.
 */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type { CryptoKey, JWK } from "jose"
import { unverified } from "../plan/authorize.ts"
import type { Verify } from "./Auth.ts"

/** Clocks of control plane and compute may differ by this much. */
const leewaySeconds = 60

const isRsa = (key: JWK): boolean => key.alg === "RS256"

const claimsBy = async (keys: ReadonlyArray<JWK>, token: string): Promise<unknown> => {
  const { importJWK, jwtVerify } = await import("jose")
  const algorithm = keys.some(isRsa) ? "RS256" : "EdDSA"
  for (const key of keys) {
    const claims = await importJWK(key, algorithm)
      .then((imported: CryptoKey | Uint8Array) =>
        jwtVerify(token, imported, { algorithms: [algorithm], clockTolerance: leewaySeconds }))
      .then(({ payload }) => payload, () => null)
    if (claims !== null) return claims
  }
  throw new Error("no key verifies it")
}

/** `keys` have been checked to be JSON Web Keys when the configuration was read. None verifies: nobody is let in. */
export const verifierOf = (keys: ReadonlyArray<unknown>): Verify => (token) =>
  Effect.tryPromise({
    try: () => claimsBy(keys as ReadonlyArray<JWK>, Redacted.value(token)),
    catch: () => unverified
  })
