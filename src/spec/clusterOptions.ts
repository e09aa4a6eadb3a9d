/**
 * What the options of roles and databases mean (`{"name": "CONNECTION LIMIT", "value": "5", "vartype": "integer"}`), or
 * why Postgres would not take them. One judgement for every way a spec comes in, and for the planner.
 *
 * By meaning and not by text, so that two spellings of one value are no difference. No message repeats a value.
 */
import { faultOfRoleReference, faultOfText } from "./names.ts"
import type { GenericOption } from "./ParsedSpec.ts"

export type RoleFlag = "superuser" | "inherit" | "createRole" | "createDatabase" | "login" | "replication" | "bypassRls"

export const roleFlagWords: Readonly<Record<RoleFlag, string>> = {
  superuser: "SUPERUSER",
  inherit: "INHERIT",
  createRole: "CREATEROLE",
  createDatabase: "CREATEDB",
  login: "LOGIN",
  replication: "REPLICATION",
  bypassRls: "BYPASSRLS"
}

export type RoleOption =
  | { readonly _tag: "Flag"; readonly flag: RoleFlag; readonly on: boolean }
  | { readonly _tag: "ConnectionLimit"; readonly limit: number }
  /** As it is written; what point in time that is only the server can tell. */
  | { readonly _tag: "ValidUntil"; readonly until: string }
  /** `IN ROLE`: the role becomes a member of these. */
  | { readonly _tag: "MemberOf"; readonly roles: ReadonlyArray<string> }
  /** `ROLE` and `ADMIN`: these become members of the role. */
  | { readonly _tag: "Members"; readonly roles: ReadonlyArray<string>; readonly admin: boolean }
  /** `SYSID`, which Postgres takes and ignores. */
  | { readonly _tag: "Ignored" }

/** Means by which a database is made, and what only its creation can decide. */
export type CreationOption =
  | "ENCODING"
  | "LOCALE"
  | "LC_COLLATE"
  | "LC_CTYPE"
  | "LOCALE_PROVIDER"
  | "ICU_LOCALE"
  | "ICU_RULES"
  | "BUILTIN_LOCALE"
  | "COLLATION_VERSION"
  | "TEMPLATE"
  | "STRATEGY"
  | "OID"

export type DatabaseOption =
  | { readonly _tag: "ConnectionLimit"; readonly limit: number }
  | { readonly _tag: "AllowConnections"; readonly on: boolean }
  | { readonly _tag: "IsTemplate"; readonly on: boolean }
  | { readonly _tag: "Tablespace"; readonly name: string }
  | { readonly _tag: "Creation"; readonly option: CreationOption; readonly value: string }
  /** `DEFAULT`: as if the option were not there. */
  | { readonly _tag: "Ignored" }

/** An option, or why it is none. */
export type Reading<A> = { readonly fault: string } | { readonly fault: null; readonly option: A }

const fault = (text: string): { readonly fault: string } => ({ fault: text })
const read = <A>(option: A): Reading<A> => ({ fault: null, option })

/** Longer than any word; keeps the patterns' work small on text from outside. */
const maxWordLength = 1000

/** The value without its quotes; `null`: it could not stand in a statement. */
const textOf = ({ quoted, value }: GenericOption): string | null => {
  if (value === null || faultOfText(value) !== null) return null
  if (quoted) return value
  if (value.length > maxWordLength) return null
  if (/^'([^'\\]|'')*'$/.test(value)) return value.slice(1, -1).replaceAll("''", "'")
  if (/^"([^"]|"")+"$/.test(value)) return value.slice(1, -1).replaceAll('""', '"')
  return /^[-+]?[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*$/.test(value) ? value : null
}

const notOneWord = (name: string) =>
  fault(`expected a value for ${name} that is one word or quoted; other text needs the vartype "string"`)

/** `1_000`, `0x3e8` and `1000` are one value, though only Postgres 16 and later know the first two. */
const integerOf = (option: GenericOption): number | null => {
  const text = textOf(option)
  const match = /^([-+]?)(0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9][0-9_]*)$/.exec(text ?? "")
  const digits = match?.[2] ?? ""
  if (match === null || /__|_$/.test(digits)) return null
  const value = Number(digits.replaceAll("_", ""))
  return match[1] === "-" ? -value : value
}

const readLimit = (name: string, option: GenericOption): Reading<{ _tag: "ConnectionLimit"; limit: number }> => {
  const limit = integerOf(option)
  return limit === null || limit < -1 || limit > 2 ** 31 - 1
    ? fault(`expected for ${name} a whole number from -1 (no limit) to 2147483647`)
    : read({ _tag: "ConnectionLimit", limit })
}

