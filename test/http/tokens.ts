/**
 * Tokens and keys of the HTTP API, made with the system's own cryptography: well or badly, on demand.
 */
import * as Effect from "effect/Effect"
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto"
import type { Verifier, Verify } from "../../src/http/Verifier.ts"

export interface Signer {
  /** The public part alone. */
  readonly jwk: Readonly<Record<string, unknown>>
  readonly privateKey: KeyObject
  readonly alg: "EdDSA" | "RS256"
}

export const edSigner = (): Signer => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519")
  return { alg: "EdDSA", privateKey, jwk: { ...publicKey.export({ format: "jwk" }) } }
}

export const rsaSigner = (modulusLength = 2048, publicExponent = 65537): Signer => {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength, publicExponent })
  return { alg: "RS256", privateKey, jwk: { ...publicKey.export({ format: "jwk" }) } }
}

export const encoded = (value: unknown): string =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url")

/** Signs a header and a payload exactly as they are spelled. */
export const signText = ({ alg, privateKey }: Signer, head: string, body: string): string => {
  const text = `${head}.${body}`
  const signature = sign(alg === "RS256" ? "sha256" : null, Buffer.from(text), privateKey)
  return `${text}.${signature.toString("base64url")}`
}

/** `claims` may be text, to be signed as it is. */
export const tokenOf = (signer: Signer, claims: unknown, header: object = {}): string =>
  signText(signer, encoded({ alg: signer.alg, ...header }), encoded(claims))

/** A verifier that takes what `verify` takes, for tests of what comes after it. */
export const verifierThat = (verify: Verify): Verifier => ({
  verify,
  recall: () => null,
  check: () => null,
  isCurrent: () => false,
  rotate: () => Effect.void,
  onRotated: () => undefined,
  count: () => 1,
  problems: () => []
})
