/**
 * The HTTP API, declared once: paths, bodies, answers. Handlers, clients and `/openapi.json` are made from it.
 *
 * Three groups. `open` is anonymous and cheap; `control` is the control plane's; `inside` is for the neighbours of
 * this compute on its own machine. Which group is on which port is decided in `endpoint.ts`.
 */
import * as Schema from "effect/Schema"
import * as HttpApi from "effect/http-api/HttpApi"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import * as HttpApiSchema from "effect/http-api/HttpApiSchema"
import * as OpenApi from "effect/http-api/OpenApi"
import { PgName, PgText } from "../domain/SpecScalars.ts"
import { Auth } from "./Auth.ts"

// -- bodies ----------------------------------------------------------------------------------------------------

/** Every answer that is not 2xx. */
export const Refused = Schema.Struct({
  error: Schema.String,
  code: Schema.String,
  hint: Schema.String,
  problems: Schema.optionalKey(Schema.Array(Schema.Struct({ path: Schema.String, message: Schema.String })))
}).annotate({ identifier: "Refused" })

const refused = (...statuses: ReadonlyArray<number>) => statuses.map((status) => Refused.pipe(HttpApiSchema.status(status)))

/** `status` is a wire name of the dialect spoken. */
export const ComputeStatusResponse = Schema.Struct({
  start_time: Schema.String,
  tenant: Schema.NullOr(Schema.String),
  timeline: Schema.NullOr(Schema.String),
  status: Schema.String,
  last_active: Schema.NullOr(Schema.String),
  error: Schema.NullOr(Schema.String)
}).annotate({ identifier: "ComputeStatusResponse" })

const Count = Schema.Number

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

export const ConfigureBody = Schema.Struct({
  spec: Schema.Unknown,
  compute_ctl_config: Schema.optionalKey(Schema.Unknown)
}).annotate({ identifier: "ConfigureBody" })

export const TerminateResponse = Schema.Struct({ lsn: Schema.NullOr(Schema.String) }).annotate({ identifier: "TerminateResponse" })

export const Timeline = Schema.Struct({
  start_time: Schema.String,
  status: Schema.String,
  steps: Schema.Array(Schema.Struct({ name: Schema.String, started_at_ms: Count, ms: Count }))
}).annotate({ identifier: "Timeline" })

export const Receipt = Schema.Struct({
  kind: Schema.Literals(["start", "reconfigure", "promote"]),
  startedAt: Schema.String,
  millis: Count,
  outcome: Schema.Literals(["done", "failed"]),
  phases: Schema.Array(Schema.Struct({ phase: Schema.String, done: Count, skipped: Count, failed: Count, millis: Count })),
  operations: Schema.Array(Schema.Struct({
    phase: Schema.String,
    database: Schema.NullOr(Schema.String),
    object: Schema.String,
    action: Schema.String,
    outcome: Schema.Literals(["done", "skipped", "failed"]),
    reason: Schema.NullOr(Schema.String),
    sqlState: Schema.NullOr(Schema.String),
    hint: Schema.NullOr(Schema.String),
    attempts: Count,
    millis: Count
  })),
  roundTrips: Count,
  statements: Count
}).annotate({ identifier: "Receipt" })

export const Catalog = Schema.Struct({
  roles: Schema.Array(Schema.Struct({ name: Schema.String, encrypted_password: Schema.Null, options: Schema.Null })),
  databases: Schema.Array(Schema.Struct({
    name: Schema.String,
    owner: Schema.String,
    options: Schema.Null,
    restrict_conn: Schema.Boolean,
    invalid: Schema.Boolean
  }))
}).annotate({ identifier: "Catalog" })

export const ExtensionBody = Schema.Struct({
  extension: PgName,
  database: PgName,
  version: PgText.check(Schema.isNonEmpty())
}).annotate({ identifier: "ExtensionBody" })

export const ExtensionResponse = Schema.Struct({ extension: Schema.String, version: Schema.String })
  .annotate({ identifier: "ExtensionResponse" })

