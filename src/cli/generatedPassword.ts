/**
 * A password for a role of which the spec says none: made at the first start, and kept in a password file of Postgres's
 * own form, which psql reads by `passfile` (`libpq-pgpass` in its documentation) and nobody else may read.
 *
 * Never in a log: the role gets a verifier, and who asks for the password is told the file.
 */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import * as path from "node:path"
import { generatePassword, scramVerifier } from "../pgwire/scramVerifier.ts"
import { attempt, makeFolder, type Owner, replaceFile, textOrNull } from "../platform/files.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

export interface Login {
  readonly role: string
  /** One that the role owns, if it owns any. */
  readonly database: string
  readonly password: Redacted.Redacted<string>
  /** The password file. */
  readonly file: string
}

const escape = (text: string): string => text.replace(/[\\:]/g, "\\$&")
const unescape = (text: string): string => text.replace(/\\(.)/g, "$1")

/** Why this role gets none; `null`: it gets one. */
const refusal = (spec: ParsedSpec | null, name: string): string | null => {
  if (spec === null) return "there is no spec yet"
  const role = spec.roles.findLast((one) => one.name === name)
  if (role === undefined) return "the spec has no such role"
  return role.password._tag === "Unmanaged" ? null : "the spec has an encrypted_password for it"
}

/** The one in the file, or a new one, which is put there. */
const keptPassword = Effect.fnUntraced(function* (file: string, role: string, folderOwner: Owner | null) {
  yield* makeFolder(path.dirname(file), folderOwner)
  const text = (yield* textOrNull(file)) ?? ""
  const start = `*:*:*:${escape(role)}:`
  const found = text.split("\n").find((line) => line.startsWith(start) && line.length > start.length)
  const password = found === undefined ? generatePassword() : Redacted.make(unescape(found.slice(start.length)))
  if (found === undefined) {
    const line = `${start}${escape(Redacted.value(password))}\n`
    const before = text === "" || text.endsWith("\n") ? text : `${text}\n`
    yield* replaceFile({ path: file, content: before + line, owner: null })
  }
  // psql takes no notice of one that others could read, and it is right.
  yield* attempt("close to others", file, () => fs.chmodSync(file, 0o600))
  return password
})

/** `null`: the role gets none, and a warning says why. */
export const generatedLogin = Effect.fn("Run.generatedLogin")(function* (
  spec: ParsedSpec | null,
  role: string,
  file: string,
  folderOwner: Owner | null
) {
  const why = refusal(spec, role) ?? (/[\r\n]/.test(role) ? "no password file can hold its name" : null)
  if (why !== null) {
    yield* Effect.logWarning(`role ${JSON.stringify(role)} gets no password by --generate-password: ${why}`)
    return null
  }
  const password = yield* keptPassword(file, role, folderOwner)
  const database = spec?.databases.find(({ owner }) => owner === role)?.name ?? "postgres"
  return { role, database, password, file } satisfies Login
})

/** The spec, with the role's verifier where it says none. The same one each time: then nothing has to be changed. */
export const withLogin =
  (login: Login | null) =>
  (spec: ParsedSpec): ParsedSpec => {
    if (login === null) return spec
    const { file, password, role } = login
    const verifier = scramVerifier(password, `${role} in ${file}`)
    return {
      ...spec,
      roles: spec.roles.map((one) =>
        one.name === role && one.password._tag === "Unmanaged"
          ? { ...one, password: { _tag: "Verifier", verifier } }
          : one
      )
    }
  }
