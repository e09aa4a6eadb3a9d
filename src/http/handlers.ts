/**
 * The control plane's routes and the neighbours': which handler answers which endpoint of `Api.ts`.
 */
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as OpenApi from "effect/http-api/OpenApi"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import { Commands } from "../compute/Commands.ts"
import { ComputeState, type Snapshot } from "../compute/ComputeState.ts"
import { Promotions } from "../compute/Promotions.ts"
import type { Failure } from "../errors/Failure.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import * as adminSql from "./adminSql.ts"
import { mustRun, queryWithin } from "./adminSql.ts"
import { answered, answerOf, bodyOf, json, readBody, refusal, refusalOf } from "./answer.ts"
import { wholeApi } from "./Api.ts"
import { communicatorMetrics, neighbours } from "./auxiliaryRoutes.ts"
import { ExtensionBody, Grants } from "./bodies.ts"
import { ordering } from "./commandRoutes.ts"
import type { Traffic } from "./middleware.ts"
import { insight } from "./postgresRoutes.ts"
import { livez, metricsType, readyz, type Said, startupz } from "./probes.ts"
import { docsPage } from "./routes.ts"
import type { EndpointOptions } from "./Server.ts"
import { holding, watching } from "./statusRoutes.ts"
import { metricsText, verboseVitals } from "./views.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Probes, metrics and the document: anonymous, cheap, never blocked by Postgres.
// ---------------------------------------------------------------------------------------------------------------------

export const openHandlers = (options: EndpointOptions, traffic: Traffic) =>
  HttpApiBuilder.group(
    wholeApi(),
    "open",
    Effect.fnUntraced(function* (handlers) {
      const { apiVersion } = options
      const state = yield* ComputeState
      const document = yield* Effect.cached(Effect.sync(() => OpenApi.fromApi(wholeApi())))

      interface Asked {
        readonly query: { readonly verbose?: string }
      }
      const probe =
        (read: (apiVersion: ApiVersion, snapshot: Snapshot) => Said) =>
        ({ query }: Asked) =>
          Effect.map(state.now, (snapshot) => {
            const { body, refused } = read(apiVersion, snapshot)
            if (query.verbose === undefined) return refused === null ? json(body) : answerOf(refused)
            const vitals = verboseVitals(apiVersion, snapshot)
            // A refusal in full, and the vitals beside it.
            return refused === null ? json(vitals) : json({ ...vitals, ...bodyOf(refused) }, refused.status)
          })

      return handlers.handleAll({
        livez: probe(livez),
        readyz: probe(readyz),
        startupz: probe(startupz),
        metrics: () =>
          Effect.map(Effect.all([state.now, PrometheusMetrics.format()]), ([snapshot, counted]) => {
            const text = metricsText(snapshot, options.buildTag) + options.otherMetrics() + traffic.text() + counted
            return HttpServerResponse.text(text, { contentType: metricsType })
          }),
        autoscalingMetrics: () => answered(communicatorMetrics(options.communicatorSocket)),
        openapi: () => document,
        docs: () =>
          Effect.map(document, (spec) =>
            HttpServerResponse.text(docsPage(spec), { contentType: "text/html; charset=utf-8" })
          )
      })
    })
  )

// ---------------------------------------------------------------------------------------------------------------------

const nothingApplied = refusal(404, "nothing_applied", "nothing was applied yet", "GET /status says where the start is")

export const controlHandlers = (options: EndpointOptions) =>
  HttpApiBuilder.group(
    wholeApi(),
    "control",
    Effect.fnUntraced(function* (handlers) {
      const state = yield* ComputeState
      const commands = ordering(state, yield* Commands, options)
      const holds = holding(state, options.apiVersion)
      const around = neighbours(options, yield* Promotions)
      return handlers
        .handleAll({
          ...watching(state, options.apiVersion),
          ...insight(state, yield* Admin, options),
          metricsJson: () => Effect.map(state.now, ({ metrics }) => metrics),
          apply: () => Effect.map(state.now, ({ applyReport }) => applyReport ?? answerOf(nothingApplied)),
          operations: commands.operations,
          operation: commands.operation,
          terminate: commands.terminate,
          activity: holds.activity,
          holds: holds.holds,
          release: holds.release,
          prewarm: around.prewarm,
          prewarmState: around.prewarmState,
          cancelPrewarm: around.cancelPrewarm,
          offload: around.offload,
          offloadState: around.offloadState
        })
        .handleRaw("promote", around.promote)
        .handleRaw("configure", commands.configure)
        .handleRaw("hold", holds.hold)
    })
  )

export const insideHandlers = (options: EndpointOptions) =>
  HttpApiBuilder.group(
    wholeApi(),
    "inside",
    Effect.fnUntraced(function* (handlers) {
      const { apiVersion } = options
      const admin = yield* Admin
      const state = yield* ComputeState
      const { refresh } = ordering(state, yield* Commands, options)
      const created = apiVersion === "head" ? 201 : 200

      const framed = (frame: string) => Effect.mapError((error: Failure) => refusalOf(error, `${frame}: `))

      const extensions = Effect.gen(function* () {
        const { database, extension, version } = yield* readBody(ExtensionBody, apiVersion, "invalid request body")
        yield* mustRun(state, apiVersion, "extensions")
        yield* Effect.scoped(
          Effect.gen(function* () {
            const wire = yield* admin.connect("install_extension", database)
            const [facts] = yield* wire.rows(adminSql.extensionFacts(extension, version), queryWithin)
            const sql = adminSql.installExtension(extension, version, facts?.[0] ?? null, facts?.[1] ?? null)
            if (sql !== null) yield* wire.simple(sql, queryWithin)
          })
        ).pipe(framed("failed to install extension"))
        return json({ extension, version }, created)
      })

      const grants = Effect.gen(function* () {
        const wanted = yield* readBody(Grants, apiVersion, "invalid request body")
        yield* mustRun(state, apiVersion, "set_role_grants")
        yield* Effect.scoped(
          Effect.gen(function* () {
            const wire = yield* admin.connect("set_role_grants", wanted.database)
            const held = yield* wire.rows(adminSql.heldPrivileges(wanted.schema, wanted.role), queryWithin)
            const sql = adminSql.grant(
              wanted.schema,
              wanted.role,
              wanted.privileges,
              new Set(held.map(([privilege]) => privilege ?? ""))
            )
            if (sql !== null) yield* wire.simple(sql, queryWithin)
          })
        ).pipe(framed(`${apiVersion === "head" ? "failed to" : "could not"} grant role privileges to the schema`))
        return json(wanted, created)
      })

      const { fetchExtension } = neighbours(options, yield* Promotions)
      return handlers
        .handle("refreshConfiguration", refresh)
        .handle("fetchExtension", fetchExtension)
        .handleRaw("extensions", () => answered(extensions))
        .handleRaw("grants", () => answered(grants))
    })
  )
