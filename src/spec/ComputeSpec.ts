/**
 * The spec as control planes of both generations send it (docs/reference/compute_ctl.md#spec-fields). Only
 * `parseSpec.ts` reads it.
 *
 * Fields that only one generation has are optional, with the default named next to them; unknown keys are ignored
 * at every level. `opt` means missing or `null`; what is `optional` may be missing but not `null`.
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

// What a field means is in its own words here, for `compute_ctl schema` and docs/configuration.md.

const field = <S extends Schema.Top>(schema: S, description: string) => schema.annotateKey({ description })

/** May be missing. */
const optional = <S extends Schema.Constraint>(schema: S, description: string) =>
  Schema.optionalKey(schema).annotateKey({ description })

/** Missing or `null`. */
export const opt = <S extends Schema.Constraint>(schema: S, description: string) =>
  Schema.optionalKey(Schema.NullOr(schema)).annotateKey({ description })

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
  name: field(PgText, "what postgresql.conf, CREATE ROLE or CREATE DATABASE calls it"),
  value: opt(PgText, "without one: the name alone"),
  vartype: field(Schema.String, "string: the value is quoted; any other word has no meaning")
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
  name: field(named(faultOfRoleName), "its name"),
  encrypted_password: opt(
    Verifier,
    "a SCRAM verifier, or the hex of an md5 one; null: none; absent: not ours to manage"
  ),
  privileged: opt(
    Schema.Boolean,
    "whether it is a member of the privileged role; a new one without also lacks the usual attributes. " +
      "Absent: a new role becomes one, and nothing is asked later"
  ),
  options: opt(Schema.Array(GenericOptionWire), "such as CONNECTION LIMIT; brought back when they differ")
}).annotate({ identifier: "Role" })
export type RoleWire = typeof RoleWire.Type

export const DatabaseWire = Schema.Struct({
  name: field(named(faultOfDatabaseName), "its name"),
  owner: field(named(faultOfRoleReference), "a role, of the spec or another that is there"),
  options: opt(Schema.Array(GenericOptionWire), "such as ENCODING; some count only when it is made")
}).annotate({ identifier: "Database" })
export type DatabaseWire = typeof DatabaseWire.Type

const knownActions = new Set(["delete_db", "rename_db", "delete_role", "rename_role"])

/** Unknown actions are kept here and ignored later, so their names are not judged. */
export const DeltaOperationWire = Schema.Struct({
  action: field(Schema.String, "delete_db, rename_db, delete_role or rename_role; others are ignored"),
  name: field(Schema.String, "of the database or role"),
  new_name: opt(Schema.String, "for a rename")
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
  cluster_id: opt(Schema.String, "not used"),
  name: opt(Schema.String, "not used"),
  state: opt(Schema.String, "not used"),
  roles: field(Schema.Array(RoleWire), "roles that there shall be; others are left alone"),
  databases: field(Schema.Array(DatabaseWire), "databases that there shall be; others are left alone"),
  postgresql_conf: opt(PgText, "the head of postgresql.conf, as it is"),
  settings: opt(Schema.Array(SettingWire), "settings of Postgres, after that head")
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
  public_extensions: opt(Schema.Array(Schema.String), "extensions that may be fetched"),
  custom_extensions: opt(Schema.Array(Schema.String), "more of them"),
  library_index: field(Schema.Record(Schema.String, Schema.String), "from a library's name to its extension"),
  extension_data: field(
    extensionData(
      Schema.Struct({
        control_data: field(ControlData, "control files to write, by name"),
        // Not used: the path follows from the name (docs/reference/compute_ctl.md#remote-extension-urls).
        archive_path: field(Schema.String, "not used: the path follows from the name"),
        sha256: opt(Sha256, "the digest of the archive as it is served, which is compared")
      })
    ),
    "the extensions, by name"
  )
}).annotate({ identifier: "RemoteExtensions" })
export type RemoteExtensionsWire = typeof RemoteExtensionsWire.Type

export const TlsWire = Schema.Struct({
  key_path: field(Schema.String, "file of the key"),
  cert_path: field(Schema.String, "file of the certificate")
}).annotate({ identifier: "Tls" })

export const LocalProxyKeysWire = Schema.Struct({
  id: field(Schema.String, "its id"),
  role_names: field(Schema.Array(Schema.String), "roles that its tokens may log in as"),
  jwks_url: field(Schema.String, "where the keys are"),
  provider_name: field(Schema.String, "whose they are"),
  jwt_audience: opt(Schema.String, "the audience that a token must name")
})
export type LocalProxyKeysWire = typeof LocalProxyKeysWire.Type

const LocalProxyWire = Schema.Struct({
  jwks: opt(Schema.Array(LocalProxyKeysWire), "who issues tokens"),
  tls: opt(TlsWire, "overwritten with the compute's own certificate")
}).annotate({ identifier: "LocalProxy" })

const DatabricksWire = Schema.Struct({
  pg_compute_tls_settings: field(
    Schema.Struct({
      cert_file: field(Schema.String, "not used"),
      key_file: field(Schema.String, "not used"),
      ca_file: field(Schema.String, "not used")
    }),
    "not used"
  ),
  databricks_pg_hba: field(Schema.String, "not used"),
  databricks_pg_ident: field(Schema.String, "not used"),
  databricks_workspace_host: field(Schema.String, "not used")
}).annotate({ identifier: "DatabricksSettings" })

// The wire's words about where the data lives (docs/reference/compute_ctl.md#spec-fields and
// docs/reference/compute_ctl.md#pageserver-connection-info). `parseStorage.ts` reads them in the order of their
// sources.

