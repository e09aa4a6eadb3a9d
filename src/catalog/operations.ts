/**
 * What a plan consists of: operations, what each would change, and the order they may run in.
 *
 * Plain data: the planners (`plan*.ts`) make it, `execute.ts` does it and decides nothing.
 */
import type * as Redacted from "effect/Redacted"
import type { ApplyReport } from "../compute/snapshot.ts"
import type { Catalog, ObservedDatabase, ObservedMembership, ObservedRole } from "./Catalog.ts"
import type { Copy } from "./planVisitRecords.ts"

/** Phases, in the order of the reference (docs/reference/compute_ctl.md#apply-phases). */
export const phases = [
  "PreDropDatabases",
  "CreatePrivilegedRole",
  "DropInvalidDatabases",
  "RenameRoles",
  "CreateAndAlterRoles",
  "RenameAndDeleteDatabases",
  "CreateAndAlterDatabases",
  "CreateSchemaNeon",
  "DeleteRoleReferences",
  "ChangeSchemaPermissions",
  "HandleAnonExtension",
  "DropLogicalSubscriptions",
  "HandleOtherExtensions",
  "HandleNeonExtension",
  "CreateAvailabilityCheck",
  "DropRoles",
  "FinalizeDropLogicalSubscriptions",
  "Audit",
  "Migrations"
] as const
export type Phase = (typeof phases)[number]

/** One message. `secret` is what is sent when it is not what may be shown. */
export interface Statement {
  readonly shown: string
  readonly secret: Redacted.Redacted<string> | null
}

export const statement = (shown: string): Statement => ({ shown, secret: null })

/** What an operation does to the catalog once done; enough to plan the operations after it. */
export type Change = RoleChange | DatabaseChange | SystemChange | { readonly _tag: "Nothing" }

export type RoleChange =
  /** `memberOf`: it also becomes a member of this role. */
  | { readonly _tag: "PutRole"; readonly role: ObservedRole; readonly memberOf?: string }
  | { readonly _tag: "PutMembership"; readonly membership: ObservedMembership }
  | { readonly _tag: "DropMembership"; readonly role: string; readonly member: string }
  | { readonly _tag: "RenameRole"; readonly name: string; readonly to: string }
  | { readonly _tag: "DropRole"; readonly name: string }
  | { readonly _tag: "DropReferences"; readonly role: string; readonly database: string; readonly newOwner: string }

export type DatabaseChange =
  | {
      readonly _tag: "CreateDatabase"
      readonly name: string
      readonly owner: string
      readonly allowsConnections: boolean
      readonly template: boolean
      readonly connectionLimit?: number
      readonly tablespace?: string
    }
  | { readonly _tag: "DropDatabase"; readonly name: string }
  | { readonly _tag: "RenameDatabase"; readonly name: string; readonly to: string }
  | {
      readonly _tag: "AlterDatabase"
      readonly name: string
      readonly to: Partial<Pick<ObservedDatabase, "allowsConnections" | "template" | "connectionLimit" | "tablespace">>
    }
  | { readonly _tag: "OwnDatabase"; readonly name: string; readonly owner: string }
  | { readonly _tag: "GrantDatabase"; readonly name: string }
  | { readonly _tag: "RecordVisit"; readonly name: string; readonly applied: string }
  | { readonly _tag: "DropSubscriptions"; readonly name: string }
  | { readonly _tag: "AuditLogOff"; readonly name: string }

/** Of the system database, or of the whole cluster. */
export type SystemChange =
  | { readonly _tag: "SubscriptionsDropped" }
  | { readonly _tag: "RecordDeltas"; readonly digest: string }
  | { readonly _tag: "ForgetDeltas"; readonly digest: string }
  | { readonly _tag: "CreateSchema"; readonly name: string }
  | {
      readonly _tag: "PutExtension"
      readonly name: string
      readonly schema: string
      readonly version: string
      readonly relocatable: boolean
    }
  | { readonly _tag: "CreateHealthCheck" }