const booleanOf = (option: GenericOption): boolean | null => {
  const text = textOf(option)?.toLowerCase() ?? ""
  return /^(true|on|yes|1)$/.test(text) ? true : /^(false|off|no|0)$/.test(text) ? false : null
}

const nameOf = ({ name }: GenericOption): string => name.trim().replace(/\s+/g, " ").toUpperCase()

const flagsByWord = new Map(
  Object.entries(roleFlagWords).flatMap(([flag, word]) => [
    [word, { flag: flag as RoleFlag, on: true }],
    [`NO${word}`, { flag: flag as RoleFlag, on: false }]
  ])
)

/** `LOGIN`, and `login = false` as some control planes write NOLOGIN. */
const readFlag = (name: string, option: GenericOption): Reading<RoleOption> | null => {
  const known = flagsByWord.get(name)
  if (known === undefined) return null
  if (option.value === null) return read({ _tag: "Flag", ...known })
  const says = booleanOf(option)
  return says === null
    ? fault(`expected for ${name} no value, true or false`)
    : read({ _tag: "Flag", flag: known.flag, on: known.on === says })
}

const readRoleList = (name: string, option: GenericOption): ReadonlyArray<string> | string => {
  if (option.quoted || option.value === null) return `expected for ${name} names of roles, without the vartype "string"`
  const one = /\s*(?:"((?:[^"]|""){1,1000})"|([A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*))\s*(,|$)/y
  const names: Array<string> = []
  for (let at = 0, more = true; more; at = one.lastIndex) {
    one.lastIndex = at
    const match = one.exec(option.value)
    if (match === null) return `expected for ${name} names of roles with commas between them`
    names.push(match[1]?.replaceAll('""', '"') ?? match[2]?.toLowerCase() ?? "")
    more = match[3] === ","
  }
  const bad = names.map(faultOfRoleReference).find((one) => one !== null)
  return bad === undefined ? names : `${name}: ${bad}`
}

/** Words that mean another point in time whenever they are read. */
const relativeTime = /\b(now|today|tomorrow|yesterday)\b/i

const calendarDay = /^(\d{4,})-(\d{2})-(\d{2})(?:[T ]+(\d{2}):(\d{2})(?::(\d{2}))?)?/

const daysIn = (year: number, month: number): number =>
  month === 2
    ? year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0)
      ? 29
      : 28
    : [4, 6, 9, 11].includes(month)
      ? 30
      : 31

/** Postgres knows many spellings of a day; what is certainly none is found here, the rest by the server. */
const isTime = (text: string): boolean => {
  if (/^[-+]?infinity$|^epoch$/i.test(text.trim())) return true
  if (!/\d/.test(text) || relativeTime.test(text)) return false
  const day = calendarDay.exec(text.trim())
  if (day === null) return true
  const [year = 0, month = 0, date = 0, hour = 0, minute = 0, second = 0] = day
    .slice(1)
    .map((part) => Number(part ?? 0))
  const onCalendar = month >= 1 && month <= 12 && date >= 1 && date <= daysIn(year, month)
  return onCalendar && hour <= 24 && minute <= 59 && second <= 60
}

const readValidUntil = (option: GenericOption): Reading<RoleOption> => {
  const until = textOf(option)
  return until === null || !isTime(until) || (!option.quoted && !option.value?.startsWith("'"))
    ? fault('expected for VALID UNTIL a point in time with the vartype "string", such as 2030-12-31 or infinity')
    : read({ _tag: "ValidUntil", until })
}

export const readRoleOption = (option: GenericOption): Reading<RoleOption> => {
  const name = nameOf(option)
  const flag = readFlag(name, option)
  if (flag !== null) return flag
  switch (name) {
    case "CONNECTION LIMIT":
      return readLimit(name, option)
    case "VALID UNTIL":
      return readValidUntil(option)
    case "SYSID":
      return integerOf(option) === null ? fault("expected for SYSID a whole number") : read({ _tag: "Ignored" })
    case "IN ROLE":
    case "IN GROUP": {
      const roles = readRoleList(name, option)
      return typeof roles === "string" ? fault(roles) : read({ _tag: "MemberOf", roles })
    }
    case "ROLE":
    case "USER":
    case "ADMIN": {
      const roles = readRoleList(name, option)
      return typeof roles === "string" ? fault(roles) : read({ _tag: "Members", roles, admin: name === "ADMIN" })
    }
    case "PASSWORD":
    case "ENCRYPTED PASSWORD":
      return fault("expected no password among the options; encrypted_password takes a verifier")
    default:
      return fault(`expected an option of CREATE ROLE, and ${JSON.stringify(option.name)} is none`)
  }
}