export const Privilege = Schema.Literals([
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

export const Grants = Schema.Struct({
  database: PgName,
  schema: PgName,
  privileges: Schema.Array(Privilege),
  role: PgName
}).annotate({ identifier: "Grants" })

const created = <S extends Schema.Top>(schema: S) => [schema, schema.pipe(HttpApiSchema.status(201))] as const

export const metricsType = "text/plain; version=0.0.4"
const PlainText = Schema.String.pipe(HttpApiSchema.asText({ contentType: metricsType }))
const Alive = Schema.Struct({ status: Schema.String }).annotate({ identifier: "Alive" })

// -- routes ----------------------------------------------------------------------------------------------------

const summary = (text: string) => OpenApi.annotations({ summary: text })

export class Open extends HttpApiGroup.make("open", { topLevel: true }).add(
  HttpApiEndpoint.get("livez", "/livez", { success: Alive })
    .annotateMerge(summary("200 as long as this process answers")),
  HttpApiEndpoint.get("readyz", "/readyz", { success: Alive, error: refused(503) })
    .annotateMerge(summary("200 while users' connections are worth sending here")),
  HttpApiEndpoint.get("startupz", "/startupz", { success: Alive, error: refused(503) })
    .annotateMerge(summary("200 once the first start has succeeded")),
  HttpApiEndpoint.get("metrics", "/metrics", { success: PlainText })
    .annotateMerge(summary("Metrics in the Prometheus text format")),
  HttpApiEndpoint.get("openapi", "/openapi.json", { success: Schema.Unknown })
    .annotateMerge(summary("This document"))
) {}

export class Control extends HttpApiGroup.make("control", { topLevel: true }).add(
  HttpApiEndpoint.get("status", "/status", { success: ComputeStatusResponse })
    .annotateMerge(summary("Where this compute is in its life")),
  HttpApiEndpoint.get("metricsJson", "/metrics.json", { success: Metrics })
    .annotateMerge(summary("How long each part of the start took")),
  HttpApiEndpoint.get("timeline", "/timeline", { success: Timeline })
    .annotateMerge(summary("The steps of the start, as they passed")),
  HttpApiEndpoint.get("apply", "/apply", { success: Receipt, error: refused(404) })
    .annotateMerge(summary("What the last apply of a spec did, operation by operation")),
  HttpApiEndpoint.post("configure", "/configure", {
    payload: ConfigureBody,
    success: ComputeStatusResponse,
    error: refused(400, 412, 413, 415, 422, 500, 503, 504)
  }).annotateMerge(summary("Apply a spec; answers when it is applied")),
  HttpApiEndpoint.post("terminate", "/terminate", {
    query: { mode: Schema.optionalKey(Schema.Literals(["fast", "immediate"])) },
    success: created(TerminateResponse),
    error: refused(400, 504)
  }).annotateMerge(summary("End this compute; answers when Postgres is gone")),
  HttpApiEndpoint.get("insights", "/insights", { success: Schema.Unknown, error: refused(412, 500, 504) })
    .annotateMerge(summary("The slowest statements by pg_stat_statements")),
  HttpApiEndpoint.get("catalog", "/dbs_and_roles", { success: Catalog, error: refused(500, 504) })
    .annotateMerge(summary("Roles and databases, without password verifiers")),
  HttpApiEndpoint.post("checkWritability", "/check_writability", { success: Schema.Boolean, error: refused(412, 500, 504) })
    .annotateMerge(summary("true when a row can be written, or could be if the disk were not full"))
).middleware(Auth) {}

export class Inside extends HttpApiGroup.make("inside", { topLevel: true }).add(
  HttpApiEndpoint.post("extensions", "/extensions", {
    payload: ExtensionBody,
    success: created(ExtensionResponse),
    error: refused(400, 412, 413, 415, 422, 500, 504)
  }).annotateMerge(summary("Create an extension, or bring it to a version")),
  HttpApiEndpoint.post("grants", "/grants", {
    payload: Grants,
    success: created(Grants),
    error: refused(400, 412, 413, 415, 422, 500, 504)
  }).annotateMerge(summary("Grant privileges on a schema to a role"))
).middleware(Auth) {}

const about = OpenApi.annotations({
  title: "compute_ctl",
  version: "1.0.0",
  description: "One stateless Postgres compute: its status, its spec, its end."
})

/** Everything there is: what the document describes, and what one port alone serves. */
export class Whole extends HttpApi.make("compute-ctl").add(Open).add(Control).add(Inside).annotateMerge(about) {}
/** The port that the network reaches, when there are two. */
export class External extends HttpApi.make("compute-ctl").add(Open).add(Control) {}
/** The port that only this machine reaches. */
export class Internal extends HttpApi.make("compute-ctl").add(Open).add(Inside) {}
