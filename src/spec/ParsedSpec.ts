/**
 * The spec after validation: the only shape that the rest of the program sees.
 *
 * Shapes only; `parseSpec.ts` makes one from the lenient `ComputeSpec`.
 * Secrets are `Redacted`, so printing a parsed spec prints none of them.
 */
import type * as Redacted from "effect/Redacted"
import type { HostPort } from "../pgwire/address.ts"
import type { Lsn, TenantId, TimelineId } from "./identifiers.ts"

/**
 * The two generations of command line, spec and HTTP API. `2024`: one open port, one `termination_pending`. `head`: two
 * ports, tokens on the outer one.
 */
export type ApiVersion = "2024" | "head"

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
  /** Whether it is a member of the privileged role; `null`: a new one becomes one, and nothing is asked later. */
  readonly privileged: boolean | null
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

export interface PageserverAddress {
  readonly libpqUrl: string | null
  readonly grpcUrl: string | null
}

/** The first pageserver of a shard is the one that serves it; the others have its data too. Never empty. */
export interface PageserverShard {
  readonly number: number
  readonly pageservers: ReadonlyArray<PageserverAddress>
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

/** An extension that is not in the image: fetched before Postgres starts, or when somebody asks for it. */
interface RemoteExtension {
  /** Names of files in the folder of extensions, and what is in them; each is one plain name. */
  readonly controlFiles: ReadonlyMap<string, string>
  /** Of the archive as it is served, in lower-case hex; `null`: it is not checked. */
  readonly sha256: string | null
}

/**
 * `null` lists: the spec does not have the key, which the two generations read differently
 * (docs/reference/compute_ctl.md#remote-extension-lookup).
 */
export interface RemoteExtensionList {
  readonly public: ReadonlySet<string> | null
  readonly custom: ReadonlySet<string> | null
  /** From a library's name without `.so` to the extension that has it. */
  readonly libraries: ReadonlyMap<string, string>
  readonly extensions: ReadonlyMap<string, RemoteExtension>
}

/** Where the map of the local file cache is kept between computes. Each piece may be missing. */
interface EndpointStorage {
  /** `host:port`. */
  readonly address: string | null
  readonly token: Redacted.Redacted<string> | null
}

/** One issuer of tokens that local_proxy accepts, for some roles. */
export interface LocalProxyKeys {
  readonly id: string
  readonly roleNames: ReadonlyArray<string>
  readonly jwksUrl: string
  readonly providerName: string
  readonly jwtAudience: string | null
}

export interface ParsedSpec {
  readonly operationId: string | null
  readonly mode: ComputeMode
  readonly tenant: TenantId
  readonly timeline: TimelineId
  /** What the timeline begins as a branch of, when it is not there yet; `lsn` null: as that one is then. */
  readonly ancestor: { readonly timeline: TimelineId; readonly lsn: Lsn | null } | null
  /** `null` when the storage is local: the spec needs no addresses then, and given ones are not used. */
  readonly neon: NeonStorage | null
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
  /** The remote syslog that Postgres's log goes to. */
  readonly logsExportHost: HostPort | null
  /** Settings of pgbouncer, in the spec's order; `null`: it is left alone. */
  readonly pgbouncerSettings: ReadonlyMap<string, string> | null
  /** What local_proxy shall accept; `null`: it is left alone. */
  readonly localProxy: { readonly jwks: ReadonlyArray<LocalProxyKeys> | null } | null
  readonly remoteExtensions: RemoteExtensionList | null
  readonly swapSizeBytes: number | null
  readonly diskQuotaBytes: number | null
  readonly endpointStorage: EndpointStorage
  /** Load the local file cache right after the start. */
  readonly autoprewarm: boolean
  /** Above 0; `null`: the map of the local file cache is not saved periodically. */
  readonly offloadLfcIntervalSeconds: number | null
  /** -1 never, 0 default; drives the period of installed-extension statistics. */
  readonly suspendTimeoutSeconds: number
  /** The vm-monitor then leaves the file cache alone. */
  readonly disableLfcResizing: boolean
}

/**
 * Value of the first setting with this name, which is in lower case; `null` when absent or without a value
 * (docs/reference/compute_ctl.md#spec-validation).
 */
export const settingOf = (settings: ReadonlyArray<GenericOption> | null, name: string): string | null =>
  settings?.find((setting) => setting.name.toLowerCase() === name)?.value ?? null

/** Whether roles, databases and extensions are made to match the spec: never on a read-only compute. */
export const appliesCatalog = (spec: Pick<ParsedSpec, "mode" | "skipCatalogUpdates">): boolean =>
  spec.mode._tag === "Primary" && !spec.skipCatalogUpdates

export const modeName = (mode: ComputeMode): "primary" | "static" | "replica" =>
  mode._tag === "Primary" ? "primary" : mode._tag === "Static" ? "static" : "replica"
