/**
 * A plan while it is made: the operations so far, and the catalog as it would be after them.
 *
 * Mutable on purpose, for a spec may name thousands of roles; it never outlives one call of `planApply`.
 */
import {
  type Catalog,
  majorOf,
  type ObservedDatabase,
  type ObservedExtension,
  type ObservedMembership,
  type ObservedRole
} from "./Catalog.ts"
import {
  type Change,
  type DatabaseChange,
  databaseObject,
  type Operation,
  type RoleChange,
  roleObject,
  type SystemChange
} from "./operations.ts"
import { isMd5 } from "./roleAttributes.ts"

type Writable<T> = { -readonly [K in keyof T]: T[K] }

export interface Draft extends Omit<
  Writable<Catalog>,
  "roles" | "databases" | "extensions" | "schemas" | "doneDeltas"
> {
  readonly roles: Map<string, ObservedRole>
  readonly databases: Map<string, ObservedDatabase>
  readonly extensions: Map<string, ObservedExtension>
  readonly schemas: Set<string>
  readonly doneDeltas: Set<string>
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
  doneDeltas: new Set(catalog.doneDeltas),
  operations: [],
  madeBy: new Map(),
  ids: new Map()
})

/** Ids of the operations on which the existence of these objects rests. */
export const makersOf = (draft: Draft, ...objects: ReadonlyArray<string>): ReadonlyArray<string> =>
  objects.map((object) => draft.madeBy.get(object)).filter((id) => id !== undefined)

/** Others rest on this operation, though it changes nothing that a catalog holds. */
export const setMaker = (draft: Draft, object: string, { id }: Operation): void => void draft.madeBy.set(object, id)

/** Adds an operation to the plan and, if it is to be done, its change to the catalog. Returns it under its own id. */
export const add = (draft: Draft, given: Operation): Operation => {
  const times = (draft.ids.get(given.id) ?? 0) + 1
  draft.ids.set(given.id, times)
  const operation = times === 1 ? given : { ...given, id: `${given.id} (${times})` }
  draft.operations.push(operation)
  if (operation.decision._tag !== "Skip") recordMaker(draft, operation)
  if (operation.decision._tag === "Do") simulateChange(draft, operation.change)
  return operation
}

const recordMaker = (draft: Draft, operation: Operation): void => {
  const { change } = operation
  if (change._tag === "PutRole") setMaker(draft, roleObject(change.role.name), operation)
  else if (change._tag === "RenameRole") setMaker(draft, roleObject(change.to), operation)
  else if (change._tag === "RenameDatabase") setMaker(draft, databaseObject(change.to), operation)
  else if (change._tag === "CreateDatabase" || change._tag === "DropDatabase" || change._tag === "OwnDatabase") {
    setMaker(draft, databaseObject(change.name), operation)
  }
}

const simulateChange = (draft: Draft, change: Change): void => {
  switch (change._tag) {
    case "PutRole":
    case "RenameRole":
    case "DropRole":
    case "DropReferences":
    case "PutMembership":
    case "DropMembership":
      return simulateRoleChange(draft, change)
    case "CreateSchema":
    case "PutExtension":
    case "CreateHealthCheck":
    case "SubscriptionsDropped":
    case "RecordDeltas":
    case "ForgetDeltas":
      return simulateSystemChange(draft, change)
    case "Nothing":
      return
    default:
      return simulateDatabaseChange(draft, change)
  }
}

