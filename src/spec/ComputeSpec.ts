/**
 * The spec as control planes of both generations send it (docs/reference/compute_ctl.md#spec-fields). Only
 * `parseSpec.ts` reads it.
 *
 * Fields that only one generation has are optional, with the default named next to them; unknown keys are ignored
 * at every level. `opt` means missing or `null`; a bare `optionalKey` may be missing but not `null`.
 */
import * as Schema from "effect/Schema"
import { expectedServerAddress, longestServerAddress, serverAddress } from "../pgwire/address.ts"
import {
  expectedVerifier,
  faultOfDatabaseName,
  faultOfName,
  faultOfRoleName,
  faultOfRoleReference,
  faultOfText,
  maxVerifierLength,
  verifierPattern
} from "./names.ts"
import { maxProblems } from "./problems.ts"

// The scalars of the wire: sized numbers, ids, LSNs, names that Postgres can hold. Messages say what was expected.

/** Missing or `null`. */
export const opt = <S extends Schema.Constraint>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

/** Doubles hold integers of 64 bits only nearly; sizes of swap and disk do not care about the last kilobyte. */
const integer = (minimum: number, maximum: number, expected: string) =>
  Schema.Finite.check(
    Schema.makeFilter((value: number) => Number.isInteger(value), {
      expected,
      toJsonSchema: () => ({ type: "integer" }),
      arbitraryConstraint: { number: "integer" }
    }),
    Schema.isBetween({ minimum, maximum }, { expected })
  )

const U8 = integer(0, 2 ** 8 - 1, "an integer from 0 to 255")
const U32 = integer(0, 2 ** 32 - 1, "an integer from 0 to 4294967295")
const U64 = integer(0, 2 ** 64, "an integer that is not negative")
const NonZeroU64 = integer(1, 2 ** 64, "an integer above 0")
const I64 = integer(-(2 ** 63), 2 ** 63, "an integer")

const HexId = Schema.String.check(Schema.isPattern(/^[0-9A-Fa-f]{32}$/u, { expected: "32 hexadecimal digits" }))

const LsnText = Schema.String.check(
  Schema.isPattern(/^\s*[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}\s*$/u, {
    expected: "an LSN such as 0/16B3748 (LsnParseError)"
  })
)

/** Text that goes into SQL or a configuration file. */
export const PgText = Schema.String.check(Schema.makeFilter((text: string) => faultOfText(text) ?? undefined))

/** The name of a role or database. */
const named = (faultOf: (name: string) => string | null) =>
  Schema.String.check(Schema.makeFilter((name: string) => faultOf(name) ?? undefined))
export const PgName = named(faultOfName)

/** Goes into a file of another program. */
const ServerAddress = Schema.String.check(
  Schema.isMaxLength(longestServerAddress, { expected: expectedServerAddress }).abort(),
  Schema.isPattern(serverAddress, { expected: expectedServerAddress })
)

// The wire's `cluster` and `delta_operations` (docs/reference/compute_ctl.md#cluster-and-delta-operations): roles,
// databases, settings, and renames and drops that a desired state can not express. Leniently typed; `parseSpec.ts`
// gives it meaning.

export const GenericOptionWire = Schema.Struct({
  name: PgText,
  value: opt(PgText),
  /** Only `string` has a meaning: quote the value. */
  vartype: Schema.String
}).annotate({ identifier: "GenericOption" })
export type GenericOptionWire = typeof GenericOptionWire.Type

/** Longer than any; keeps the pattern's work small on text from outside. */
const maxSettingName = 1000

