/**
 * From whatever was sent to a `ParsedSpec`, or to all that is wrong with it at once.
 *
 * Pure and total: whatever comes, a `ParsedSpec` or a `SpecInvalid` is the answer. Messages never repeat a value that
 * may be secret. `validate`, a run, `/configure` and the library all decide by `parseSpec`; nobody else reads the wire.
 */
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { SpecInvalid } from "../errors/Failure.ts"
import { parseServerAddress } from "../pgwire/address.ts"
import { faultsOfDatabaseOptions, faultsOfRoleOptions } from "./clusterOptions.ts"
import {
  type ComputeModeWire,
  ComputeSpec,
  type DatabaseWire,
  type DeltaOperationWire,
  GenericOptionWire,
  type LocalProxyKeysWire,
  opt,
  type RemoteExtensionsWire,
  type RoleWire,
  storageFields
} from "./ComputeSpec.ts"
import { parseLsn } from "./identifiers.ts"
import { decoderOf } from "./decode.ts"
import { addDuplicates, type JsonDocument, readJsonText } from "./json.ts"
import { isVerifier } from "./names.ts"
import type {
  ApiVersion,
  ComputeMode,
  Database,
  DeltaOperation,
  GenericOption,
  LocalProxyKeys,
  ParsedSpec,
  Password,
  RemoteExtensionList,
  Role
} from "./ParsedSpec.ts"
import { readLocalStorage, readNeonStorage, type StorageReading } from "./parseStorage.ts"
import { type JsonPath, Problems } from "./problems.ts"

export interface ParseOptions {
  /** For people: where the spec came from. */
  readonly source: string
  /** `local` needs no addresses, and zero ids do when none are given. */
  readonly storage: "neon" | "local"
  /** By whose rules, where the generations differ. Default: the later, which is the stricter. */
  readonly apiVersion?: ApiVersion
  /** Where the spec sits in a larger document, for the paths of problems. */
  readonly under?: JsonPath
}

type Rules = Pick<ParseOptions, "storage" | "apiVersion">

const decode = decoderOf(ComputeSpec)

/** Only what the storage is read from, so that a wrong role does not hide a missing address. */
const StorageOnly = Schema.Struct({
  ...storageFields,
  cluster: Schema.Struct({ settings: opt(Schema.Array(GenericOptionWire), "where older specs have it") })
})
const decodeStorage = Schema.decodeUnknownOption(StorageOnly)

/**
 * A spec as the wire has it, checked; or every problem with its path.
 *
 * @example
 * ```ts
 * const parsed = parseSpec(wire, { source: "spec.json", storage: "local" })
 * const roles = Result.isSuccess(parsed) ? parsed.success.roles : parsed.failure.problems
 * ```
 */
export const parseSpec = (input: unknown, options: ParseOptions): Result.Result<ParsedSpec, SpecInvalid> => {
  const problems = new Problems()
  const parsed = parseInto(input, options, problems.under(options.under ?? []))
  return resultOf(parsed, problems, options.source)
}

/** What was parsed, unless there are problems. */
export const resultOf = <A>(value: A | null, problems: Problems, source: string): Result.Result<A, SpecInvalid> =>
  value === null || problems.count > 0
    ? Result.fail(new SpecInvalid({ source, problems: problems.list() }))
    : Result.succeed(value)

/** `null`: it is not valid, and `problems` say why. */
export const parseInto = (input: unknown, options: Rules, problems: Problems): ParsedSpec | null => {
  const wire = decode(input, problems)
  if (wire !== null) addFaultsOfOptions(wire, problems)
  const storageWire = Option.getOrNull(decodeStorage(input))
  const storage = storageWire === null ? null : readStorage(storageWire, options, problems)
  if (wire === null || storage === null) return null
  const { ancestor, neon, tenant, timeline } = storage
  return tenant === null || timeline === null ? null : toParsedSpec(wire, { tenant, timeline, ancestor, neon })
}

/** What Postgres would not take among the options of roles and databases. */
const addFaultsOfOptions = ({ cluster }: ComputeSpec, problems: Problems): void => {
  const add = (
    where: "roles" | "databases",
    all: ReadonlyArray<RoleWire | DatabaseWire>,
    faults: typeof faultsOfRoleOptions
  ) => {
    for (const [at, { options }] of all.entries())
      for (const { index, message, part } of faults((options ?? []).map(readOption)))
        problems.add(["cluster", where, at, "options", index, part], message)
  }
  add("roles", cluster.roles, faultsOfRoleOptions)
  add("databases", cluster.databases, faultsOfDatabaseOptions)
}

/** The same for JSON text. */
export const parseSpecText = (text: string, options: ParseOptions): Result.Result<ParsedSpec, SpecInvalid> =>
  Result.flatMap(readJsonText(text, options.source), (document) => parseSpecDocument(document, options))

/** The same for a value that was read from text. A key that occurs twice is a problem, as it is to the reference. */
export const parseSpecDocument = (
  { duplicates, value }: JsonDocument,
  options: ParseOptions
): Result.Result<ParsedSpec, SpecInvalid> => {
  const problems = new Problems()
  addDuplicates(duplicates, problems)
  const parsed = parseInto(value, options, problems.under(options.under ?? []))
  return resultOf(parsed, problems, options.source)
}