const creationOptions: ReadonlySet<string> = new Set<CreationOption>([
  "ENCODING",
  "LOCALE",
  "LC_COLLATE",
  "LC_CTYPE",
  "LOCALE_PROVIDER",
  "ICU_LOCALE",
  "ICU_RULES",
  "BUILTIN_LOCALE",
  "COLLATION_VERSION",
  "TEMPLATE",
  "STRATEGY",
  "OID"
])
const isCreationOption = (name: string): name is CreationOption => creationOptions.has(name)

/** An unquoted word is an identifier in SQL, and folded as one. */
const wordOf = (option: GenericOption): string | null => {
  const text = textOf(option)
  return text === null || option.quoted || /^["']/.test(option.value ?? "") ? text : text.toLowerCase()
}

export const readDatabaseOption = (option: GenericOption): Reading<DatabaseOption> => {
  const name = nameOf(option).replace(/^CONNECTION_LIMIT$/, "CONNECTION LIMIT")
  if (!option.quoted && /^default$/i.test(option.value ?? "")) return read({ _tag: "Ignored" })
  switch (name) {
    case "CONNECTION LIMIT":
      return readLimit(name, option)
    case "ALLOW_CONNECTIONS":
    case "IS_TEMPLATE": {
      const on = booleanOf(option)
      if (on === null) return fault(`expected for ${name} true or false`)
      return read(name === "IS_TEMPLATE" ? { _tag: "IsTemplate", on } : { _tag: "AllowConnections", on })
    }
    case "TABLESPACE": {
      const tablespace = wordOf(option)
      return tablespace === null ? notOneWord(name) : read({ _tag: "Tablespace", name: tablespace })
    }
    case "OWNER":
      return fault("expected the owner in the field owner, not among the options")
    default: {
      if (!isCreationOption(name))
        return fault(`expected an option of CREATE DATABASE, and ${JSON.stringify(option.name)} is none`)
      const value = wordOf(option)
      return value === null ? notOneWord(name) : read({ _tag: "Creation", option: name, value })
    }
  }
}

interface OptionFault {
  readonly index: number
  /** Which part of the option is wrong. */
  readonly part: "name" | "value"
  readonly message: string
}

/** What an option is about: two about one thing are refused, as Postgres does ("conflicting or redundant options"). */
const topicOf = (option: RoleOption | DatabaseOption): string | null => {
  switch (option._tag) {
    case "Flag":
      return roleFlagWords[option.flag]
    case "Creation":
      return option.option
    case "Ignored":
      return null
    case "Members":
      return option.admin ? "ADMIN" : "ROLE"
    default:
      return option._tag
  }
}

const faultsOf = (
  options: ReadonlyArray<GenericOption>,
  reading: (option: GenericOption) => Reading<RoleOption | DatabaseOption>
): ReadonlyArray<OptionFault> => {
  const seen = new Set<string>()
  return options.flatMap((option, index): ReadonlyArray<OptionFault> => {
    const one = reading(option)
    if (one.fault !== null)
      return [{ index, part: one.fault.endsWith(" is none") ? "name" : "value", message: one.fault }]
    const topic = topicOf(one.option)
    if (topic === null) return []
    if (seen.has(topic)) return [{ index, part: "name", message: `expected ${topic} to be said once` }]
    seen.add(topic)
    return []
  })
}

export const faultsOfRoleOptions = (options: ReadonlyArray<GenericOption>): ReadonlyArray<OptionFault> =>
  faultsOf(options, readRoleOption)
export const faultsOfDatabaseOptions = (options: ReadonlyArray<GenericOption>): ReadonlyArray<OptionFault> =>
  faultsOf(options, readDatabaseOption)

const meaningsOf = <A>(
  options: ReadonlyArray<GenericOption>,
  reading: (option: GenericOption) => Reading<A>
): ReadonlyArray<A> =>
  options.flatMap((option) => {
    const one = reading(option)
    return one.fault === null ? [one.option] : []
  })

/** What could be read. Ask `faultsOfRoleOptions` first. */
export const roleOptionsOf = (options: ReadonlyArray<GenericOption>): ReadonlyArray<RoleOption> =>
  meaningsOf(options, readRoleOption)
/** What could be read. Ask `faultsOfDatabaseOptions` first. */
export const databaseOptionsOf = (options: ReadonlyArray<GenericOption>): ReadonlyArray<DatabaseOption> =>
  meaningsOf(options, readDatabaseOption)
