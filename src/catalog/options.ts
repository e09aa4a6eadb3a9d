/**
 * Options of roles and databases as SQL text. What they mean, and whether they are options at all, says
 * `spec/clusterOptions.ts`.
 */
import { quoteLiteral } from "../pgwire/quote.ts"
import { type DatabaseOption, readDatabaseOption, roleFlagWords, type RoleOption } from "../spec/clusterOptions.ts"
import type { GenericOption } from "../spec/ParsedSpec.ts"

/** `null`: it is no part of CREATE or ALTER ROLE, but a membership, or nothing. */
export const renderRoleOption = (option: RoleOption): string | null => {
  switch (option._tag) {
    case "Flag":
      return `${option.on ? "" : "NO"}${roleFlagWords[option.flag]}`
    case "ConnectionLimit":
      return `CONNECTION LIMIT ${option.limit}`
    case "ValidUntil":
      return `VALID UNTIL ${quoteLiteral(option.until)}`
    case "MemberOf":
    case "Members":
    case "Ignored":
      return null
  }
}

/** One that ALTER DATABASE knows too. */
export const renderAlterable = (
  option: Exclude<DatabaseOption, { readonly _tag: "Creation" | "Tablespace" | "Ignored" }>
): string => {
  switch (option._tag) {
    case "ConnectionLimit":
      return `CONNECTION LIMIT ${option.limit}`
    case "AllowConnections":
      return `ALLOW_CONNECTIONS ${option.on}`
    case "IsTemplate":
      return `IS_TEMPLATE ${option.on}`
  }
}

/** For CREATE DATABASE: `LC_COLLATE 'C' TEMPLATE template0`. Ask `faultsOfDatabaseOptions` first. */
export const renderDatabaseOptions = (options: ReadonlyArray<GenericOption>): ReadonlyArray<string> =>
  options.flatMap((given) => {
    const reading = readDatabaseOption(given)
    if (reading.fault !== null || reading.option._tag === "Ignored") return []
    const { option } = reading
    if (option._tag !== "Creation" && option._tag !== "Tablespace") return [renderAlterable(option)]
    const name = option._tag === "Creation" ? option.option : "TABLESPACE"
    return [`${name} ${given.quoted ? quoteLiteral(given.value ?? "") : given.value}`]
  })
