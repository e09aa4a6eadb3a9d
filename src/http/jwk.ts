/**
 * Public keys that tokens are verified with, out of a JSON Web Key Set (RFC 7517, RFC 7518, RFC 8037).
 *
 * A key is taken only when it can verify, and only by the one algorithm that is its own: Ed25519 or RS256. Keys with
 * which anybody could sign (an exponent of one, a point of small order, a symmetric key) are refused as those that
 * verify nothing are. Pure, but for the system's own cryptography.
 */
import * as Result from "effect/Result"
import { createPublicKey, type KeyObject } from "node:crypto"
import type { Problem } from "../errors/Failure.ts"

export interface VerificationKey {
  /** What a token may call it (RFC 8037, RFC 9864). */
  readonly algorithms: ReadonlyArray<string>
  readonly digest: "sha256" | null
  readonly key: KeyObject
}

export interface KeySet {
  readonly keys: ReadonlyArray<VerificationKey>
  /** One for each key that is not among them, and why. */
  readonly problems: ReadonlyArray<Problem>
}

/** Every token that no key verifies is tried with all of them. */
const maxKeys = 64

/** Of what control planes send; each of the keys by itself. */
export const readKeySet = (jwks: ReadonlyArray<unknown>): KeySet => {
  if (jwks.length > maxKeys)
    return { keys: [], problems: [{ path: "keys", message: `expected at most ${maxKeys} keys` }] }
  const keys: Array<VerificationKey> = []
  const problems: Array<Problem> = []
  for (const [index, jwk] of jwks.entries()) {
    const read = readKey(jwk)
    if (Result.isSuccess(read)) keys.push(read.success)
    else problems.push({ path: `keys[${index}]`, message: read.failure })
  }
  return { keys, problems }
}

type Fields = Readonly<Record<string, unknown>>

const isFields = (jwk: unknown): jwk is Fields => typeof jwk === "object" && jwk !== null && !Array.isArray(jwk)

const privateParts = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] as const

const readKey = (jwk: unknown): Result.Result<VerificationKey, string> => {
  if (!isFields(jwk)) return Result.fail("expected a JSON Web Key")
  const { key_ops, kty, use } = jwk
  if (kty === "oct") return Result.fail("a symmetric key is none: whoever could check tokens with it could make them")
  if (privateParts.some((part) => part in jwk))
    return Result.fail("it holds a private key, which belongs to nobody but its signer: make another one")
  if (use !== undefined && use !== "sig") return Result.fail('its use is not "sig"')
  if (key_ops !== undefined && !(Array.isArray(key_ops) && key_ops.includes("verify")))
    return Result.fail('its key_ops do not have "verify"')
  if (kty === "OKP") return readEd25519(jwk)
  if (kty === "RSA") return readRsa(jwk)
  return Result.fail("expected an Ed25519 key, or an RSA key for RS256")
}

/** Base64url without padding, in the one spelling that these bytes have; `null`: it is not. */
export const decodeBase64Url = (text: unknown): Buffer | null => {
  if (typeof text !== "string") return null
  const bytes = Buffer.from(text, "base64url")
  return bytes.toString("base64url") === text ? bytes : null
}

const imported = (key: { readonly [name: string]: string }): Result.Result<KeyObject, string> =>
  Result.mapError(
    Result.try(() => createPublicKey({ key, format: "jwk" })),
    () => "it cannot be read as a public key"
  )

// -- RSA --------------------------------------------------------------------------------------------------------------

const maxBits = 8192

const numberOf = (bytes: Buffer): bigint => BigInt(`0x0${bytes.toString("hex")}`)
const bitsOf = (value: bigint): number => value.toString(2).length

const readRsa = ({ alg, e, n }: Fields): Result.Result<VerificationKey, string> => {
  if (alg !== undefined && alg !== "RS256") return Result.fail("an RSA key is for RS256 and nothing else")
  const [modulus, exponent] = [decodeBase64Url(n), decodeBase64Url(e)]
  if (modulus === null || exponent === null) return Result.fail("its n and e are not base64url")
  // Before any arithmetic with them: they may be megabytes long.
  const tooLong = Math.max(modulus.length, exponent.length) > 2 * (maxBits / 8)
  const bits = tooLong ? 8 * modulus.length : bitsOf(numberOf(modulus))
  if (tooLong || bits < 2048 || bits > maxBits)
    return Result.fail(`expected 2048 to ${maxBits} bits; this RSA key has ${bits}`)
  const power = numberOf(exponent)
  if (power < 3n || power % 2n === 0n || bitsOf(power) > 64)
    return Result.fail("its exponent e is not odd and above 1, so that everybody could sign or nobody")
  if (numberOf(modulus) % 2n === 0n) return Result.fail("its modulus n is not a product of two primes")
  return Result.map(
    imported({ kty: "RSA", n: modulus.toString("base64url"), e: exponent.toString("base64url") }),
    (key) => ({ algorithms: ["RS256"], digest: "sha256", key })
  )
}

// -- Ed25519 ----------------------------------------------------------------------------------------------------------

const readEd25519 = ({ alg, crv, x }: Fields): Result.Result<VerificationKey, string> => {
  if (crv !== "Ed25519") return Result.fail("of OKP keys only those of Ed25519 are taken")
  if (alg !== undefined && alg !== "EdDSA" && alg !== "Ed25519")
    return Result.fail("an Ed25519 key is for EdDSA and nothing else")
  const bytes = decodeBase64Url(x)
  if (bytes === null || bytes.length !== 32) return Result.fail("its x is not 32 bytes in base64url")
  if (!isUsablePoint(bytes)) return Result.fail("its x is no point that verifies signatures of one signer alone")
  return Result.map(imported({ kty: "OKP", crv: "Ed25519", x: bytes.toString("base64url") }), (key) => ({
    algorithms: ["EdDSA", "Ed25519"],
    digest: null,
    key
  }))
}

const prime = 2n ** 255n - 19n
const curveConstant = 37095705934669439343138083508754565189542113879843219016388785533085940283555n

const powerOf = (base: bigint, exponent: bigint): bigint => {
  let result = 1n
  let square = base % prime
  for (let rest = exponent; rest > 0n; rest >>= 1n) {
    if ((rest & 1n) === 1n) result = (result * square) % prime
    square = (square * square) % prime
  }
  return result
}

/** The y of the eight points whose signatures anybody can make: whatever is signed, they verify it. */
const smallOrder: ReadonlySet<bigint> = new Set([
  0n,
  1n,
  prime - 1n,
  2707385501144840649318225287225658788936804267575313519463743609750303402022n,
  55188659117513257062467267217118295137698188065244968500265048394206261417927n
])

/** Is it on the curve (RFC 8032, section 5.1.3), in its one spelling, and not of small order? */
const isUsablePoint = (bytes: Buffer): boolean => {
  const y = numberOf(Buffer.from(bytes).reverse()) & (2n ** 255n - 1n)
  if (y >= prime || smallOrder.has(y)) return false
  const square = (y * y) % prime
  // x² = u / v has a solution exactly when u · v is a square.
  const u = (square + prime - 1n) % prime
  const v = (curveConstant * square + 1n) % prime
  return powerOf(u * v, (prime - 1n) / 2n) === 1n
}
