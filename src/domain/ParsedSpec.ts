/**
 * The spec as we believe it: validated once at the door, and the only shape rooms may see.
 *
 * Shapes only; `parseSpec.ts` makes one from the lenient `ComputeSpec`.
 * Secrets are `Redacted`, so printing a parsed spec prints none of them.
 */
import type * as Redacted from "effect/Redacted"
import type { TenantId, TimelineId } from "./Id.ts"
import type { Lsn } from "./Lsn.ts"

/** Read-write; read-only at one LSN; or a hot standby that follows the tip. */
export type ComputeMode =
  | { readonly _tag: "Primary" }
  | { readonly _tag: "Static"; readonly lsn: Lsn }
  | { readonly _tag: "Replica" }

/** `name = 'value'` when `quoted`, `name = value` otherwise, bare `name` without a value. */
export interface GenericOption {
  readonly name: string
  readonly value: string | null
  readonly quoted: boolean
}

/**
 * Tri-state. `Unmanaged`: the key is absent, the password is not ours. `None`: `null`, the role has no password.
 * `Verifier`: in normal form, `SCRAM-SHA-256$…` or `md5…`.
 */
export type Password =
  | { readonly _tag: "Unmanaged" }
  | { readonly _tag: "None" }
  | { readonly _tag: "Verifier"; readonly verifier: Redacted.Redacted<string> }

export interface Role {
  readonly name: string
  readonly password: Password
  readonly options: ReadonlyArray<GenericOption>
}

export interface Database {
  readonly name: string
  readonly owner: string
  readonly options: ReadonlyArray<GenericOption>
}

export type DeltaOperation =
  | { readonly _tag: "DropDatabase"; readonly name: string }
  | { readonly _tag: "RenameDatabase"; readonly name: string; readonly to: string }
  | { readonly _tag: "DropRole"; readonly name: string }
  | { readonly _tag: "RenameRole"; readonly name: string; readonly to: string }

export interface PageserverShard {
  readonly number: number
  readonly libpqUrl: string | null
  readonly grpcUrl: string | null
}

/** `shardCount` 0 means unsharded: one shard in the list. Shards are in shard order. */
export interface Pageservers {
  readonly shardCount: number
  readonly stripeSize: number | null
  readonly shards: ReadonlyArray<PageserverShard>
  readonly preferProtocol: "libpq" | "grpc"
}

/**
 * Where the data lives when Neon's storage keeps it. `fromSettings` names what came from `cluster.settings`
 * (and so is already in postgresql.conf) instead of a field of its own.
 */
export interface NeonStorage {
  readonly pageservers: Pageservers
  readonly safekeepers: ReadonlyArray<string>
  readonly safekeepersGeneration: number | null
  readonly token: Redacted.Redacted<string> | null
  readonly fromSettings: ReadonlySet<"pageservers" | "safekeepers" | "tenant" | "timeline">
}

export type AuditLevel = "Disabled" | "Log" | "Base" | "Hipaa" | "Extended" | "Full"

export interface ParsedSpec {
  readonly formatVersion: number
  readonly operationId: string | null
  readonly mode: ComputeMode
  readonly tenant: TenantId
  readonly timeline: TimelineId
  /** `null` when the storage is local: the spec needs no addresses then, and given ones are not used. */
  readonly neon: NeonStorage | null
  readonly clusterId: string | null
  readonly projectId: string | null
  readonly branchId: string | null
  readonly endpointId: string | null
  readonly features: ReadonlySet<string>
  /** Verbatim head of postgresql.conf. */
  readonly postgresqlConf: string | null
  /** `null` when the spec has no `settings` key: then the managed block is not written. */
  readonly settings: ReadonlyArray<GenericOption> | null
  readonly roles: ReadonlyArray<Role>
  readonly databases: ReadonlyArray<Database>
  readonly deltas: ReadonlyArray<DeltaOperation>
  /** Roles that pgbouncer's local proxy authenticates with JWTs; created without the usual attributes. */
  readonly jwksRoles: ReadonlySet<string>
  readonly skipCatalogUpdates: boolean
  /** At least 1. */
  readonly reconfigureConcurrency: number
  readonly dropSubscriptions: boolean
  readonly auditLevel: AuditLevel
  readonly logsExportHost: string | null
  /** -1 never, 0 default; drives the period of installed-extension statistics. */
  readonly suspendTimeoutSeconds: number
}

/** Value of the first setting with this name; `null` when absent or without a value (section 2.8). */
export const settingOf = (settings: ReadonlyArray<GenericOption> | null, name: string): string | null =>
  settings?.find((setting) => setting.name === name)?.value ?? null

export const modeName = (mode: ComputeMode): "primary" | "static" | "replica" =>
  mode._tag === "Primary" ? "primary" : mode._tag === "Static" ? "static" : "replica"
