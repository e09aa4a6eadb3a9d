/**
 * The HTTP API, declared once: paths, bodies, answers. Handlers, clients, the policy table, `/docs` and
 * `/openapi.json` are made from it.
 *
 * Three groups. `open` is anonymous and cheap; `control` is the control plane's; `inside` is for what runs on this
 * compute's own machine. Which group is on which port is decided in `Server.ts`.
 *
 * Declaring takes longer than listening does, so it is done when the declaration is first asked for.
 */
import * as HttpApi from "effect/http-api/HttpApi"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import * as HttpApiSchema from "effect/http-api/HttpApiSchema"
import * as OpenApi from "effect/http-api/OpenApi"
import * as Schema from "effect/Schema"
import { eventsType, metricsType, paths, sqlType } from "./answer.ts"
import { Auth } from "./Auth.ts"
import * as Body from "./bodies.ts"
import { refused } from "./bodies.ts"

const once = <A>(make: () => A): (() => A) => {
  let made: A | undefined
  return () => (made ??= make())
}

const text = (contentType: string) => Schema.String.pipe(HttpApiSchema.asText({ contentType }))
const htmlType = "text/html; charset=utf-8"
const plainType = "text/plain; charset=utf-8"
const created = <S extends Schema.Top>(schema: S) => [schema, schema.pipe(HttpApiSchema.status(201))] as const

const Alive = Schema.Struct({ status: Schema.String }).annotate({ identifier: "Alive" })

/** The three probes say more with it. */
const verbose = { verbose: Schema.optionalKey(Schema.String) }
/** How long to wait: `30`, `30s`, `500ms`, `2m`. */
const Timeout = Schema.optionalKey(Schema.String.check(Schema.isPattern(/^\d{1,6}(\.\d{1,3})?(ms|s|m)?$/u)))
const OneId = { id: Schema.String }
/** What every body can be refused for. */
const bodied = [400, 413, 415, 422] as const

const summary = (words: string) => OpenApi.annotations({ summary: words })

const declareOpen = () =>
  HttpApiGroup.make("open", { topLevel: true }).add(
    HttpApiEndpoint.get("livez", paths.livez, {
      query: verbose,
      success: [Alive, Body.Vitals],
      error: refused(400)
    }).annotateMerge(summary("200 as long as this process answers")),
    HttpApiEndpoint.get("readyz", paths.readyz, {
      query: verbose,
      success: [Alive, Body.Vitals],
      error: [...refused(400, 503), Body.Unwell]
    }).annotateMerge(summary("200 while users' connections are worth sending here")),
    HttpApiEndpoint.get("startupz", paths.startupz, {
      query: verbose,
      success: [Alive, Body.Vitals],
      error: [...refused(400, 503), Body.Unwell]
    }).annotateMerge(summary("200 once the first start has succeeded")),
    HttpApiEndpoint.get("metrics", paths.metrics, { success: text(metricsType) }).annotateMerge(
      summary("Metrics in the Prometheus text format")
    ),
    HttpApiEndpoint.get("autoscalingMetrics", "/autoscaling_metrics", {
      success: text(metricsType),
      error: refused(503, 504)
    }).annotateMerge(summary("Metrics that Postgres's own communicator answers on its socket")),
    HttpApiEndpoint.get("openapi", "/openapi.json", { success: Schema.Unknown }).annotateMerge(
      summary("This API in the words of OpenAPI")
    ),
    HttpApiEndpoint.get("docs", "/docs", { success: text(htmlType) }).annotateMerge(
      summary("This API as a page to read")
    )
  )
export interface Open extends ReturnType<typeof declareOpen> {}
export const openGroup: () => Open = once(declareOpen)

const statusEndpoints = () =>
  [
    HttpApiEndpoint.get("page", "/", { success: [text(htmlType), text(plainType)] }).annotateMerge(
      summary(
        "The compute's page: text; for a browser, which needs no token for it, a page that asks for what it shows"
      )
    ),
    HttpApiEndpoint.get("log", "/log", { success: Body.Log }).annotateMerge(
      summary("The last lines of compute_ctl's own log")
    ),
    HttpApiEndpoint.get("status", paths.status, {
      query: { wait_for: Schema.optionalKey(Schema.String), timeout: Timeout },
      success: [Body.ComputeStatusResponse, text(eventsType)],
      error: refused(400)
    }).annotateMerge(summary("Where this compute is in its life; ?wait_for=running&timeout=30s waits for it")),
    HttpApiEndpoint.get("statusStream", "/status/stream", { success: text(eventsType) }).annotateMerge(
      summary("The status, and every later one, as server-sent events")
    ),
    HttpApiEndpoint.get("history", "/history", { success: Body.History }).annotateMerge(
      summary("The latest changes of status, and why they came about")
    ),
    HttpApiEndpoint.get("conditions", "/conditions", { success: Body.Conditions }).annotateMerge(
      summary("What is not as it should be while the compute serves all the same, and settings that wait for a restart")
    ),
    HttpApiEndpoint.get("metricsJson", "/metrics.json", { success: Body.Metrics }).annotateMerge(
      summary("How long each part of the start took")
    ),
    HttpApiEndpoint.get("timeline", "/timeline", {
      success: [Body.Timeline, text(plainType), text(htmlType)]
    }).annotateMerge(summary("The steps of the start, as they passed; text or a page for who accepts it")),
    HttpApiEndpoint.get("apply", "/apply", { success: Body.ApplyReport, error: refused(404) }).annotateMerge(
      summary("What the last apply of a spec did, operation by operation")
    )
  ] as const

