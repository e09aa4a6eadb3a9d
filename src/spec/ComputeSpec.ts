/**
 * The spec as control planes of both generations send it (reference section 2.2). Only `parseSpec.ts` reads it.
 *
 * Fields that only one generation has are optional, with the default named beside them; unknown keys are ignored
 * at every level. `opt` means missing or `null`; a bare `optionalKey` may be missing but not `null`.
 */
import * as Schema from "effect/Schema"
import { ClusterWire, DeltaOperationWire } from "./ClusterSpec.ts"
import { DatabricksWire, LocalProxyWire, RemoteExtensionsWire } from "./ExtensionSpec.ts"
import { I64, NonZeroU64, opt, U64 } from "./SpecScalars.ts"
import { storageFields } from "./StorageSpec.ts"

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
  logs_export_host: opt(Schema.String),
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
