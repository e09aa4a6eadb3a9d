/**
 * A catalog that is thought forward: planners add operations, and see what the ones before them would leave.
 *
 * Mutable on purpose, for a spec may name thousands of roles; it never outlives one call of a planner.
 */
import type { Catalog, ObservedDatabase, ObservedExtension, ObservedRole } from "./Catalog.ts"
import { type Change, databaseObject, type Operation, roleObject } from "./operations.ts"
import { isMd5 } from "./roleAttributes.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Whether a rename of a delta list is still to be done. Deltas come again with every start on the same spec, and
// nothing says whether they were done before; the names that exist have to.
// ---------------------------------------------------------------------------------------------------------------------

export interface Rename {
  readonly name: string
  readonly to: string
}

/** Follows a name through the later renames. */
const finalName = (renames: ReadonlyArray<Rename>, index: number): string => {
  let name = renames[index]?.to ?? ""
  for (const later of renames.slice(index + 1)) if (later.name === name) name = later.to
  return name
}

/**
 * `todo`; `absent`: there is nothing of the old name, so it was done or never applied; otherwise why it is left
 * alone. An exchange of two names over a third cannot be told from one that is done: it is taken for done.
 */
export const decideRename = (
  renames: ReadonlyArray<Rename>,
  index: number,
  exists: (name: string) => boolean,
  wanted: (name: string) => boolean
): "todo" | "absent" | { readonly because: string } => {
  const rename = renames[index]
  if (rename === undefined || rename.name === rename.to || !exists(rename.name)) return "absent"
  const final = finalName(renames, index)
  if (exists(rename.to)) return { because: `${JSON.stringify(rename.to)} exists already` }
  if (exists(final)) return { because: `${JSON.stringify(final)}, where this rename would end, exists already` }
  if (wanted(rename.name) && !wanted(final)) {
    return { because: `the spec wants ${JSON.stringify(rename.name)} and does not want ${JSON.stringify(final)}` }
  }
  return "todo"
}

// ---------------------------------------------------------------------------------------------------------------------

type Writable<T> = { -readonly [K in keyof T]: T[K] }

export interface Draft extends Omit<Writable<Catalog>, "roles" | "databases" | "extensions" | "schemas"> {
  readonly roles: Map<string, ObservedRole>
  readonly databases: Map<string, ObservedDatabase>
  readonly extensions: Map<string, ObservedExtension>
  readonly schemas: Set<string>
  readonly operations: Array<Operation>
  /** Which operation last made, or could not make, a role or database: `role "web"` to its id. */
  readonly madeBy: Map<string, string>
  /** How often an id was given. */
  readonly ids: Map<string, number>
}

export const draftOf = (catalog: Catalog): Draft => ({
  ...catalog,
  roles: new Map(catalog.roles),
  databases: new Map(catalog.databases),
  extensions: new Map(catalog.extensions),
  schemas: new Set(catalog.schemas),
  operations: [],
  madeBy: new Map(),
  ids: new Map()
})

/** Ids of the operations on which the existence of these objects rests. */
export const makersOf = (draft: Draft, ...objects: ReadonlyArray<string>): ReadonlyArray<string> =>
  objects.map((object) => draft.madeBy.get(object)).filter((id) => id !== undefined)

/** Says that an operation which changes nothing we track is one that others rest on. */
export const made = (draft: Draft, object: string, { id }: Operation): void => void draft.madeBy.set(object, id)

/** Keeps the operation, and what it would change if it is to be done. Hands it back, with an id of its own. */
export const add = (draft: Draft, given: Operation): Operation => {
  const times = (draft.ids.get(given.id) ?? 0) + 1
  draft.ids.set(given.id, times)
  const operation = times === 1 ? given : { ...given, id: `${given.id} (${times})` }
  draft.operations.push(operation)
  if (operation.decision._tag !== "Skip") credit(draft, operation)
  if (operation.decision._tag === "Do") simulateChange(draft, operation.change)
  return operation
}