const commandEndpoints = () =>
  [
    HttpApiEndpoint.post("configure", "/configure", {
      payload: Body.ConfigureBody,
      success: [Body.ComputeStatusResponse, Body.Operation.pipe(HttpApiSchema.status(202))],
      error: refused(...bodied, 409, 412, 500, 503, 504)
    }).annotateMerge(summary("Apply a spec; answers when it is applied, or at once with `Prefer: respond-async`")),
    HttpApiEndpoint.get("operations", "/operations", {
      success: Schema.Struct({ operations: Schema.Array(Body.Operation) })
    }).annotateMerge(summary("The specs that were sent, the latest first, and what became of each")),
    HttpApiEndpoint.get("operation", "/operations/:id", {
      params: OneId,
      query: { timeout: Timeout },
      success: Body.Operation,
      error: refused(400, 404)
    }).annotateMerge(summary("What became of a spec; ?timeout=30s waits for its end")),
    HttpApiEndpoint.post("terminate", "/terminate", {
      query: { mode: Schema.optionalKey(Schema.Literals(["fast", "immediate"])) },
      success: created(Body.TerminateResponse),
      error: refused(400, 504)
    })
      // A generator names the answer after this, and there is a body of the name `TerminateResponse`.
      .annotateMerge(OpenApi.annotations({ identifier: "terminateCompute" }))
      .annotateMerge(summary("End this compute; answers when Postgres is gone"))
  ] as const

const activityEndpoints = () =>
  [
    HttpApiEndpoint.get("activity", "/activity", { success: Body.Activity }).annotateMerge(
      summary("When this compute was last used, by what, and why it counts as awake")
    ),
    HttpApiEndpoint.get("holds", "/holds", {
      success: Schema.Struct({ holds: Schema.Array(Body.Hold) })
    }).annotateMerge(summary("Who keeps this compute awake, and for how long")),
    HttpApiEndpoint.post("hold", "/holds", {
      payload: Body.HoldBody,
      success: Body.Hold.pipe(HttpApiSchema.status(201)),
      error: refused(...bodied, 429)
    }).annotateMerge(summary("Keep this compute awake for a while, for a reason")),
    HttpApiEndpoint.delete("release", "/holds/:id", {
      params: OneId,
      success: Body.Hold,
      error: refused(400, 404)
    }).annotateMerge(summary("Take a hold back before its time"))
  ] as const

const postgresEndpoints = () =>
  [
    HttpApiEndpoint.get("info", "/info", { success: Body.Info }).annotateMerge(summary("The machine and the programs")),
    HttpApiEndpoint.get("insights", "/insights", {
      success: Schema.Unknown,
      error: refused(412, 500, 504)
    }).annotateMerge(summary("The slowest statements by pg_stat_statements")),
    HttpApiEndpoint.get("catalog", "/dbs_and_roles", {
      query: { passwords: Schema.optionalKey(Schema.Literals(["true", "false"])) },
      success: Body.Catalog,
      error: refused(400, 403, 500, 504)
    }).annotateMerge(summary("Roles and databases; ?passwords=true shows verifiers to an administrator")),
    HttpApiEndpoint.get("databaseSchema", "/database_schema", {
      query: { database: Schema.optionalKey(Schema.Union([Schema.String, Schema.Array(Schema.String)])) },
      success: text(sqlType),
      error: refused(400, 404, 412, 500, 503, 504)
    }).annotateMerge(summary("What pg_dump says of a database's schema, as it says it")),
    HttpApiEndpoint.get("installedExtensions", "/installed_extensions", {
      success: Body.InstalledExtensions,
      error: refused(412, 500, 504)
    }).annotateMerge(summary("Extensions of all databases, with their versions")),
    HttpApiEndpoint.post("checkWritability", "/check_writability", {
      success: Schema.Boolean,
      error: refused(412, 500, 504)
    }).annotateMerge(summary("true when a row can be written, or could be if the disk were not full"))
  ] as const

