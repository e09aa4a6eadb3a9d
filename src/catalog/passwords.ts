/**
 * Verifiers: what counts as one, and whether two are the same. Never shows one.
 */
import * as Redacted from "effect/Redacted"

const base64 = "[A-Za-z0-9+/]+={0,2}"
const scram = new RegExp(`^SCRAM-SHA-256\\$[0-9]+:${base64}\\$${base64}:${base64}$`)
const md5 = /^md5[0-9a-f]{32}$/

export type Verifier = Redacted.Redacted<string>

export const isMd5 = (verifier: Verifier): boolean => Redacted.value(verifier).startsWith("md5")

/**
 * Postgres takes anything else for a password in the clear and would make a verifier of its own from it, which
 * nobody could log in with, and which would differ again at the next apply.
 */
export const isVerifier = (verifier: Verifier): boolean =>
  scram.test(Redacted.value(verifier)) || md5.test(Redacted.value(verifier))

export const sameVerifier = (one: Verifier | null, other: Verifier | null): boolean =>
  one === null || other === null ? one === other : Redacted.value(one) === Redacted.value(other)
