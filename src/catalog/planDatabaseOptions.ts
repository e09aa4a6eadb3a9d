/**
 * Options of a database that is there already: those that ALTER DATABASE knows are brought to what the spec says, and
 * what only the creation decides is refused, or reported at a start, by name when it differs (phase 6).
 *
 * An option that the spec does not name is left alone. The template and the strategy of a creation leave no trace.
 */
import { quoteIdentifier } from "../pgwire/quote.ts"
import {
  type CreationOption,
  type DatabaseOption,
  databaseOptionsOf,
  faultsOfDatabaseOptions
} from "../spec/clusterOptions.ts"
import type { Database } from "../spec/ParsedSpec.ts"
import type { ApplyOptions, DatabaseCreation, ObservedDatabase } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import { databaseObject, operation, type Operation, refuse, skip, statement, transactional } from "./operations.ts"
import { renderAlterable } from "./options.ts"

type Alterable = Pick<ObservedDatabase, "allowsConnections" | "template" | "connectionLimit" | "tablespace">

const alterableOption = (option: DatabaseOption): Partial<Alterable> => {
  switch (option._tag) {
    case "ConnectionLimit":
      return { connectionLimit: option.limit }
    case "AllowConnections":
      return { allowsConnections: option.on }
    case "IsTemplate":
      return { template: option.on }
    case "Tablespace":
      return { tablespace: option.name }
    case "Creation":
    case "Ignored":
      return {}
  }
}

export const alterableOptions = (options: ReadonlyArray<DatabaseOption>): Partial<Alterable> =>
  options.reduce<Partial<Alterable>>((all, option) => ({ ...all, ...alterableOption(option) }), {})

export const planDatabaseOptions = (
  draft: Draft,
  database: Database,
  known: ObservedDatabase,
  options: ApplyOptions
): { readonly altered: ReadonlyArray<Operation>; readonly moved: ReadonlyArray<Operation> } => {
  const nothing = { altered: [], moved: [] }
  if (database.options.length === 0) return nothing
  const about = { phase: "CreateAndAlterDatabases", object: databaseObject(database.name) } as const
  const [fault] = faultsOfDatabaseOptions(database.options)
  if (fault !== undefined) {
    const decision = refuse(fault.message, "correct the database's options")
    add(draft, operation({ ...about, action: "alter options", because: "the spec has options for it", decision }))
    return nothing
  }
  const given = databaseOptionsOf(database.options)
  reportCreation(draft, database.name, given, known, options)
  const drifted = given.filter((option) =>
    Object.entries(alterableOption(option)).some(([key, value]) => known[key as keyof Alterable] !== value)
  )
  return {
    altered: alterOptions(draft, database.name, drifted),
    moved: drifted.flatMap((option) => (option._tag === "Tablespace" ? [moveDatabase(draft, known, option.name)] : []))
  }
}

const alterOptions = (draft: Draft, name: string, drifted: ReadonlyArray<DatabaseOption>): ReadonlyArray<Operation> => {
  const texts = drifted.flatMap((option) =>
    option._tag === "Creation" || option._tag === "Tablespace" || option._tag === "Ignored"
      ? []
      : [renderAlterable(option)]
  )
  if (texts.length === 0) return []
  const about = {
    phase: "CreateAndAlterDatabases",
    object: databaseObject(name),
    action: `alter options: ${texts.join(", ")}`,
    because: "its options are not what the spec says"
  } as const
  const to = alterableOptions(drifted.filter(({ _tag }) => _tag !== "Tablespace"))
  if (name === draft.systemDatabase && to.allowsConnections === false) {
    const decision = refuse("this program works in this database", "do not close it to connections")
    add(draft, operation({ ...about, decision }))
    return []
  }
  return [
    add(
      draft,
      transactional({
        ...about,
        after: makersOf(draft, databaseObject(name)),
        sql: [`ALTER DATABASE ${quoteIdentifier(name)} ${texts.join(" ")}`],
        change: { _tag: "AlterDatabase", name, to }
      })
    )
  ]
}

/** It moves files, and refuses to be in a transaction or while somebody is connected. */
const moveDatabase = (draft: Draft, { name, tablespace }: ObservedDatabase, to: string): Operation =>
  add(
    draft,
    operation({
      phase: "CreateAndAlterDatabases",
      object: databaseObject(name),
      action: `move to tablespace ${JSON.stringify(to)}`,
      because: `it is in ${JSON.stringify(tablespace)}`,
      after: makersOf(draft, databaseObject(name)),
      statements: [statement(`ALTER DATABASE ${quoteIdentifier(name)} SET TABLESPACE ${quoteIdentifier(to)}`)],
      change: { _tag: "AlterDatabase", name, to: { tablespace: to } }
    })
  )

/** Spellings that operating systems and Postgres itself change: `en_US.UTF-8` and `en_US.utf8`, `en_US` and `en-US`. */
const sameLocale = (one: string, other: string): boolean => {
  const plain = (text: string) => text.toLowerCase().replaceAll("_", "-").replace(/utf-8/, "utf8")
  return plain(one) === plain(other)
}

/** What is there instead of what the option says; `null`: it agrees, or left no trace to compare with. */
const differenceOf = (
  draft: Draft,
  option: CreationOption,
  value: string,
  given: ReadonlyArray<DatabaseOption>,
  there: DatabaseCreation
): string | null => {
  const says = (name: CreationOption) => given.some((one) => one._tag === "Creation" && one.option === name)
  const locale = (is: string) => (sameLocale(is, value) ? null : is)
  switch (option) {
    case "ENCODING":
      return draft.encodings.get(value) === there.encoding ? null : there.encoding
    case "LC_COLLATE":
      return locale(there.collate)
    case "LC_CTYPE":
      return locale(there.ctype)
    case "LOCALE":
      return (
        (says("LC_COLLATE") ? null : locale(there.collate)) ??
        (says("LC_CTYPE") ? null : locale(there.ctype)) ??
        (there.provider === "libc" || says("ICU_LOCALE") || says("BUILTIN_LOCALE") ? null : locale(there.locale ?? ""))
      )
    case "LOCALE_PROVIDER":
      return value.toLowerCase() === there.provider ? null : there.provider
    case "ICU_LOCALE":
    case "BUILTIN_LOCALE":
      return locale(there.locale ?? "")
    case "ICU_RULES":
      return (there.rules ?? "") === value ? null : (there.rules ?? "")
    case "OID":
      return there.oid === value ? null : there.oid
    case "COLLATION_VERSION":
    case "TEMPLATE":
    case "STRATEGY":
      return null
  }
}

/** At a start it is reported only: a database that worked so far is not to end the compute. */
const reportCreation = (
  draft: Draft,
  name: string,
  given: ReadonlyArray<DatabaseOption>,
  { creation }: ObservedDatabase,
  { kind }: ApplyOptions
): void => {
  if (creation === null) return
  for (const option of given) {
    if (option._tag !== "Creation") continue
    const there = differenceOf(draft, option.option, option.value, given, creation)
    if (there === null) continue
    const reason = `${option.option} is ${JSON.stringify(there)}, and only the creation of a database decides it`
    add(
      draft,
      operation({
        phase: "CreateAndAlterDatabases",
        object: databaseObject(name),
        action: `change ${option.option} to ${JSON.stringify(option.value)}`,
        because: "the spec says so",
        differs: { attribute: option.option, from: there, to: option.value },
        decision: kind === "start" ? skip(reason) : refuse(reason, "take the option back, or make another database")
      })
    )
  }
}