const credit = (draft: Draft, operation: Operation): void => {
  const { change } = operation
  if (change._tag === "PutRole") made(draft, roleObject(change.role.name), operation)
  else if (change._tag === "RenameRole") made(draft, roleObject(change.to), operation)
  else if (change._tag === "RenameDatabase") made(draft, databaseObject(change.to), operation)
  else if (change._tag === "CreateDatabase" || change._tag === "DropDatabase" || change._tag === "OwnDatabase") {
    made(draft, databaseObject(change.name), operation)
  }
}

const editDatabase = (draft: Draft, name: string, edit: Partial<ObservedDatabase>): void => {
  const known = draft.databases.get(name)
  if (known !== undefined) draft.databases.set(name, { ...known, ...edit })
}

/** Postgres salts md5 with the role's name, and so forgets it on a rename; SCRAM stays. */
const afterRename = (role: ObservedRole, to: string): ObservedRole => ({
  ...role,
  name: to,
  verifier: role.verifier !== null && role.verifier !== "unseen" && isMd5(role.verifier) ? null : role.verifier
})

const simulateChange = (draft: Draft, change: Change): void => {
  switch (change._tag) {
    case "PutRole":
      draft.roles.set(change.role.name, change.role)
      return
    case "RenameRole": {
      const role = draft.roles.get(change.name)
      if (role === undefined) return
      draft.roles.delete(change.name)
      draft.roles.set(change.to, afterRename(role, change.to))
      for (const database of draft.databases.values()) {
        if (database.owner === change.name) editDatabase(draft, database.name, { owner: change.to })
      }
      draft.references = draft.references.map((one) => (one.role === change.name ? { ...one, role: change.to } : one))
      return
    }
    case "DropRole":
      draft.roles.delete(change.name)
      draft.references = draft.references.filter((one) => one.role !== change.name)
      return
    case "CreateDatabase":
      draft.databases.set(change.name, {
        name: change.name,
        owner: change.owner,
        allowsConnections: change.allowsConnections,
        template: change.template,
        invalid: false,
        granted: false,
        visited: null,
        subscriptions: false,
        auditLogOff: false
      })
      return
    case "DropDatabase":
      draft.databases.delete(change.name)
      draft.references = draft.references.filter((one) => one.database !== change.name)
      return
    case "RenameDatabase": {
      const database = draft.databases.get(change.name)
      if (database === undefined) return
      draft.databases.delete(change.name)
      draft.databases.set(change.to, { ...database, name: change.to })
      draft.references = draft.references.map((one) =>
        one.database === change.name ? { ...one, database: change.to } : one
      )
      return
    }
    case "CloseDatabase":
      return editDatabase(draft, change.name, { allowsConnections: false })
    case "OwnDatabase":
      return editDatabase(draft, change.name, { owner: change.owner })
    case "GrantDatabase":
      return editDatabase(draft, change.name, { granted: true })
    case "RecordVisit":
      return editDatabase(draft, change.name, { visited: change.visited })
    case "DropReferences":
      // Privileges on shared objects go with whichever database comes first.
      draft.references = draft.references.filter(
        (one) => one.role !== change.role || (one.database !== null && one.database !== change.database)
      )
      for (const database of draft.databases.values()) {
        if (database.owner === change.role) editDatabase(draft, database.name, { owner: change.heir })
      }
      return
    case "DropSubscriptions":
      return editDatabase(draft, change.database, { subscriptions: false })
    case "SubscriptionsDropped":
      draft.subscriptionsDropped = true
      return
    case "CreateSchema":
      draft.schemas.add(change.name)
      return
    case "PutExtension": {
      const known: ObservedExtension = draft.extensions.get(change.name) ?? {
        available: change.version,
        installed: null
      }
      const { relocatable, schema, version } = change
      draft.extensions.set(change.name, { ...known, installed: { version, schema, relocatable } })
      return
    }
    case "CreateHealthCheck":
      draft.healthCheck = true
      return
    case "AuditLogOff":
      return editDatabase(draft, change.database, { auditLogOff: true })
    case "Nothing":
  }
}
