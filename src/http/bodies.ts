/**
 * The bodies of the HTTP API, as schemas. Shapes only: which route takes or answers them is in `Api.ts`.
 */
import * as HttpApiSchema from "effect/http-api/HttpApiSchema"
import * as Schema from "effect/Schema"
import { maxHoldSeconds } from "../activity/activity.ts"
import { PgName, PgText } from "../spec/ComputeSpec.ts"
import { faultOfRoleReference } from "../spec/names.ts"

/** Every answer that is not 2xx. */
const Refused = Schema.Struct({
  error: Schema.String,
  code: Schema.String,
  hint: Schema.String,
  problems: Schema.optionalKey(Schema.Array(Schema.Struct({ path: Schema.String, message: Schema.String })))
}).annotate({ identifier: "Refused" })

export const refused = (...statuses: ReadonlyArray<number>) =>
  statuses.map((status) => Refused.pipe(HttpApiSchema.status(status)))

/** `status` is a wire name of the apiVersion spoken. */
export const ComputeStatusResponse = Schema.Struct({
  start_time: Schema.String,
  tenant: Schema.NullOr(Schema.String),
  timeline: Schema.NullOr(Schema.String),
  status: Schema.String,
  last_active: Schema.NullOr(Schema.String),
  error: Schema.NullOr(Schema.String),
  /** Only of an empty compute: the control plane, and how often it was asked; or a spec. */
  waiting_for: Schema.optionalKey(Schema.String)
}).annotate({ identifier: "ComputeStatusResponse" })

const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
/** With a fraction. */
const Millis = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))

export const Metrics = Schema.Struct({
  wait_for_spec_ms: Count,
  sync_sk_check_ms: Count,
  sync_safekeepers_ms: Count,
  pageserver_connect_micros: Count,
  basebackup_ms: Count,
  basebackup_bytes: Count,
  start_postgres_ms: Count,
  config_ms: Count,
  total_startup_ms: Count,
  load_ext_ms: Count,
  num_ext_downloaded: Count,
  largest_ext_size: Count,
  total_ext_download_size: Count
}).annotate({ identifier: "ComputeMetrics" })

/** Keys that are sent along count for tokens from then on. */
export const ConfigureBody = Schema.Struct({
  spec: Schema.Unknown,
  compute_ctl_config: Schema.optionalKey(
    Schema.NullOr(
      Schema.Struct({
        // Which of them can verify is judged key by key.
        jwks: Schema.optionalKey(Schema.Struct({ keys: Schema.Array(Schema.Record(Schema.String, Schema.Unknown)) }))
      })
    )
  )
}).annotate({ identifier: "ConfigureBody" })
export type ConfigureBody = typeof ConfigureBody.Type

/** The primary's spec, and where its WAL ended. */
export const PromoteBody = Schema.Struct({ spec: Schema.Unknown, wal_flush_lsn: Schema.String }).annotate({
  identifier: "PromoteBody"
})

export const PromoteState = Schema.Struct({
  status: Schema.Literals(["not_promoted", "completed", "failed"]),
  error: Schema.optionalKey(Schema.String),
  lsn_wait_time_ms: Schema.optionalKey(Count),
  pg_promote_time_ms: Schema.optionalKey(Count),
  reconfigure_time_ms: Schema.optionalKey(Count)
}).annotate({ identifier: "PromoteState" })

/** Of a prewarm or an offload; what else it holds depends on `status`. */
export const FileCacheState = Schema.Struct({
  status: Schema.String,
  error: Schema.optionalKey(Schema.String)
}).annotate({ identifier: "FileCacheState" })

export const TerminateResponse = Schema.Struct({ lsn: Schema.NullOr(Schema.String) }).annotate({
  identifier: "TerminateResponse"
})

const Steps = Schema.Array(Schema.Struct({ name: Schema.String, started_at_ms: Count, ms: Count }))

