/**
 * Databases: invalid ones are dropped, deltas are done, wanted ones are made and get their owner (phases 2, 5 and 6).
 *
 * A database that the spec wants is never dropped, whatever a delta says; nor is one that Postgres needs.
 */
import { quoteIdentifier } from "../pgwire/quote.ts"
import { faultOfOption, renderOption } from "./options.ts"
import { faultOfName } from "../spec/ComputeSpec.ts"
import type { Database, DeltaOperation, ParsedSpec } from "../spec/ParsedSpec.ts"
import { type ApplyOptions, isReservedDatabase, majorOf, templateDatabase } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import {
  databaseObject,
  type Lane,
  type Operation,
  operation,
  refuse,
  roleObject,
  skip,
  statement,
  type Track,
  transactional,
  type Decision
} from "./operations.ts"
import { decideRename } from "./renames.ts"
import { planSubscriptionDrop } from "./planSubscriptions.ts"

/** The last of a name counts. */
export const wantedDatabases = (spec: ParsedSpec): ReadonlyMap<string, Database> =>
  new Map(spec.databases.flatMap((database) => (database.name === templateDatabase ? [] : [[database.name, database]])))

/** What an interrupted CREATE or DROP left can only be dropped. Our template is, in the background. */
export const planInvalidDatabases = (draft: Draft): ReadonlyArray<Operation> =>
  [...draft.databases.values()]
    .filter(({ invalid, name }) => invalid && name !== templateDatabase)
    .map(({ name }) =>
      add(
        draft,
        operation({
          phase: "DropInvalidDatabases",
          object: databaseObject(name),
          action: "drop",
          because: "an interrupted CREATE or DROP DATABASE left it invalid",
          statements: [statement(`DROP DATABASE IF EXISTS ${quoteIdentifier(name)}`)],
          change: { _tag: "DropDatabase", name }
        })
      )
    )

type DatabaseDelta = Extract<DeltaOperation, { readonly _tag: "DropDatabase" | "RenameDatabase" }>

const isDatabaseDelta = (delta: DeltaOperation): delta is DatabaseDelta =>
  delta._tag === "DropDatabase" || delta._tag === "RenameDatabase"

/** In the order of the deltas; those that share no name may run concurrently. */
export const planDatabaseDeltas = (draft: Draft, spec: ParsedSpec): ReadonlyArray<Track> => {
  const deltas = spec.deltas.filter(isDatabaseDelta)
  const renames = deltas.filter((delta) => delta._tag === "RenameDatabase")
  const wanted = wantedDatabases(spec)
  const chains: Array<{ readonly names: Set<string>; readonly lanes: Array<Lane> }> = []
  for (const delta of deltas) {
    const lanes =
      delta._tag === "DropDatabase"
        ? planDrop(draft, delta.name, wanted.has(delta.name))
        : planRename(draft, renames, renames.indexOf(delta), wanted)
    const names = new Set([delta.name, ...(delta._tag === "RenameDatabase" ? [delta.to] : [])])
    const met = chains.filter((chain) => [...names].some((name) => chain.names.has(name)))
    const rest = chains.filter((chain) => !met.includes(chain))
    chains.splice(0, chains.length, ...rest, {
      names: new Set([...met.flatMap((chain) => [...chain.names]), ...names]),
      lanes: [...met.flatMap((chain) => chain.lanes), ...lanes]
    })
  }
  return chains.map(({ lanes }) => lanes).filter((lanes) => lanes.length > 0)
}

const lane = (made: Operation): ReadonlyArray<Lane> =>
  made.decision._tag === "Do" ? [{ database: made.database, joined: false, operations: [made] }] : []

const planDrop = (draft: Draft, name: string, wanted: boolean): ReadonlyArray<Lane> => {
  const known = draft.databases.get(name)
  if (known === undefined) return []
  const about = {
    phase: "RenameAndDeleteDatabases",
    object: databaseObject(name),
    action: "drop",
    because: "a delta says so"
  } as const
  const kept = isReservedDatabase(name, draft)
    ? "Postgres or this program needs it"
    : wanted
      ? "the spec wants this database"
      : null
  if (kept !== null) return lane(add(draft, operation({ ...about, decision: skip(kept) })))
  const subscriptions =
    known.subscriptions && known.allowsConnections
      ? [planSubscriptionDrop(draft, name, "PreDropDatabases", "a database with subscriptions cannot be dropped")]
      : []
  const quoted = quoteIdentifier(name)
  const drop = add(
    draft,
    operation({
      ...about,
      statements: [
        ...(known.template ? [statement(`ALTER DATABASE ${quoted} IS_TEMPLATE false`)] : []),
        statement(`DROP DATABASE IF EXISTS ${quoted} WITH (FORCE)`)
      ],
      after: [...makersOf(draft, databaseObject(name)), ...subscriptions.map(({ id }) => id)],
      change: { _tag: "DropDatabase", name }
    })
  )
  return [...subscriptions.flatMap(lane), ...lane(drop)]
}