const readStorage = (
  wire: typeof StorageOnly.Type,
  { apiVersion = "head", storage }: Rules,
  problems: Problems
): StorageReading => {
  const source = { ...wire, settings: wire.cluster.settings ?? null }
  return storage === "local"
    ? readLocalStorage(source, problems)
    : readNeonStorage(source, { mode: readMode(wire.mode)._tag, apiVersion }, problems)
}

const toParsedSpec = (
  wire: ComputeSpec,
  storage: Pick<ParsedSpec, "tenant" | "timeline" | "ancestor" | "neon">
): ParsedSpec => ({
  ...storage,
  operationId: wire.operation_uuid ?? null,
  mode: readMode(wire.mode),
  projectId: wire.project_id ?? null,
  branchId: wire.branch_id ?? null,
  endpointId: wire.endpoint_id ?? null,
  features: new Set(wire.features ?? []),
  postgresqlConf: wire.cluster.postgresql_conf ?? null,
  settings: wire.cluster.settings?.map(readOption) ?? null,
  roles: wire.cluster.roles.map(readRole),
  databases: wire.cluster.databases.map(readDatabase),
  deltas: (wire.delta_operations ?? []).flatMap(readDelta),
  jwksRoles: new Set((wire.local_proxy_config?.jwks ?? []).flatMap((one) => one.role_names)),
  skipCatalogUpdates: wire.skip_pg_catalog_updates ?? false,
  reconfigureConcurrency: Math.max(1, wire.reconfigure_concurrency ?? 1),
  dropSubscriptions: wire.drop_subscriptions_before_start ?? false,
  auditLevel: wire.audit_log_level ?? "Disabled",
  logsExportHost: wire.logs_export_host == null ? null : Result.getOrNull(parseServerAddress(wire.logs_export_host)),
  pgbouncerSettings: wire.pgbouncer_settings == null ? null : new Map(Object.entries(wire.pgbouncer_settings)),
  localProxy: wire.local_proxy_config == null ? null : { jwks: wire.local_proxy_config.jwks?.map(readKeys) ?? null },
  remoteExtensions: readRemoteExtensions(wire.remote_extensions ?? null),
  swapSizeBytes: wire.swap_size_bytes ?? null,
  diskQuotaBytes: wire.disk_quota_bytes ?? null,
  endpointStorage: {
    address: wire.endpoint_storage_addr || null,
    token:
      wire.endpoint_storage_token == null
        ? null
        : Redacted.make(wire.endpoint_storage_token, { label: "endpoint_storage_token" })
  },
  autoprewarm: wire.autoprewarm ?? false,
  offloadLfcIntervalSeconds: wire.offload_lfc_interval_seconds ?? null,
  suspendTimeoutSeconds: wire.suspend_timeout_seconds ?? 0,
  disableLfcResizing: wire.disable_lfc_resizing ?? false
})

const readMode = (wire: ComputeModeWire | undefined): ComputeMode =>
  typeof wire === "object"
    ? { _tag: "Static", lsn: Option.getOrElse(parseLsn(wire.Static), () => 0n) }
    : { _tag: wire ?? "Primary" }

const readOption = (wire: GenericOptionWire): GenericOption => ({
  name: wire.name,
  value: wire.value ?? null,
  quoted: wire.vartype === "string"
})

const readRole = (wire: RoleWire): Role => ({
  name: wire.name,
  password: readPassword(wire.encrypted_password),
  privileged: wire.privileged ?? null,
  options: (wire.options ?? []).map(readOption)
})

/** Control planes send md5 verifiers as bare hex, while Postgres stores and compares them with the prefix. */
const readPassword = (wire: string | null | undefined): Password => {
  if (wire === undefined) return { _tag: "Unmanaged" }
  if (wire === null) return { _tag: "None" }
  const normal = isVerifier(wire) ? wire : `md5${wire}`
  return { _tag: "Verifier", verifier: Redacted.make(normal, { label: "verifier" }) }
}

const readDatabase = (wire: DatabaseWire): Database => ({
  name: wire.name,
  owner: wire.owner,
  options: (wire.options ?? []).map(readOption)
})

const setOf = (names: ReadonlyArray<string> | null | undefined): ReadonlySet<string> | null =>
  names == null ? null : new Set(names)

const readRemoteExtensions = (wire: RemoteExtensionsWire | null): RemoteExtensionList | null =>
  wire === null
    ? null
    : {
        public: setOf(wire.public_extensions),
        custom: setOf(wire.custom_extensions),
        libraries: new Map(Object.entries(wire.library_index)),
        extensions: new Map(
          Object.entries(wire.extension_data).map(([name, one]) => [
            name,
            {
              controlFiles: new Map(Object.entries(one.control_data)),
              sha256: one.sha256?.toLowerCase() ?? null
            }
          ])
        )
      }

const readKeys = (wire: LocalProxyKeysWire): LocalProxyKeys => ({
  id: wire.id,
  roleNames: wire.role_names,
  jwksUrl: wire.jwks_url,
  providerName: wire.provider_name,
  jwtAudience: wire.jwt_audience ?? null
})

const readDelta = (wire: DeltaOperationWire): ReadonlyArray<DeltaOperation> => {
  const to = wire.new_name ?? ""
  switch (wire.action) {
    case "delete_db":
      return [{ _tag: "DropDatabase", name: wire.name }]
    case "rename_db":
      return [{ _tag: "RenameDatabase", name: wire.name, to }]
    case "delete_role":
      return [{ _tag: "DropRole", name: wire.name }]
    case "rename_role":
      return [{ _tag: "RenameRole", name: wire.name, to }]
    default:
      return []
  }
}
