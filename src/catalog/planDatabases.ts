/**
 * Databases: invalid ones are dropped, deltas are done, wanted ones are made and get their owner (phases 2, 5 and 6).
 *
 * A database that the spec wants is never dropped, whatever a delta says; nor is one that Postgres needs.
 */
import { quoteIdentifier } from "../pgwire/quote.ts"
import { databaseOptionsOf, faultsOfDatabaseOptions } from "../spec/clusterOptions.ts"
import { templateDatabase } from "../pgwire/ownSessions.ts"
import { faultOfDatabaseName, faultOfRoleReference } from "../spec/names.ts"
import type { Database, ParsedSpec } from "../spec/ParsedSpec.ts"
import { type ApplyOptions, isReservedDatabase, majorOf, type ObservedDatabase } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import {
  databaseObject,
  type Decision,
  type Lane,
  type Operation,
  operation,
  refuse,
  roleObject,
  skip,
  statement,
  type Track,
  transactional
} from "./operations.ts"
import { renderDatabaseOptions } from "./options.ts"
import { alterableOptions, planDatabaseOptions } from "./planDatabaseOptions.ts"
import { recordDeltas } from "./planDeltaRecords.ts"
import { databaseDeltas, decideDeltas, type DeltaDecision } from "./planDeltas.ts"
import { planSubscriptionDrop } from "./planSubscriptions.ts"
import { endSessions, endSlots } from "./planVacate.ts"

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

/**
 * In the order of the deltas. Those that share no name may run concurrently, but for those that are recorded: two
 * records at once would write the same row, which holds the settings of our role.
 */
export const planDatabaseDeltas = (draft: Draft, spec: ParsedSpec, options: ApplyOptions): ReadonlyArray<Track> => {
  const wanted = wantedDatabases(spec)
  const chains = decideDeltas(databaseDeltas(spec), {
    thing: "database",
    exists: new Set(draft.databases.keys()),
    wanted: (name) => wanted.has(name),
    made: (name) => wanted.has(name),
    kept: (name) => (isReservedDatabase(name, draft) ? "Postgres or this program needs it" : null),
    recorded: (digest) => draft.doneDeltas.has(digest)
  })
  const tracks = chains.map((chain): { readonly lanes: Track; readonly records: boolean } => {
    const planned = chain.deltas.flatMap((delta, at) => {
      const decision = chain.decisions[at] ?? "absent"
      if (decision === "absent") return []
      return delta._tag === "Drop"
        ? planDrop(draft, delta.name, decision)
        : [planRename(draft, delta.name, delta.to, decision)]
    })
    const operations = planned.filter(({ decision }) => decision._tag === "Do")
    // All that was to be done is refused: it is, until somebody corrects it.
    const refused = operations.length === 0 && planned.some(({ decision }) => decision._tag === "Refuse")
    if (!chain.records || refused) return { lanes: operations.map(ownLane), records: false }
    const ids = operations.map(({ id }) => id)
    const record = recordDeltas(draft, options, chain, "RenameAndDeleteDatabases", ids)
    // Renames are one transaction with their record: it cannot be missing once they are done. Names tell of a drop.
    const drops = chain.decisions.some((decision, at) => decision === "do" && chain.deltas[at]?._tag === "Drop")
    const made = [...operations, record]
    return { lanes: drops ? made.map(ownLane) : [{ database: null, joined: true, operations: made }], records: true }
  })
  const concurrent = tracks.flatMap(({ lanes, records }) => (records ? [] : [lanes]))
  const inTurn = tracks.flatMap(({ lanes, records }) => (records ? lanes : []))
  return [...concurrent, inTurn].filter((lanes) => lanes.length > 0)
}

const ownLane = (made: Operation): Lane => ({ database: made.database, joined: false, operations: [made] })

const planDrop = (draft: Draft, name: string, decision: Exclude<DeltaDecision, "absent">): ReadonlyArray<Operation> => {
  const known = draft.databases.get(name)
  if (known === undefined) return []
  const about = {
    phase: "RenameAndDeleteDatabases",
    object: databaseObject(name),
    action: "drop",
    because: "a delta says so"
  } as const
  if (decision !== "do") return [add(draft, operation({ ...about, decision: skip(decision.because) }))]
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
        statement(endSlots(name)),
        statement(`DROP DATABASE IF EXISTS ${quoted} WITH (FORCE)`)
      ],
      after: [...makersOf(draft, databaseObject(name)), ...subscriptions.map(({ id }) => id)],
      change: { _tag: "DropDatabase", name }
    })
  )
  return [...subscriptions, drop]
}