/** `foo` or `extension.foo`, as postgresql.conf spells names; anything else would be more than one line of it. */
const settingName = /^[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*(\.[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)*$/

const SettingWire = GenericOptionWire.check(
  Schema.makeFilter((setting: GenericOptionWire) => {
    if (setting.name.length > maxSettingName || !settingName.test(setting.name))
      return { path: ["name"], issue: "expected the name of a Postgres setting" }
    if (setting.vartype !== "string" && /[\n\r]/.test(setting.value ?? "")) {
      return { path: ["value"], issue: 'expected one line, because the vartype is not "string"' }
    }
    return undefined
  })
).annotate({ identifier: "Setting" })

const Verifier = Schema.String.check(
  // First, and alone when it fails: the pattern's work grows with the text.
  Schema.isMaxLength(maxVerifierLength, { expected: expectedVerifier }).abort(),
  Schema.isPattern(verifierPattern, { expected: expectedVerifier })
)

export const RoleWire = Schema.Struct({
  name: named(faultOfRoleName),
  /** Absent: not managed. `null`: no password. Otherwise a SCRAM verifier or the hex of an md5 one. */
  encrypted_password: opt(Verifier),
  /** Ours. */
  privileged: opt(
    Schema.Boolean.annotate({
      description:
        "Whether it is a member of the privileged role; a new one without also lacks the usual attributes. " +
        "Absent: a new role becomes one, and nothing is asked later."
    })
  ),
  options: opt(Schema.Array(GenericOptionWire))
}).annotate({ identifier: "Role" })
export type RoleWire = typeof RoleWire.Type

export const DatabaseWire = Schema.Struct({
  name: named(faultOfDatabaseName),
  owner: named(faultOfRoleReference),
  options: opt(Schema.Array(GenericOptionWire))
}).annotate({ identifier: "Database" })
export type DatabaseWire = typeof DatabaseWire.Type

const knownActions = new Set(["delete_db", "rename_db", "delete_role", "rename_role"])

/** Unknown actions are kept here and ignored later, so their names are not judged. */
export const DeltaOperationWire = Schema.Struct({
  action: Schema.String,
  name: Schema.String,
  new_name: opt(Schema.String)
})
  .check(
    Schema.makeFilter((operation: { action: string; name: string; new_name?: string | null }) => {
      if (!knownActions.has(operation.action)) return undefined
      const issues: Array<{ path: ReadonlyArray<string>; issue: string }> = []
      const ofDatabase = operation.action.endsWith("_db")
      const name = ofDatabase ? faultOfDatabaseName(operation.name) : faultOfName(operation.name)
      if (name !== null) issues.push({ path: ["name"], issue: name })
      if (operation.action.startsWith("rename_")) {
        const to = operation.new_name
        const fault =
          to === undefined || to === null
            ? `expected the new name, which ${operation.action} needs`
            : ofDatabase
              ? faultOfDatabaseName(to)
              : faultOfRoleName(to)
        if (fault !== null) issues.push({ path: ["new_name"], issue: fault })
      }
      return issues
    })
  )
  .annotate({ identifier: "DeltaOperation" })
export type DeltaOperationWire = typeof DeltaOperationWire.Type

const ClusterWire = Schema.Struct({
  cluster_id: opt(Schema.String),
  name: opt(Schema.String),
  state: opt(Schema.String),
  roles: Schema.Array(RoleWire),
  databases: Schema.Array(DatabaseWire),
  /** Verbatim head of postgresql.conf. */
  postgresql_conf: opt(PgText),
  settings: opt(Schema.Array(SettingWire))
}).annotate({ identifier: "Cluster" })

// The wire's words about things around Postgres (docs/reference/compute_ctl.md#remote-extensions-in-the-spec and
// docs/reference/compute_ctl.md#local_proxy-and-tls-in-the-spec): extensions that are fetched on demand, the local
// proxy, TLS, and one vendor's settings. Checked for shape; most of it is not used by us.

/** A file's own name: with a slash or dots in it, writing the file would end up elsewhere. */
const isPlainName = (name: string): boolean => name !== "" && name !== "." && name !== ".." && !/[/\0]/.test(name)

/** Each by its place, as long as they are few; the last of many says how many there are. */
const badNames = (names: ReadonlyArray<string>, issue: string) => {
  const bad = names.filter((name) => !isPlainName(name))
  const issues = bad.slice(0, maxProblems).map((name) => ({ path: [name], issue }))
  return bad.length <= maxProblems
    ? issues
    : [...issues, { path: [], issue: `${issue}, and ${bad.length} names are none` }]
}

const ControlData = Schema.Record(Schema.String, Schema.String).check(
  Schema.makeFilter((files: Readonly<Record<string, string>>) =>
    badNames(Object.keys(files), "expected the plain name of a file")
  )
)

/** Extensions are asked for by name, and their archives are named after them. */
const extensionData = <S extends Schema.Constraint>(one: S) =>
  Schema.Record(Schema.String, one).check(
    Schema.makeFilter((all: Readonly<Record<string, unknown>>) =>
      badNames(Object.keys(all), "expected the name of an extension")
    )
  )

const Sha256 = Schema.String.check(Schema.isPattern(/^[0-9A-Fa-f]{64}$/u, { expected: "64 hexadecimal digits" }))

export const RemoteExtensionsWire = Schema.Struct({
  public_extensions: opt(Schema.Array(Schema.String)),
  custom_extensions: opt(Schema.Array(Schema.String)),
  library_index: Schema.Record(Schema.String, Schema.String),
  extension_data: extensionData(
    Schema.Struct({
      control_data: ControlData,
      /** Not used: the path follows from the name (docs/reference/compute_ctl.md#remote-extension-urls). */
      archive_path: Schema.String,
      /** Ours: the digest of the archive as it is served. */
      sha256: opt(Sha256)
    })
  )
}).annotate({ identifier: "RemoteExtensions" })
export type RemoteExtensionsWire = typeof RemoteExtensionsWire.Type

export const TlsWire = Schema.Struct({
  key_path: Schema.String,
  cert_path: Schema.String
}).annotate({ identifier: "Tls" })

export const LocalProxyKeysWire = Schema.Struct({
  id: Schema.String,
  role_names: Schema.Array(Schema.String),
  jwks_url: Schema.String,
  provider_name: Schema.String,
  jwt_audience: opt(Schema.String)
})
export type LocalProxyKeysWire = typeof LocalProxyKeysWire.Type

const LocalProxyWire = Schema.Struct({
  jwks: opt(Schema.Array(LocalProxyKeysWire)),
  tls: opt(TlsWire)
}).annotate({ identifier: "LocalProxy" })

const DatabricksWire = Schema.Struct({
  pg_compute_tls_settings: Schema.Struct({
    cert_file: Schema.String,
    key_file: Schema.String,
    ca_file: Schema.String
  }),
  databricks_pg_hba: Schema.String,
  databricks_pg_ident: Schema.String,
  databricks_workspace_host: Schema.String
}).annotate({ identifier: "DatabricksSettings" })

// The wire's words about where the data lives (docs/reference/compute_ctl.md#spec-fields and
// docs/reference/compute_ctl.md#pageserver-connection-info). `parseStorage.ts` reads them in the order of their
// sources.

export const expectedMode = '"Primary", "Replica" or {"Static": LSN}'

export const ComputeModeWire = Schema.Union([
  Schema.Literals(["Primary", "Replica"]).annotate({ expected: expectedMode }),
  Schema.Struct({ Static: LsnText })
]).annotate({ identifier: "ComputeMode" })
export type ComputeModeWire = typeof ComputeModeWire.Type

const PageserverWire = Schema.Struct({
  id: opt(U64),
  libpq_url: opt(Schema.String),
  grpc_url: opt(Schema.String)
}).annotate({ identifier: "Pageserver" })

export const PageserverConnectionInfoWire = Schema.Struct({
  /** 0: unsharded. */
  shard_count: U8,
  stripe_size: opt(U32),
  /** By shard index, `NNCC`: shard number and shard count, two hex digits each. */
  shards: Schema.Record(Schema.String, Schema.Struct({ pageservers: Schema.Array(PageserverWire) })),
  prefer_protocol: Schema.optionalKey(Schema.Literals(["libpq", "grpc"]))
}).annotate({ identifier: "PageserverConnectionInfo" })
export type PageserverConnectionInfoWire = typeof PageserverConnectionInfoWire.Type

export const storageFields = {
  tenant_id: opt(HexId),
  timeline_id: opt(HexId),
  pageserver_connection_info: opt(PageserverConnectionInfoWire),
  /** One conninfo or URL per shard, in shard order, separated by commas. */
  pageserver_connstring: opt(Schema.String),
  shard_stripe_size: opt(U32),
  safekeepers_generation: opt(U32),
  safekeeper_connstrings: Schema.optionalKey(Schema.Array(Schema.String)),
  mode: Schema.optionalKey(ComputeModeWire),
  storage_auth_token: opt(Schema.String)
}

export const ComputeSpec = Schema.Struct({
  /** Not interpreted. */
  format_version: Schema.Finite,
  /** For the log. */
  operation_uuid: opt(Schema.String),
  /** Unknown ones are accepted. Default none. */
  features: Schema.optionalKey(Schema.Array(Schema.String)),
  swap_size_bytes: opt(U64),
  disk_quota_bytes: opt(U64),
  disable_lfc_resizing: opt(Schema.Boolean),
  cluster: ClusterWire,
  delta_operations: opt(Schema.Array(DeltaOperationWire)),
  /** Default false. */
  skip_pg_catalog_updates: Schema.optionalKey(Schema.Boolean),
  ...storageFields,
  project_id: opt(Schema.String),
  branch_id: opt(Schema.String),
  endpoint_id: opt(Schema.String),
  remote_extensions: opt(RemoteExtensionsWire),
  pgbouncer_settings: opt(Schema.Record(Schema.String, Schema.String)),
  local_proxy_config: opt(LocalProxyWire),
  /** Default 1. */
  reconfigure_concurrency: Schema.optionalKey(U64),
  /** Default false. */
  drop_subscriptions_before_start: Schema.optionalKey(Schema.Boolean),
  /** Default `Disabled`. `Log` is an old word for `Base`; `Hipaa` behaves as `Extended`. */
  audit_log_level: Schema.optionalKey(Schema.Literals(["Disabled", "Log", "Base", "Hipaa", "Extended", "Full"])),
  logs_export_host: opt(ServerAddress),
  endpoint_storage_addr: opt(Schema.String),
  endpoint_storage_token: opt(Schema.String),
  /** Default false. */
  autoprewarm: Schema.optionalKey(Schema.Boolean),
  offload_lfc_interval_seconds: opt(NonZeroU64),
  /** -1 never, 0 default. Required by the newer generation, unknown to the older: default 0. */
  suspend_timeout_seconds: Schema.optionalKey(I64),
  databricks_settings: opt(DatabricksWire)
}).annotate({
  identifier: "ComputeSpec",
  title: "ComputeSpec",
  description: "What one Postgres compute shall be: its cluster, where its data lives, and how it behaves."
})
export type ComputeSpec = typeof ComputeSpec.Type