export const expectedMode = '"Primary", "Replica" or {"Static": LSN}'

export const ComputeModeWire = Schema.Union([
  Schema.Literals(["Primary", "Replica"]).annotate({ expected: expectedMode }),
  Schema.Struct({ Static: field(LsnText, "the LSN to read at") })
]).annotate({ identifier: "ComputeMode" })
export type ComputeModeWire = typeof ComputeModeWire.Type

const PageserverWire = Schema.Struct({
  id: opt(U64, "its number"),
  libpq_url: opt(Schema.String, "where it speaks Postgres's protocol"),
  grpc_url: opt(Schema.String, "where it speaks gRPC")
}).annotate({ identifier: "Pageserver" })

export const PageserverConnectionInfoWire = Schema.Struct({
  shard_count: field(U8, "0: not sharded"),
  stripe_size: opt(U32, "in pages; needed for several shards"),
  shards: field(
    Schema.Record(
      Schema.String,
      Schema.Struct({ pageservers: field(Schema.Array(PageserverWire), "the first one is used") })
    ),
    "by shard index, NNCC: the shard's number and the count, two hexadecimal digits each"
  ),
  prefer_protocol: optional(Schema.Literals(["libpq", "grpc"]), "libpq by default")
}).annotate({ identifier: "PageserverConnectionInfo" })
export type PageserverConnectionInfoWire = typeof PageserverConnectionInfoWire.Type

export const storageFields = {
  tenant_id: opt(HexId, "the tenant; otherwise the setting neon.tenant_id. All zeros with local and volume by default"),
  timeline_id: opt(HexId, "its timeline; otherwise the setting neon.timeline_id. All zeros there, too"),
  ancestor_timeline_id: opt(HexId, "with local: a timeline that is not there yet begins as a branch of this one"),
  ancestor_lsn: opt(LsnText, "with what ended there at or before this LSN; without it as it is then"),
  pageserver_connection_info: opt(PageserverConnectionInfoWire, "the pageservers of each shard"),
  pageserver_connstring: opt(
    Schema.String,
    "the same in older words: one URL or conninfo per shard, separated by commas"
  ),
  shard_stripe_size: opt(U32, "in pages; goes with pageserver_connstring"),
  safekeepers_generation: opt(U32, "of the safekeepers' configuration; goes before their list as g#N:"),
  safekeeper_connstrings: optional(
    Schema.Array(Schema.String),
    "host:port of each; empty: the setting neon.safekeepers"
  ),
  mode: optional(ComputeModeWire, 'Primary by default; Replica follows, {"Static": LSN} reads at one LSN'),
  storage_auth_token: opt(Schema.String, "password for pageservers and safekeepers")
}

export const ComputeSpec = Schema.Struct({
  format_version: field(Schema.Finite, "not interpreted"),
  operation_uuid: opt(Schema.String, "for the log"),
  features: optional(
    Schema.Array(Schema.String),
    "anon_extension and tls_experimental mean something; others are accepted. None by default"
  ),
  swap_size_bytes: opt(U64, "of a virtual machine, set once with --resize-swap-on-bind"),
  disk_quota_bytes: opt(U64, "of its file system, set once with --set-disk-quota-for-fs; 0: none"),
  disable_lfc_resizing: opt(Schema.Boolean, "the vm-monitor leaves the local file cache as it is"),
  cluster: field(ClusterWire, "roles, databases, settings"),
  delta_operations: opt(Schema.Array(DeltaOperationWire), "drops and renames, done before the rest"),
  skip_pg_catalog_updates: optional(
    Schema.Boolean,
    "roles, databases and extensions stay as they are. False by default"
  ),
  ...storageFields,
  project_id: opt(Schema.String, "for the log, and written as neon.project_id"),
  branch_id: opt(Schema.String, "for the log, and written as neon.branch_id"),
  endpoint_id: opt(Schema.String, "for the log, written as neon.endpoint_id, and a part of the file cache's URL"),
  remote_extensions: opt(RemoteExtensionsWire, "extensions that the image lacks"),
  pgbouncer_settings: opt(Schema.Record(Schema.String, Schema.String), "for the [pgbouncer] of its ini"),
  local_proxy_config: opt(LocalProxyWire, "for local_proxy"),
  reconfigure_concurrency: optional(U64, "connections of an apply to a running Postgres. 1 by default"),
  drop_subscriptions_before_start: optional(Schema.Boolean, "drops them once per timeline. False by default"),
  audit_log_level: optional(
    Schema.Literals(["Disabled", "Log", "Base", "Hipaa", "Extended", "Full"]),
    "Disabled by default. Log is an old word for Base; Hipaa behaves as Extended"
  ),
  logs_export_host: opt(ServerAddress, "host:port of a syslog that gets Postgres's log"),
  endpoint_storage_addr: opt(Schema.String, "where the file cache's map is kept; otherwise the setting of this name"),
  endpoint_storage_token: opt(Schema.String, "bearer token for it"),
  autoprewarm: optional(Schema.Boolean, "warm the file cache after the start. False by default"),
  offload_lfc_interval_seconds: opt(NonZeroU64, "how often the file cache's map is saved; absent: never by itself"),
  suspend_timeout_seconds: optional(
    I64,
    "how long nobody has to use Postgres for --exit-when-idle; -1: never, 0 (the default): 300"
  ),
  databricks_settings: opt(DatabricksWire, "not used")
}).annotate({
  identifier: "ComputeSpec",
  title: "ComputeSpec",
  description: "What one Postgres compute shall be: its cluster, where its data lives, and how it behaves."
})
export type ComputeSpec = typeof ComputeSpec.Type
