/**
 * What the catalog of a running Postgres holds, as far as an apply cares, and the names that no spec may touch.
 *
 * Plain data: `observe.ts` reads it from a server, `draft.ts` changes a copy of it as the planned operations would.
 */
import type * as Redacted from "effect/Redacted"
import type { ApplyReport } from "../compute/snapshot.ts"
import { templateDatabase } from "../pgwire/ownSessions.ts"
import { leavingRolePrefix } from "../spec/names.ts"
import type { ObservedVisit } from "./planVisitRecords.ts"

export interface ObservedRole {
  readonly name: string
  /** The verifier as stored; `null`: none. `"unseen"` when we may not read `pg_authid`. */
  readonly verifier: Redacted.Redacted<string> | null | "unseen"
  readonly superuser: boolean
  readonly inherit: boolean
  readonly createRole: boolean
  readonly createDatabase: boolean
  readonly login: boolean
  readonly replication: boolean
  readonly bypassRls: boolean
  readonly connectionLimit: number
  /** Seconds since 1970 as Postgres prints them; `null`: for ever. */
  readonly validUntil: string | null
}

/** `member` is one of `role`. */
export interface ObservedMembership {
  readonly role: string
  readonly member: string
  readonly admin: boolean
  /** `null`: gone. Since Postgres 16 a membership goes with whoever granted it. */
  readonly grantor: string | null
}

/** What only the creation of a database can decide. */
export interface DatabaseCreation {
  readonly encoding: string
  readonly collate: string
  readonly ctype: string
  /** `libc`, `icu` or `builtin`. */
  readonly provider: string
  /** Of the provider, where it is not libc. */
  readonly locale: string | null
  readonly rules: string | null
  readonly oid: string
}

export interface ObservedDatabase {
  readonly name: string
  readonly owner: string
  readonly allowsConnections: boolean
  readonly template: boolean
  /** `datconnlimit` is -2: a CREATE or DROP was interrupted, only DROP works. */
  readonly invalid: boolean
  /** The privileged role has CREATE, TEMPORARY and CONNECT of its own. */
  readonly granted: boolean
  /** `null`: no visit is recorded. */
  readonly visited: ObservedVisit | null
  readonly subscriptions: boolean
  readonly auditLogOff: boolean
  readonly connectionLimit: number
  readonly tablespace: string
  /** Read only where the spec asks for any of it. */
  readonly creation: DatabaseCreation | null
}

export interface ObservedExtension {
  /** The version that the files on disk would give; `null`: they name none. */
  readonly available: string | null
  readonly installed: { readonly version: string; readonly schema: string; readonly relocatable: boolean } | null
}

/** A role to be dropped and where something depends on it; `null`: shared objects, such as grants on databases. */
interface ObservedReference {
  readonly role: string
  readonly database: string | null
}

export interface Catalog {
  /** Such as 170004. */
  readonly serverVersion: number
  /** Whether we are one here. */
  readonly superuser: boolean
  readonly systemDatabase: string
  readonly roles: ReadonlyMap<string, ObservedRole>
  readonly databases: ReadonlyMap<string, ObservedDatabase>
  /** Of the system database; only those that an apply may want. Absent: not available here. */
  readonly extensions: ReadonlyMap<string, ObservedExtension>
  /** Why the files of those that are here cannot be used. */
  readonly faultyExtensions: ReadonlyMap<string, string>
  readonly references: ReadonlyArray<ObservedReference>
  /** Read only where the spec asks for some. */
  readonly memberships: ReadonlyArray<ObservedMembership>
  /** What the server takes the spec's texts for: points in time as `validUntil` has them; `null`: for none. */
  readonly times: ReadonlyMap<string, string | null>
  /** The same for encodings: by the name that the server has for it. */
  readonly encodings: ReadonlyMap<string, string | null>
  /** Digests of lists of deltas that are recorded as done (`planDeltas.ts`). */
  readonly doneDeltas: ReadonlySet<string>
  /** In the system database. */
  readonly schemas: ReadonlySet<string>
  readonly healthCheck: boolean
  /** Subscriptions were dropped on this timeline already. */
  readonly subscriptionsDropped: boolean
  /** The last migration that is done; `null`: none, or nobody asked. */
  readonly migrated: number | null
}

export const majorOf = (catalog: Pick<Catalog, "serverVersion">): number => Math.trunc(catalog.serverVersion / 10_000)

/** What an apply depends on, apart from the spec. */
export interface ApplyOptions {
  readonly kind: ApplyReport["kind"]
  /** The almost-superuser given to users. */
  readonly privilegedRole: string
  /** Whom we log in as. */
  readonly superuser: string
  /** `CREATE DATABASE` copies files instead of logging pages: faster where fsync is off (Postgres 15 and later). */
  readonly fileCopy: boolean
}

/** Roles that are ours or Postgres's: a spec or a delta never creates, renames, alters or drops one. */
export const isReservedRole = (name: string, options: Pick<ApplyOptions, "privilegedRole" | "superuser">): boolean =>
  name === options.superuser ||
  name === options.privilegedRole ||
  name === "cloud_admin" ||
  name === "zenith_admin" ||
  name.startsWith("pg_")

/** It made room for another of its name in an apply that ended before it was dropped, or in this one. */
export const isLeavingRole = (name: string): boolean => name.startsWith(leavingRolePrefix)

export const isReservedDatabase = (name: string, catalog: Pick<Catalog, "systemDatabase">): boolean =>
  name === catalog.systemDatabase || name === "template0" || name === "template1" || name === templateDatabase