export const Timeline = Schema.Struct({
  start_time: Schema.String,
  status: Schema.String,
  steps: Steps,
  /** `null` until the start has succeeded. */
  total_ms: Schema.NullOr(Count),
  /** Starts before this one, the latest first, where the storage keeps them. */
  earlier: Schema.Array(Schema.Struct({ start_time: Schema.String, total_ms: Count, steps: Steps }))
}).annotate({ identifier: "Timeline" })

export const ApplyReport = Schema.Struct({
  kind: Schema.Literals(["start", "reconfigure"]),
  startedAt: Schema.String,
  millis: Millis,
  outcome: Schema.Literals(["done", "failed"]),
  phases: Schema.Array(
    Schema.Struct({ phase: Schema.String, done: Count, skipped: Count, failed: Count, millis: Millis })
  ),
  operations: Schema.Array(
    Schema.Struct({
      phase: Schema.String,
      database: Schema.NullOr(Schema.String),
      object: Schema.String,
      action: Schema.String,
      outcome: Schema.Literals(["done", "skipped", "failed"]),
      reason: Schema.NullOr(Schema.String),
      sqlState: Schema.NullOr(Schema.String),
      hint: Schema.NullOr(Schema.String),
      attempts: Count,
      millis: Millis
    })
  ),
  connections: Count,
  roundTrips: Count,
  statements: Count,
  /** Programs beside Postgres that the spec configures; their failures are conditions, too. */
  sidecars: Schema.Array(
    Schema.Struct({
      sidecar: Schema.String,
      at: Schema.String,
      outcome: Schema.Literals(["done", "failed"]),
      reason: Schema.NullOr(Schema.String)
    })
  )
}).annotate({ identifier: "Receipt" })

export const Catalog = Schema.Struct({
  roles: Schema.Array(
    Schema.Struct({ name: Schema.String, encrypted_password: Schema.NullOr(Schema.String), options: Schema.Null })
  ),
  databases: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      owner: Schema.String,
      options: Schema.Null,
      restrict_conn: Schema.Boolean,
      invalid: Schema.Boolean
    })
  )
}).annotate({ identifier: "Catalog" })

export const ExtensionBody = Schema.Struct({
  extension: PgName,
  database: PgName,
  version: PgText.check(Schema.isNonEmpty(), Schema.isMaxLength(255))
}).annotate({ identifier: "ExtensionBody" })

export const ExtensionResponse = Schema.Struct({ extension: Schema.String, version: Schema.String }).annotate({
  identifier: "ExtensionResponse"
})

const Privilege = Schema.Literals([
  "SELECT",
  "INSERT",
  "UPDATE",
  "DELETE",
  "TRUNCATE",
  "REFERENCES",
  "TRIGGER",
  "USAGE",
  "CREATE",
  "CONNECT",
  "TEMPORARY",
  "EXECUTE"
])

/** `GRANT … TO "public"` grants to everybody: quoting does not make a name of this word, nor of `none`. */
const Grantee = Schema.String.check(Schema.makeFilter((name: string) => faultOfRoleReference(name) ?? undefined))

export const Grants = Schema.Struct({
  database: PgName,
  schema: PgName,
  /** There are twelve; the answer repeats what was asked. */
  privileges: Schema.Array(Privilege).check(Schema.isMaxLength(100)),
  role: Grantee
}).annotate({ identifier: "Grants" })

/** In UTC, to the millisecond or finer. */
const Moment = Schema.String.check(Schema.isPattern(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$/u))
const MaybeMoment = Schema.NullOr(Moment)

/** `error` is what the blocking form of the request would have been answered. */
export const Operation = Schema.Struct({
  id: Schema.String,
  operation_uuid: Schema.NullOr(Schema.String),
  state: Schema.Literals(["queued", "applying", "done", "failed", "superseded", "abandoned"]),
  accepted_at: Moment,
  started_at: MaybeMoment,
  ended_at: MaybeMoment,
  error: Schema.NullOr(Refused)
}).annotate({ identifier: "Operation" })

export const History = Schema.Struct({
  status: Schema.String,
  since: Moment,
  changes: Schema.Array(
    Schema.Struct({
      at: Moment,
      from: Schema.String,
      to: Schema.String,
      because: Schema.String,
      error: Schema.NullOr(Schema.String)
    })
  )
}).annotate({ identifier: "History" })