const simulateRoleChange = (draft: Draft, change: RoleChange): void => {
  switch (change._tag) {
    case "PutRole":
      draft.roles.set(change.role.name, change.role)
      if (change.memberOf !== undefined) putMembership(draft, membershipOf(change.memberOf, change.role.name))
      return
    case "PutMembership":
      return putMembership(draft, change.membership)
    case "DropMembership":
      draft.memberships = draft.memberships.filter((one) => one.role !== change.role || one.member !== change.member)
      return
    case "RenameRole": {
      const role = draft.roles.get(change.name)
      if (role === undefined) return
      draft.roles.delete(change.name)
      draft.roles.set(change.to, afterRename(role, change.to))
      reown(draft, change.name, change.to)
      draft.memberships = draft.memberships.map((one) => ({
        role: one.role === change.name ? change.to : one.role,
        member: one.member === change.name ? change.to : one.member,
        admin: one.admin,
        grantor: one.grantor === change.name ? change.to : one.grantor
      }))
      draft.references = draft.references.map((one) => (one.role === change.name ? { ...one, role: change.to } : one))
      return
    }
    case "DropRole":
      draft.roles.delete(change.name)
      draft.references = draft.references.filter((one) => one.role !== change.name)
      draft.memberships = draft.memberships.flatMap((one) =>
        one.role === change.name || one.member === change.name || (majorOf(draft) >= 16 && one.grantor === change.name)
          ? []
          : [{ ...one, grantor: one.grantor === change.name ? null : one.grantor }]
      )
      return
    case "DropReferences":
      // Privileges on shared objects go with whichever database comes first.
      draft.references = draft.references.filter(
        (one) => one.role !== change.role || (one.database !== null && one.database !== change.database)
      )
      reown(draft, change.role, change.newOwner)
  }
}

/** As we grant one. */
export const membershipOf = (role: string, member: string, admin = false): ObservedMembership => ({
  role,
  member,
  admin,
  grantor: null
})

const putMembership = (draft: Draft, membership: ObservedMembership): void => {
  const others = draft.memberships.filter(
    (one) => one.role !== membership.role || one.member !== membership.member || (one.admin && !membership.admin)
  )
  draft.memberships = [...others, membership]
}

/** Postgres salts md5 with the role's name, and so forgets it on a rename; SCRAM stays. */
const afterRename = (role: ObservedRole, to: string): ObservedRole => ({
  ...role,
  name: to,
  verifier: role.verifier !== null && role.verifier !== "unseen" && isMd5(role.verifier) ? null : role.verifier
})

const reown = (draft: Draft, from: string, to: string): void => {
  for (const { name, owner } of draft.databases.values()) if (owner === from) editDatabase(draft, name, { owner: to })
}

const editDatabase = (draft: Draft, name: string, edit: Partial<ObservedDatabase>): void => {
  const known = draft.databases.get(name)
  if (known !== undefined) draft.databases.set(name, { ...known, ...edit })
}

const simulateDatabaseChange = (draft: Draft, change: DatabaseChange): void => {
  switch (change._tag) {
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
        auditLogOff: false,
        connectionLimit: change.connectionLimit ?? -1,
        tablespace: change.tablespace ?? "pg_default",
        creation: null
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
    case "AlterDatabase":
      return editDatabase(draft, change.name, change.to)
    case "OwnDatabase":
      return editDatabase(draft, change.name, { owner: change.owner })
    case "GrantDatabase":
      return editDatabase(draft, change.name, { granted: true })
    case "RecordVisit":
      return editDatabase(draft, change.name, { visited: { applied: change.applied, intact: true } })
    case "DropSubscriptions":
      return editDatabase(draft, change.name, { subscriptions: false })
    case "AuditLogOff":
      return editDatabase(draft, change.name, { auditLogOff: true })
  }
}

const simulateSystemChange = (draft: Draft, change: SystemChange): void => {
  switch (change._tag) {
    case "SubscriptionsDropped":
      draft.subscriptionsDropped = true
      return
    case "RecordDeltas":
      draft.doneDeltas.add(change.digest)
      return
    case "ForgetDeltas":
      draft.doneDeltas.delete(change.digest)
      return
    case "CreateSchema":
      draft.schemas.add(change.name)
      return
    case "PutExtension": {
      const { name, relocatable, schema, version } = change
      const available = draft.extensions.get(name)?.available ?? version
      draft.extensions.set(name, { available, installed: { version, schema, relocatable } })
      return
    }
    case "CreateHealthCheck":
      draft.healthCheck = true
  }
}
