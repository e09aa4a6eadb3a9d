/**
 * Attributes and the password verifier of a role: what the spec says, what the catalog says, and whether they agree.
 *
 * Only what the spec says now is repaired: LOGIN, and the options it names. The attributes that a new
 * role is given (CREATEROLE, BYPASSRLS, ...) are not given back to a role from which someone took them: that is
 * usually how a tenant makes row security bite. No verifier is ever shown.
 */
import * as Redacted from "effect/Redacted"
import { renderOptions } from "./options.ts"
import type { GenericOption, Role } from "../spec/ParsedSpec.ts"
import type { ObservedRole } from "./Catalog.ts"

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

type Flag = "superuser" | "inherit" | "createRole" | "createDatabase" | "login" | "replication" | "bypassRls"

const flags: Readonly<Record<string, Flag>> = {
  SUPERUSER: "superuser",
  INHERIT: "inherit",
  CREATEROLE: "createRole",
  CREATEDB: "createDatabase",
  LOGIN: "login",
  REPLICATION: "replication",
  BYPASSRLS: "bypassRls"
}

const flagOf = (option: GenericOption): readonly [Flag, boolean] | null => {
  const name = option.name.toUpperCase()
  const on = flags[name]
  if (on !== undefined) return [on, true]
  const off = name.startsWith("NO") ? flags[name.slice(2)] : undefined
  return off === undefined ? null : [off, false]
}

const limitOf = (option: GenericOption): number | null =>
  /^CONNECTION LIMIT$/i.test(option.name) && option.value !== null ? Number(option.value) : null

/** The role with what the options say. */
const withOptions = (role: ObservedRole, options: ReadonlyArray<GenericOption>): ObservedRole =>
  options.reduce((known, option) => {
    const flag = flagOf(option)
    const limit = limitOf(option)
    if (flag !== null) return { ...known, [flag[0]]: flag[1] }
    return limit === null ? known : { ...known, connectionLimit: limit }
  }, role)

/** Options whose effect is not compared, such as VALID UNTIL: they go along when something else changes. */
export const hasUnseenOptions = (options: ReadonlyArray<GenericOption>): boolean =>
  options.some((option) => flagOf(option) === null && limitOf(option) === null)

const mentionsLogin = (options: ReadonlyArray<GenericOption>): boolean =>
  options.some((option) => flagOf(option)?.[0] === "login")

/** The role as the spec wants it, starting from what it is. */
export const wantedRole = (known: ObservedRole, role: Role): ObservedRole =>
  withOptions({ ...known, login: true }, role.options)

export const sameAttributes = (one: ObservedRole, other: ObservedRole): boolean =>
  one.connectionLimit === other.connectionLimit && Object.values(flags).every((flag) => one[flag] === other[flag])

/** `" NAME value ... LOGIN"`, with a leading blank. LOGIN is left out where the spec says LOGIN or NOLOGIN itself. */
export const attributesText = (options: ReadonlyArray<GenericOption>): string =>
  `${options.length === 0 ? "" : ` ${renderOptions(options)}`}${mentionsLogin(options) ? "" : " LOGIN"}`

const newRoleAttributes = ["INHERIT", "CREATEROLE", "CREATEDB", "BYPASSRLS", "REPLICATION"]

/** The other attributes of a new role, but for those that the spec names: Postgres refuses an attribute said twice. */
export const newRoleText = (options: ReadonlyArray<GenericOption>): string => {
  const named = new Set(options.map(flagOf).map((flag) => flag?.[0]))
  return newRoleAttributes
    .filter((word) => !named.has(flags[word]))
    .map((word) => ` ${word}`)
    .join("")
}

export const bareRole = (name: string): ObservedRole => ({
  name,
  verifier: null,
  superuser: false,
  inherit: true,
  createRole: false,
  createDatabase: false,
  login: true,
  replication: false,
  bypassRls: false,
  connectionLimit: -1
})

export const newRole = (name: string): ObservedRole => ({
  ...bareRole(name),
  createRole: true,
  createDatabase: true,
  bypassRls: true,
  replication: true
})