export const Conditions = Schema.Struct({
  degraded: Schema.Array(
    Schema.Struct({ code: Schema.String, about: Schema.optionalKey(Schema.String), message: Schema.String })
  ),
  pending_restart: Schema.Array(Schema.Struct({ name: Schema.String, current: Schema.String, wanted: Schema.String })),
  promotion: Schema.Struct({ status: Schema.String }),
  /** `null`: this is no replica. */
  replica: Schema.NullOr(
    Schema.Struct({
      /** As Postgres calls it; `null`: no WAL receiver is connected. */
      receiver: Schema.NullOr(Schema.String),
      replayed_lsn: Schema.String,
      lag_bytes: Count,
      lag_seconds: Count,
      last_heard: MaybeMoment,
      max_lag_seconds: Count
    })
  )
}).annotate({ identifier: "Conditions" })

export const HoldBody = Schema.Struct({
  reason: Schema.String.check(Schema.isNonEmpty(), Schema.isMaxLength(200)),
  ttl_seconds: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: maxHoldSeconds }))
}).annotate({ identifier: "HoldBody" })

export const Hold = Schema.Struct({
  id: Schema.String,
  reason: Schema.String,
  created_at: Moment,
  expires_at: Moment
}).annotate({ identifier: "Hold" })

/** Postgres's clock for `at` and the kinds, ours for holds. */
export const Activity = Schema.Struct({
  status: Schema.String,
  last_active: MaybeMoment,
  /** Sentences; empty when the compute could sleep. */
  awake_because: Schema.Array(Schema.String),
  looked_at: MaybeMoment,
  kinds: Schema.Record(Schema.String, Schema.Struct({ sessions: Schema.NullOr(Count), last_active: MaybeMoment })),
  /** As the spec says it: -1 is never. */
  suspend_timeout_seconds: Schema.NullOr(Schema.Int),
  /** With `--exit-when-idle`: after so long without use the compute ends by itself. */
  exit_when_idle_seconds: Schema.NullOr(Schema.Int),
  holds: Schema.Array(Hold),
  /** Minute by minute, oldest first: what counted as use, and whether the compute served. */
  last_hour: Schema.Array(Schema.Struct({ at: Moment, because: Schema.Array(Schema.String), served: Schema.Boolean })),
  downtime: Schema.Struct({ current_ms: Count, total_ms: Count })
}).annotate({ identifier: "Activity" })

/** The last lines of compute_ctl's own log, oldest first. Postgres's records are on standard error alone. */
export const Log = Schema.Struct({
  lines: Schema.Array(Schema.Struct({ at: Schema.String, level: Schema.String, message: Schema.String }))
}).annotate({ identifier: "Log" })

export const Info = Schema.Struct({
  num_cpus: Count,
  version: Schema.String,
  api_dialect: Schema.Literals(["2024", "head"]),
  /** `null` until it was looked for. */
  postgres_version: Schema.NullOr(Schema.String),
  pg_dump: Schema.Boolean
}).annotate({ identifier: "Info" })

export const InstalledExtensions = Schema.Struct({
  extensions: Schema.Array(
    Schema.Struct({
      extname: Schema.String,
      versions: Schema.Array(Schema.String),
      n_databases: Count,
      owned_by_superuser: Schema.Boolean
    })
  )
}).annotate({ identifier: "InstalledExtensions" })

const vitals = {
  status: Schema.String,
  since: Moment,
  alive: Schema.Boolean,
  started: Schema.Boolean,
  ready: Schema.Boolean,
  postgres_alive: Schema.Boolean
}

/** A probe's answer to `?verbose`. */
export const Vitals = Schema.Struct({ ...vitals, error: Schema.NullOr(Schema.String) }).annotate({
  identifier: "Vitals"
})

/** The same from a probe that fails: the refusal in full, and the vitals with it. */
export const Unwell = Schema.Struct({ ...vitals, ...Refused.fields })
  .annotate({ identifier: "Unwell" })
  .pipe(HttpApiSchema.status(503))
