/**
 * The private template: a database that is visited once, and from which many new databases are copied with all that a
 * visit would have done in each.
 *
 * Made only where a copy cannot differ from a database that was made and visited by itself; all others take the plain
 * way. It is dropped in the background (`discardTemplate.ts`), because DROP DATABASE waits for a checkpoint. One
 * that an earlier apply left behind is never copied: nothing says what template1 was when it was made.
 */
import type { ApplyReport } from "../compute/snapshot.ts"
import { quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import { databaseOptionsOf } from "../spec/clusterOptions.ts"
import { templateDatabase } from "../pgwire/ownSessions.ts"
import type { Database, ParsedSpec } from "../spec/ParsedSpec.ts"
import { type ApplyOptions, majorOf } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import {
  databaseObject,
  type Lane,
  type Operation,
  operation,
  roleObject,
  skip,
  statement,
  transactional
} from "./operations.ts"
import { faultOfDatabase, wantedDatabases } from "./planDatabases.ts"
import { changePermissions, grantsWebAccess, recordVisit, wantsAnon } from "./planVisits.ts"

export interface PlannedTemplate {
  /** The new databases that are copied from it. */
  readonly copies: ReadonlySet<string>
  /** What a copy rests on. */
  readonly after: ReadonlyArray<string>
  readonly creation: ReadonlyArray<Lane>
  /** Its one visit, and ALLOW_CONNECTIONS false: a database cannot be copied while somebody is connected to it. */
  readonly visit: ReadonlyArray<Lane>
  /** One of an earlier apply that cannot wait to be dropped in the background. */
  readonly drops: ReadonlyArray<Operation>
}

/** For fewer it costs more (a database, a visit and, later, a checkpoint) than it saves. */
const fewest = 8

/** Any other option of a database could ask for something that the template is not. */
const copyable = (database: Database): boolean =>
  faultOfDatabase(database)._tag === "Do" &&
  databaseOptionsOf(database.options).every(
    ({ _tag }) => _tag === "ConnectionLimit" || _tag === "IsTemplate" || _tag === "Tablespace" || _tag === "Ignored"
  )

/** Before Postgres 15 the schema public belongs to each database's owner by name; anon's objects do so always. */
const copiesOf = (draft: Draft, spec: ParsedSpec): ReadonlySet<string> => {
  const none = new Set<string>()
  if (majorOf(draft) < 15 || !draft.superuser || wantsAnon(draft, spec)) return none
  // Making, renaming or altering web_access may fail: that must cost the visits that grant to it, not the databases.
  if (makersOf(draft, roleObject("web_access")).length > 0) return none
  if (draft.databases.has(templateDatabase)) return none
  const names = [...wantedDatabases(spec).values()]
    .filter((one) => !draft.databases.has(one.name) && copyable(one))
    .map(({ name }) => name)
  return names.length < fewest ? none : new Set(names)
}

export const planTemplate = (
  draft: Draft,
  spec: ParsedSpec,
  options: ApplyOptions,
  dropped: ReadonlyArray<string>
): PlannedTemplate => {
  const left = draft.databases.get(templateDatabase)
  if (left !== undefined)
    return { copies: new Set(), after: [], creation: [], visit: [], drops: planLeftover(draft, options, dropped) }
  const copies = copiesOf(draft, spec)
  if (copies.size === 0) return { copies, after: [], creation: [], visit: [], drops: [] }
  const about = { phase: "CreateAndAlterDatabases", object: databaseObject(templateDatabase) } as const
  const name = quoteIdentifier(templateDatabase)
  const created = add(
    draft,
    operation({
      ...about,
      action: "create",
      because:
        `${copies.size} new databases are copied from it, so that none of them needs a visit; ` +
        "it is dropped in the background",
      // Nobody but a superuser gets in.
      statements: [
        statement(`CREATE DATABASE ${name} CONNECTION LIMIT 0${options.fileCopy ? " STRATEGY FILE_COPY" : ""}`)
      ],
      change: {
        _tag: "CreateDatabase",
        name: templateDatabase,
        owner: options.superuser,
        allowsConnections: true,
        template: false
      }
    })
  )
  const work = changePermissions(
    draft,
    templateDatabase,
    "pg_database_owner",
    grantsWebAccess(draft, dropped),
    options
  ).map((one) => add(draft, { ...one, because: "its copies come with it" }))
  const visit = [...work, add(draft, recordVisit(draft, templateDatabase, "template", work, options))]
  const after = [created.id, ...visit.map(({ id }) => id)]
  const closed = add(
    draft,
    transactional({
      ...about,
      action: "close",
      because: "a database cannot be copied while somebody is in it",
      after,
      sql: [`ALTER DATABASE ${name} ALLOW_CONNECTIONS false`],
      change: { _tag: "AlterDatabase", name: templateDatabase, to: { allowsConnections: false } }
    })
  )
  add(draft, droppedLater)
  return {
    copies,
    after: [...after, closed.id],
    creation: [{ database: null, joined: false, operations: [created] }],
    visit: [
      { database: templateDatabase, joined: true, operations: visit },
      { database: null, joined: false, operations: [closed] }
    ],
    drops: []
  }
}

/** For the apply report: by this the applier knows that there is something to be dropped once it has answered. */
const droppedLater: Operation = operation({
  phase: "CreateAndAlterDatabases",
  object: databaseObject(templateDatabase),
  action: "drop",
  because: "nothing is copied from it any more",
  decision: skip("it is dropped in the background, because Postgres waits for a checkpoint")
})

/** What somebody else made under our name is theirs: it is left alone, and every database is made the plain way. */
const planLeftover = (
  draft: Draft,
  options: ApplyOptions,
  dropped: ReadonlyArray<string>
): ReadonlyArray<Operation> => {
  const left = draft.databases.get(templateDatabase)
  if (left === undefined || left.owner !== options.superuser) return []
  const holds = draft.references.some(({ database, role }) => database === templateDatabase && dropped.includes(role))
  if (!holds) {
    add(draft, droppedLater)
    return []
  }
  return [
    add(
      draft,
      operation({
        phase: "RenameAndDeleteDatabases",
        object: databaseObject(templateDatabase),
        action: "drop",
        because: "an earlier apply left it behind, and it holds on to a role that is dropped",
        statements: [statement(dropTemplate)],
        change: { _tag: "DropDatabase", name: templateDatabase }
      })
    )
  ]
}

export const dropTemplate = `DROP DATABASE IF EXISTS ${quoteIdentifier(templateDatabase)} WITH (FORCE)`

/** One row if there is a template that is ours to drop. */
export const findTemplate =
  `SELECT 1 FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba ` +
  `WHERE d.datname = ${quoteLiteral(templateDatabase)} AND r.rolname = current_user`

/** Whether an apply that ended so leaves a template to be dropped. */
export const leavesTemplate = (applyReport: ApplyReport): boolean =>
  applyReport.operations.some(
    ({ action, object, outcome }) =>
      object === droppedLater.object && action === droppedLater.action && outcome === "skipped"
  )
