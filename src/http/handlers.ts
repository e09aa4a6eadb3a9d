/**
 * Which handler answers which endpoint of `Api.ts`, group by group. What they do is in the files of routes.
 */
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import type { HourRecorder } from "../activity/HourRecorder.ts"
import { Commands } from "../compute/Commands.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { Promotions } from "../compute/Promotions.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import { Admin } from "../pgwire/Admin.ts"
import { activityRoutes } from "./activityRoutes.ts"
import { answered, answerOf, json, metricsType } from "./answer.ts"
import { wholeApi } from "./Api.ts"
import { auxiliaryRoutes, communicatorMetrics } from "./auxiliaryRoutes.ts"
import type { CachedBody } from "./cachedBodies.ts"
import { commandRoutes } from "./commandRoutes.ts"
import { documentOf, Through } from "./document.ts"
import type { ServerOptions } from "./options.ts"
import { docsPage } from "./pages.ts"
import { pageRoutes } from "./page/pageRoutes.ts"
import { grantRoutes, postgresRoutes } from "./postgresRoutes.ts"
import { livez, type ProbeOptions, type ProbeResult, readyz, startupz } from "./probes.ts"
import { bodyOf, refusal } from "./refusals.ts"
import { statusRoutes } from "./statusRoutes.ts"
import { applyBody, verboseVitals } from "./views.ts"
import type { Watchers } from "./watchers.ts"

/** Probes, metrics and the document: anonymous, cheap, never blocked by Postgres. */
export const openHandlers = (options: ServerOptions, metrics: CachedBody) =>
  HttpApiBuilder.group(
    wholeApi(),
    "open",
    Effect.fnUntraced(function* (handlers) {
      const state = yield* ComputeState
      const document = Effect.map(Through, documentOf)

      const asksForTokens = () => options.verifier !== null
      const probe =
        (read: (options: ProbeOptions, snapshot: Snapshot) => ProbeResult) =>
        ({ query }: { readonly query: { readonly verbose?: string } }) =>
          Effect.map(state.now, (snapshot) => {
            const { body, refused } = read({ apiVersion: options.apiVersion, asksForTokens }, snapshot)
            if (query.verbose === undefined) return refused === null ? json(body) : answerOf(refused)
            const whole = verboseVitals(options.apiVersion, snapshot)
            const vitals = asksForTokens() ? { ...whole, error: null } : whole
            // A refusal in full, and the vitals with it.
            return refused === null ? json(vitals) : json({ ...vitals, ...bodyOf(refused) }, refused.status)
          })

      return handlers.handleAll({
        livez: probe(livez),
        readyz: probe(readyz),
        startupz: probe(startupz),
        metrics: () =>
          Effect.sync(() => {
            const { body } = metrics()
            return typeof body === "string"
              ? HttpServerResponse.text(body, { contentType: metricsType })
              : HttpServerResponse.uint8Array(body, { contentType: metricsType })
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

const nothingApplied = refusal(404, "nothing_applied", "nothing was applied yet", "GET /status says where the start is")

export const controlHandlers = (options: ServerOptions, watchers: Watchers, hour: HourRecorder) =>
  HttpApiBuilder.group(
    wholeApi(),
    "control",
    Effect.fnUntraced(function* (handlers) {
      const state = yield* ComputeState
      const commands = commandRoutes(state, yield* Commands, options)
      const activity = activityRoutes(state, options.apiVersion, hour)
      const auxiliary = auxiliaryRoutes(options, yield* Promotions)
      return handlers
        .handleAll({
          ...statusRoutes(state, options.apiVersion, watchers),
          ...pageRoutes(state, options, hour),
          ...postgresRoutes(state, yield* Admin, options),
          metricsJson: () => Effect.map(state.now, ({ metrics }) => metrics),
          apply: () => Effect.map(state.now, (snapshot) => applyBody(snapshot) ?? answerOf(nothingApplied)),
          operations: commands.operations,
          operation: commands.operation,
          terminate: commands.terminate,
          activity: activity.activity,
          holds: activity.holds,
          release: activity.release,
          prewarm: auxiliary.prewarm,
          prewarmState: auxiliary.prewarmState,
          cancelPrewarm: auxiliary.cancelPrewarm,
          offload: auxiliary.offload,
          offloadState: auxiliary.offloadState
        })
        .handleRaw("promote", auxiliary.promote)
        .handleRaw("configure", commands.configure)
        .handleRaw("hold", activity.hold)
    })
  )

export const insideHandlers = (options: ServerOptions) =>
  HttpApiBuilder.group(
    wholeApi(),
    "inside",
    Effect.fnUntraced(function* (handlers) {
      const state = yield* ComputeState
      const { extensions, grants } = grantRoutes(state, yield* Admin, options.apiVersion)
      return handlers
        .handle("refreshConfiguration", commandRoutes(state, yield* Commands, options).refresh)
        .handle("fetchExtension", auxiliaryRoutes(options, yield* Promotions).fetchExtension)
        .handleRaw("extensions", extensions)
        .handleRaw("grants", grants)
    })
  )
