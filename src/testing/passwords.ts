/**
 * Passwords for the roles of a test's spec: those of which the spec says none get one, so that a test logs in as its
 * users do.
 */
import * as Redacted from "effect/Redacted"
import { defaultSuperuser } from "../pgwire/Admin.ts"
import { scramVerifier } from "../pgwire/scramVerifier.ts"
import type { ParsedSpec, Role } from "../spec/ParsedSpec.ts"

const superuser: Role = { name: defaultSuperuser, password: { _tag: "Unmanaged" }, privileged: null, options: [] }

/**
 * What Postgres stores for a password (SCRAM-SHA-256), as a spec has it in `encrypted_password`. Another one at each
 * call, since its salt is random.
 *
 * @example
 * ```ts
 * const roles = [{ name: "web", encrypted_password: verifierOf("a password of the test") }]
 * ```
 */
export const verifierOf = (password: string): string => Redacted.value(scramVerifier(Redacted.make(password)))

/** The superuser is among them. The same verifiers each time, so that a later spec changes nothing. */
export const withPasswords =
  (password: Redacted.Redacted<string>) =>
  (spec: ParsedSpec): ParsedSpec => {
    const verified = (role: Role): Role =>
      role.password._tag === "Unmanaged"
        ? { ...role, password: { _tag: "Verifier", verifier: scramVerifier(password, role.name) } }
        : role
    const hasSuperuser = spec.roles.some(({ name }) => name === superuser.name)
    return { ...spec, roles: [...(hasSuperuser ? [] : [superuser]), ...spec.roles].map(verified) }
  }

interface Reached {
  readonly role: string
  readonly password: string
  readonly port: number
  readonly database: string
}

export const printUrl = ({ database, password, port, role }: Reached): string =>
  `postgresql://${encodeURIComponent(role)}:${encodeURIComponent(password)}@127.0.0.1:${port}/` +
  encodeURIComponent(database)
