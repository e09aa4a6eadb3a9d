/**
 * Signed tokens in their compact form (RFC 7515, RFC 7519), read so that one token has one spelling: strict base64url
 * and JSON, no extension that we would have to understand, no algorithm but the key's own.
 */
import * as Result from "effect/Result"
import { verify } from "node:crypto"
import { decodeJsonBytes, parseJson } from "../spec/json.ts"
import { decodeBase64Url, type VerificationKey } from "./jwk.ts"

type Fields = Readonly<Record<string, unknown>>

/** `null`: not UTF-8, not JSON, no object, or a key that is there twice. */
const readObject = (bytes: Buffer): Fields | null => {
  const document = Result.getOrNull(Result.flatMap(decodeJsonBytes(bytes), parseJson))
  if (document === null || document.duplicates.paths.length > 0) return null
  const { value } = document
  return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : null
}

/** Which algorithm a header asks for; `null`: one with parts that we do not understand, and would have to. */
const algorithmOf = (header: Fields | null): string | null =>
  header === null ||
  "crit" in header ||
  ("b64" in header && header["b64"] !== true) ||
  typeof header["alg"] !== "string"
    ? null
    : header["alg"]

/** The claims, when one of the keys has signed them; times and meaning are the caller's matter. */
export const verifyToken = (token: string, keys: ReadonlyArray<VerificationKey>): Fields | null => {
  const parts = token.split(".")
  const [head = "", body = ""] = parts
  const [header, payload, signature] = parts.map(decodeBase64Url)
  if (parts.length !== 3 || header == null || payload == null || signature == null) return null
  const algorithm = algorithmOf(readObject(header))
  if (algorithm === null) return null
  const signed = Buffer.from(`${head}.${body}`, "latin1")
  const verifies = ({ algorithms, digest, key }: VerificationKey): boolean =>
    algorithms.includes(algorithm) && verify(digest, signed, key, signature)
  return keys.some(verifies) ? readObject(payload) : null
}
