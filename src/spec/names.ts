/**
 * Which names and verifiers Postgres takes for what a spec means by them. One judgement for every way a spec comes in,
 * and for the planner. No message repeats a verifier.
 */
import { templateDatabase } from "../pgwire/ownSessions.ts"

const bytes = new TextEncoder()

/** Postgres cuts longer names short (NAMEDATALEN 64), and then two of them may be one. */
const maxNameBytes = 63

/** What keeps text from reaching Postgres as it is; `null` when nothing does. */
export const faultOfText = (text: string): string | null => {
  if (text.includes("\0")) return "expected text without NUL bytes"
  return text.isWellFormed() ? null : "expected text without lone surrogates"
}

/** Of anything that Postgres stores as a name. */
export const faultOfName = (name: string): string | null => {
  if (name === "") return "expected a name that is not empty"
  const length = bytes.encode(name).length
  return (
    faultOfText(name) ??
    (length > maxNameBytes
      ? `expected a name of at most ${maxNameBytes} bytes (UTF-8); this one has ${length}, ` +
        "and Postgres would cut it short"
      : null)
  )
}

/** Of a role that has made room for another of its name and is about to be dropped (`catalog/planRoles.ts`). */
export const leavingRolePrefix = "compute_ctl_leaving_"

/** Words of Postgres's grammar for roles: quoting does not make names of them. */
const notRoles = new Set(["public", "none"])

/** Of a role that others are to refer to, such as a database's owner. */
export const faultOfRoleReference = (name: string): string | null =>
  faultOfName(name) ?? (notRoles.has(name) ? `expected the name of a role; ${name} is a word of Postgres's own` : null)

/** Of a role that a spec wants, or renames something to. */
export const faultOfRoleName = (name: string): string | null => {
  const fault = faultOfRoleReference(name)
  if (fault !== null) return fault
  if (name.startsWith("pg_")) return "expected a name that does not begin with pg_: such roles are Postgres's own"
  return name.startsWith(leavingRolePrefix)
    ? `expected a name that does not begin with ${leavingRolePrefix}: such roles are of this program`
    : null
}

/** Of a database that a spec wants, renames or drops. */
export const faultOfDatabaseName = (name: string): string | null =>
  faultOfName(name) ??
  (name === templateDatabase ? "expected another name: this one is reserved for a database of this program" : null)

/**
 * A password as the wire may hold it: a SCRAM-SHA-256 verifier whose keys are 32 bytes in padded base64, or the 32
 * hexadecimal digits of an md5 one, with or without Postgres's prefix. Anything else Postgres would take for a password
 * in the clear (`get_password_type` in src/backend/libpq/crypt.c, `parse_scram_secret` in auth-scram.c).
 */
export const verifierPattern = new RegExp(
  "^(?:(?:md5)?[0-9a-f]{32}|SCRAM-SHA-256\\$[1-9][0-9]{0,8}:" +
    "(?=[A-Za-z0-9+/])(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?" +
    "\\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=)$",
  "u"
)

/** Postgres refuses longer ones since 17.2, 16.6, 15.10 and 14.15. All of a verifier is ASCII. */
export const maxVerifierLength = 512

export const expectedVerifier =
  "a SCRAM-SHA-256 verifier or the hexadecimal digits of an md5 one, as Postgres stores them, of at most " +
  `${maxVerifierLength} bytes; never a password in the clear, and null for no password`

/** `text` is in normal form: with the prefix `md5`. */
export const isVerifier = (text: string): boolean =>
  text.length <= maxVerifierLength && verifierPattern.test(text) && /^(?:md5|SCRAM)/.test(text)