const planRename = (draft: Draft, name: string, to: string, decision: Exclude<DeltaDecision, "absent">): Operation => {
  const about = {
    phase: "RenameAndDeleteDatabases",
    object: databaseObject(name),
    action: `rename to ${JSON.stringify(to)}`,
    because: "a delta says so; sessions are ended, for it cannot be renamed under them"
  } as const
  if (decision !== "do") return add(draft, operation({ ...about, decision: skip(decision.because) }))
  const fault = faultOfDatabaseName(to)
  if (fault !== null) return add(draft, operation({ ...about, decision: refuse(fault, "correct the delta") }))
  return add(
    draft,
    transactional({
      ...about,
      sql: [endSessions(name), `ALTER DATABASE ${quoteIdentifier(name)} RENAME TO ${quoteIdentifier(to)}`],
      after: makersOf(draft, databaseObject(name), databaseObject(to)),
      change: { _tag: "RenameDatabase", name, to }
    })
  )
}

/** `NAME value ... OWNER "o"` (golden strings of docs/reference/compute_ctl.md#quoting). */
export const databaseOptionsText = (database: Database): string =>
  [...renderDatabaseOptions(database.options), `OWNER ${quoteIdentifier(database.owner)}`].join(" ")

export const faultOfDatabase = (database: Database): Decision => {
  const name = faultOfDatabaseName(database.name) ?? faultOfRoleReference(database.owner)
  if (name !== null) return refuse(name, "choose another name")
  const [option] = faultsOfDatabaseOptions(database.options)
  return option === undefined ? { _tag: "Do" } : refuse(option.message, "correct the database's options")
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
  /** To another tablespace, which refuses to be in a transaction. */
  readonly moved: ReadonlyArray<Operation>
} => {
  const created = new Map<string, Operation>()
  const altered: Array<Operation> = []
  const moved: Array<Operation> = []
  planReserved(draft, spec, options)
  for (const database of wantedDatabases(spec).values()) {
    const known = draft.databases.get(database.name)
    if (known === undefined) {
      const owner = makersOf(draft, roleObject(database.owner), databaseObject(database.name))
      const copied = template.copies.has(database.name)
      const after = copied ? [...template.after, ...owner] : owner
      const made = add(draft, createDatabase(draft, database, after, options, copied))
      if (made.decision._tag === "Do") created.set(database.name, made)
    } else {
      if (known.owner !== database.owner) altered.push(add(draft, changeOwner(draft, database, known)))
      const changes = planDatabaseOptions(draft, database, known, options)
      altered.push(...changes.altered)
      moved.push(...changes.moved)
    }
  }
  return { created, altered, moved }
}

const changeOwner = (draft: Draft, { name, owner }: Database, known: ObservedDatabase): Operation =>
  transactional({
    phase: "CreateAndAlterDatabases",
    object: databaseObject(name),
    action: `change owner to ${JSON.stringify(owner)}`,
    because: `its owner is ${JSON.stringify(known.owner)}`,
    after: makersOf(draft, roleObject(owner), databaseObject(name)),
    sql: [`ALTER DATABASE ${quoteIdentifier(name)} OWNER TO ${quoteIdentifier(owner)}`],
    change: { _tag: "OwnDatabase", name, owner }
  })

const createDatabase = (
  draft: Draft,
  database: Database,
  after: ReadonlyArray<string>,
  options: ApplyOptions,
  copied: boolean
): Operation => {
  const decision = faultOfDatabase(database)
  const given = databaseOptionsOf(database.options)
  const head = `CREATE DATABASE ${quoteIdentifier(database.name)}`
  const strategy = given.some((option) => option._tag === "Creation" && option.option === "STRATEGY")
  const copies = options.fileCopy && majorOf(draft) >= 15 && !strategy
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
      allowsConnections: true,
      template: false,
      ...alterableOptions(given)
    }
  })
}