const auxiliaryEndpoints = () =>
  [
    HttpApiEndpoint.post("promote", "/promote", {
      payload: Body.PromoteBody,
      success: [Body.PromoteState, Body.PromoteState.pipe(HttpApiSchema.status(500))],
      error: refused(...bodied, 409, 504)
    }).annotateMerge(summary("Make a primary of this replica; answers when it is one")),
    HttpApiEndpoint.post("prewarm", "/lfc/prewarm", {
      query: { from_endpoint: Schema.optionalKey(Schema.String) },
      success: Schema.Void.pipe(HttpApiSchema.status(202)),
      error: refused(400, 412, 429)
    }).annotateMerge(summary("Load the local file cache as an endpoint left it; does not wait")),
    HttpApiEndpoint.get("prewarmState", "/lfc/prewarm", {
      success: Body.FileCacheState,
      error: refused(412)
    }).annotateMerge(summary("How the loading of the local file cache goes")),
    HttpApiEndpoint.delete("cancelPrewarm", "/lfc/prewarm", {
      success: Schema.Void.pipe(HttpApiSchema.status(202)),
      error: refused(412)
    }).annotateMerge(summary("Stop loading the local file cache; answers when it has stopped")),
    HttpApiEndpoint.post("offload", "/lfc/offload", {
      success: Schema.Void.pipe(HttpApiSchema.status(202)),
      error: refused(412, 429)
    }).annotateMerge(summary("Save what the local file cache holds; does not wait")),
    HttpApiEndpoint.get("offloadState", "/lfc/offload", {
      success: Body.FileCacheState,
      error: refused(412)
    }).annotateMerge(summary("How the saving of the local file cache goes")),
    HttpApiEndpoint.get("hadronLiveness", "/hadron_liveness_probe", {
      success: Schema.String,
      error: refused(500, 504)
    }).annotateMerge(summary('"ok" when Postgres takes a connection'))
  ] as const

const declareControl = () =>
  HttpApiGroup.make("control", { topLevel: true })
    .add(...statusEndpoints())
    .add(...commandEndpoints())
    .add(...activityEndpoints())
    .add(...postgresEndpoints())
    .add(...auxiliaryEndpoints())
    .middleware(Auth)
export interface Control extends ReturnType<typeof declareControl> {}
export const controlGroup: () => Control = once(declareControl)

const declareInside = () =>
  HttpApiGroup.make("inside", { topLevel: true })
    .add(
      HttpApiEndpoint.post("extensions", "/extensions", {
        payload: Body.ExtensionBody,
        success: created(Body.ExtensionResponse),
        error: refused(...bodied, 404, 409, 412, 500, 504)
      }).annotateMerge(summary("Create an extension, or bring it to a version")),
      // The parameter that may hold slashes.
      HttpApiEndpoint.post("fetchExtension", "/extension_server/:filename", {
        params: { filename: Schema.String },
        query: { is_library: Schema.optionalKey(Schema.Literals(["true", "false"])) },
        success: Schema.Void.pipe(HttpApiSchema.status(200)),
        error: refused(400, 404, 409, 412, 500)
      }).annotateMerge(summary("Fetch an extension, or one of its libraries, that Postgres misses")),
      HttpApiEndpoint.post("grants", "/grants", {
        payload: Body.Grants,
        success: created(Body.Grants),
        error: refused(...bodied, 404, 409, 412, 500, 504)
      }).annotateMerge(summary("Grant privileges on a schema to a role")),
      HttpApiEndpoint.post("refreshConfiguration", "/refresh_configuration", {
        success: Schema.Void.pipe(HttpApiSchema.status(200)),
        error: refused(412)
      }).annotateMerge(summary("Fetch the spec again from where it came from, and apply it; does not wait"))
    )
    .middleware(Auth)
export interface Inside extends ReturnType<typeof declareInside> {}
export const insideGroup: () => Inside = once(declareInside)

const about = {
  title: "compute_ctl",
  version: "1.0.0",
  description: "One stateless Postgres compute: its status, its spec, its end."
}

/** Everything there is: what the document describes, and what one port alone serves. */
export const wholeApi = once(() =>
  HttpApi.make("compute-ctl")
    .add(openGroup())
    .add(controlGroup())
    .add(insideGroup())
    .annotateMerge(OpenApi.annotations(about))
)
/** The port that the network reaches, when there are two. */
export const externalApi = once(() => HttpApi.make("compute-ctl").add(openGroup()).add(controlGroup()))
/** The port that only this machine reaches. */
export const internalApi = once(() => HttpApi.make("compute-ctl").add(openGroup()).add(insideGroup()))
