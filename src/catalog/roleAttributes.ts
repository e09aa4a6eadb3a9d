/**
 * Attributes and the password verifier of a role: what the spec says, what the catalog says, and whether they agree.
 *
 * Only what the spec says now is repaired: LOGIN, and the options it names. The attributes that a new
 * role is given (CREATEROLE, BYPASSRLS, ...) are not given back to a role from which someone took them: that is
 * usually how a tenant makes row security bite. No verifier is ever shown.
 */
import * as Redacted from "effect/Redacted"
import { type RoleFlag, roleFlagWords, type RoleOption } from "../spec/clusterOptions.ts"
import type { Catalog, ObservedRole } from "./Catalog.ts"
import { renderRoleOption } from "./options.ts"

export type Verifier = Redacted.Redacted<string>

export const isMd5 = (verifier: Verifier): boolean => Redacted.value(verifier).startsWith("md5")

export const sameVerifier = (one: Verifier | null, other: Verifier | null): boolean =>
  one === null || other === null ? one === other : Redacted.value(one) === Redacted.value(other)

/** The role as the spec wants it, starting from what it is. A time that the server takes for none is never the same. */
export const wantedRole = (
  known: ObservedRole,
  options: ReadonlyArray<RoleOption>,
  times: Catalog["times"]
): ObservedRole =>
  options.reduce(
    (role, option): ObservedRole => {
      switch (option._tag) {
        case "Flag":
          return { ...role, [option.flag]: option.on }
        case "ConnectionLimit":
          return { ...role, connectionLimit: option.limit }
        case "ValidUntil":
          return { ...role, validUntil: times.get(option.until) ?? option.until }
        default:
          return role
      }
    },
    { ...known, login: true }
  )

const flags: ReadonlyArray<RoleFlag> = [
  "superuser",
  "inherit",
  "createRole",
  "createDatabase",
  "login",
  "replication",
  "bypassRls"
]

export const sameAttributes = (one: ObservedRole, other: ObservedRole): boolean =>
  one.connectionLimit === other.connectionLimit &&
  one.validUntil === other.validUntil &&
  flags.every((flag) => one[flag] === other[flag])

const names = (options: ReadonlyArray<RoleOption>, flag: RoleFlag): boolean =>
  options.some((option) => option._tag === "Flag" && option.flag === flag)

/**
 * `" NAME value ... LOGIN"`, with a leading blank: what both CREATE and ALTER ROLE know. LOGIN is left out where the
 * spec says LOGIN or NOLOGIN itself.
 */
export const attributesText = (options: ReadonlyArray<RoleOption>): string =>
  [...options.map(renderRoleOption), names(options, "login") ? null : "LOGIN"]
    .flatMap((text) => (text === null ? [] : [` ${text}`]))
    .join("")

const newRoleFlags: ReadonlyArray<RoleFlag> = ["inherit", "createRole", "createDatabase", "bypassRls", "replication"]

/** The other attributes of a new role, but for those that the spec names: Postgres refuses an attribute said twice. */
export const newRoleText = (options: ReadonlyArray<RoleOption>): string =>
  newRoleFlags
    .filter((flag) => !names(options, flag))
    .map((flag) => ` ${roleFlagWords[flag]}`)
    .join("")

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
  connectionLimit: -1,
  validUntil: null
})

export const newRole = (name: string): ObservedRole => ({
  ...bareRole(name),
  createRole: true,
  createDatabase: true,
  bypassRls: true,
  replication: true
})