const planRename = (
  draft: Draft,
  renames: ReadonlyArray<Extract<DatabaseDelta, { readonly _tag: "RenameDatabase" }>>,
  index: number,
  wanted: ReadonlyMap<string, Database>
): ReadonlyArray<Lane> => {
  const { name, to } = renames[index] ?? { name: "", to: "" }
  const decision = decideRename(
    renames,
    index,
    (one) => draft.databases.has(one),
    (one) => wanted.has(one)
  )
  if (decision === "absent") return []
  const about = {
    phase: "RenameAndDeleteDatabases",
    object: databaseObject(name),
    action: `rename to ${JSON.stringify(to)}`,
    because: "a delta says so"
  } as const
  const fault = faultOfName(to)
  if (fault !== null) return lane(add(draft, operation({ ...about, decision: refuse(fault, "correct the delta") })))
  const reserved = isReservedDatabase(name, draft) || to === templateDatabase
  const kept = reserved ? "Postgres or this program needs it" : decision === "todo" ? null : decision.because
  if (kept !== null) return lane(add(draft, operation({ ...about, decision: skip(kept) })))
  return lane(
    add(
      draft,
      operation({
        ...about,
        statements: [statement(`ALTER DATABASE ${quoteIdentifier(name)} RENAME TO ${quoteIdentifier(to)}`)],
        after: makersOf(draft, databaseObject(name), databaseObject(to)),
        change: { _tag: "RenameDatabase", name, to }
      })
    )
  )
}

/** `NAME value ... OWNER "o"` (golden strings of docs/reference/compute_ctl.md#quoting). */
export const databaseOptionsText = (database: Database): string =>
  [...database.options.map(renderOption), `OWNER ${quoteIdentifier(database.owner)}`].join(" ")

export const faultOfDatabase = (database: Database): Decision => {
  const name = faultOfName(database.name) ?? faultOfName(database.owner)
  if (name !== null) return refuse(name, "choose another name")
  for (const option of database.options) {
    const fault = faultOfOption(option)
    if (fault !== null) return refuse(fault, "correct the database's options")
  }
  return { _tag: "Do" }
}

const optionIsTrue = (database: Database, name: string, otherwise: boolean): boolean => {
  const value = database.options.find((option) => option.name.toUpperCase() === name)?.value
  return value == null ? otherwise : /^(true|on|yes|1)$/i.test(value)
}

/** Such a database may be somebody's from before the name was ours: then it is left alone. */
const planReserved = (draft: Draft, spec: ParsedSpec, options: ApplyOptions): void => {
  if (!spec.databases.some(({ name }) => name === templateDatabase)) return
  const known = draft.databases.get(templateDatabase)
  const theirs = known !== undefined && known.owner !== options.superuser
  add(
    draft,
    operation({
      phase: "CreateAndAlterDatabases",
      object: databaseObject(templateDatabase),
      action: theirs ? "leave alone" : "create for the spec",
      because: "the spec names it",
      decision: theirs
        ? skip("the name is reserved")
        : refuse("the name is reserved for a database of this program", "choose another name")
    })
  )
}

/** CREATE DATABASE refuses to be in a transaction. */
export const planDatabases = (
  draft: Draft,
  spec: ParsedSpec,
  options: ApplyOptions,
  template: { readonly copies: ReadonlySet<string>; readonly after: ReadonlyArray<string> }
): {
  readonly created: ReadonlyMap<string, Operation>
  readonly altered: ReadonlyArray<Operation>
} => {
  const created = new Map<string, Operation>()
  const altered: Array<Operation> = []
  planReserved(draft, spec, options)
  for (const database of wantedDatabases(spec).values()) {
    const known = draft.databases.get(database.name)
    const owner = makersOf(draft, roleObject(database.owner), databaseObject(database.name))
    if (known === undefined) {
      const copied = template.copies.has(database.name)
      const made = add(
        draft,
        createDatabase(draft, database, copied ? [...template.after, ...owner] : owner, options, copied)
      )
      if (made.decision._tag === "Do") created.set(database.name, made)
    } else if (known.owner !== database.owner) {
      altered.push(
        add(
          draft,
          transactional({
            phase: "CreateAndAlterDatabases",
            object: databaseObject(database.name),
            action: `change owner to ${JSON.stringify(database.owner)}`,
            because: `its owner is ${JSON.stringify(known.owner)}`,
            after: owner,
            sql: [`ALTER DATABASE ${quoteIdentifier(database.name)} OWNER TO ${quoteIdentifier(database.owner)}`],
            change: { _tag: "OwnDatabase", name: database.name, owner: database.owner }
          })
        )
      )
    }
  }
  return { created, altered }
}

const createDatabase = (
  draft: Draft,
  database: Database,
  after: ReadonlyArray<string>,
  options: ApplyOptions,
  copied: boolean
): Operation => {
  const decision = faultOfDatabase(database)
  const head = `CREATE DATABASE ${quoteIdentifier(database.name)}`
  const copies =
    options.fileCopy && majorOf(draft) >= 15 && !database.options.some(({ name }) => name.toUpperCase() === "STRATEGY")
  const from = `${copied ? ` TEMPLATE ${quoteIdentifier(templateDatabase)}` : ""}${copies ? " STRATEGY FILE_COPY" : ""}`
  return operation({
    phase: "CreateAndAlterDatabases",
    object: databaseObject(database.name),
    action: "create",
    because: "the spec wants it",
    decision,
    statements: decision._tag === "Do" ? [statement(`${head} ${databaseOptionsText(database)}${from}`)] : [],
    after,
    change: {
      _tag: "CreateDatabase",
      name: database.name,
      owner: database.owner,
      allowsConnections: optionIsTrue(database, "ALLOW_CONNECTIONS", true),
      template: optionIsTrue(database, "IS_TEMPLATE", false)
    }
  })
}