/**
 * How an operation joins others in one message: plain statements, and parts that are gathered into one statement
 * for all (memberships into one GRANT, verifiers into one UPDATE of `pg_authid`, privileges on databases, records of
 * visits into one block).
 */
export interface Joined {
  readonly statements: ReadonlyArray<string>
  /** A role that becomes a member of the privileged role. */
  readonly member?: string
  readonly verifier?: { readonly role: string; readonly verifier: Redacted.Redacted<string> | null }
  /** A database on which the privileged role gets all privileges. */
  readonly granted?: string
  readonly copied?: Copy
}

/** Whether it is to be done, is known to be impossible, or is left undone for a reason that people should see. */
export type Decision =
  | { readonly _tag: "Do" }
  | { readonly _tag: "Refuse"; readonly reason: string; readonly hint: string }
  | { readonly _tag: "Skip"; readonly reason: string }

export const refuse = (reason: string, hint: string): Decision => ({ _tag: "Refuse", reason, hint })
export const skip = (reason: string): Decision => ({ _tag: "Skip", reason })

export interface Operation {
  /** Unique within a plan. */
  readonly id: string
  readonly phase: Phase
  /** Where it runs; `null`: the system database. */
  readonly database: string | null
  /** Such as `role "web"`. */
  readonly object: string
  readonly action: string
  /** Why it is needed, for people. */
  readonly because: string
  readonly decision: Decision
  /** When it is sent on its own: each is one message, in order; a failure ends it. */
  readonly statements: ReadonlyArray<Statement>
  /** When it is sent in one message with others; `null`: it cannot run inside a transaction. */
  readonly joined: Joined | null
  /** What it is about, where it cannot be done and so changes nothing. */
  readonly differs: { readonly attribute: string; readonly from: string; readonly to: string } | null
  /** Ids of operations without which this one makes no sense. */
  readonly after: ReadonlyArray<string>
  readonly change: Change
}

/** Operations for one connection to one database, in order. `joined`: they are sent as one message if possible. */
export interface Lane {
  readonly database: string | null
  readonly joined: boolean
  readonly operations: ReadonlyArray<Operation>
}

/** Lanes one after the other. */
export type Track = ReadonlyArray<Lane>

/** Tracks, which run concurrently. Groups run one after the other. */
export interface Group {
  readonly tracks: ReadonlyArray<Track>
  /** Most tracks at once. */
  readonly width: number
}

export interface ApplyPlan {
  readonly kind: ApplyReport["kind"]
  /** The catalog as it was seen, and as it would be once all operations that are to be done are done. */
  readonly before: Catalog
  readonly after: Catalog
  readonly groups: ReadonlyArray<Group>
  /** In order; those with the decision `Skip` or `Refuse` are here too. */
  readonly operations: ReadonlyArray<Operation>
  readonly joining: { readonly superuser: boolean; readonly privilegedRole: string }
  /** Most connections in use at once, not counting the one that observed. */
  readonly width: number
  /** Most of them that make or drop databases. */
  readonly creators: number
}

/** An operation, with the usual value of every field that is not given. */
export const operation = (
  given: Pick<Operation, "phase" | "object" | "action" | "because"> & Partial<Operation>
): Operation => ({
  id: `${given.phase}/${given.database == null ? "" : `${given.database}/`}${given.action} ${given.object}`,
  database: null,
  decision: { _tag: "Do" },
  statements: [],
  joined: null,
  differs: null,
  after: [],
  change: { _tag: "Nothing" },
  ...given
})

/** An operation whose statements are the same on its own and joined with others. */
export const transactional = (
  given: Pick<Operation, "phase" | "object" | "action" | "because"> &
    Partial<Operation> & { readonly sql: ReadonlyArray<string> }
): Operation => {
  const { sql, ...rest } = given
  return operation({ statements: [statement(sql.join("; "))], joined: { statements: sql }, ...rest })
}

export const roleObject = (name: string): string => `role ${JSON.stringify(name)}`
export const databaseObject = (name: string): string => `database ${JSON.stringify(name)}`
