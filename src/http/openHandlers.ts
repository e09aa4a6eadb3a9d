/**
 * Probes, metrics and the document: anonymous, cheap, never blocked by Postgres.
 */
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as OpenApi from "effect/http-api/OpenApi"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import { ComputeState, type Snapshot } from "../ComputeState.ts"
import { isReady, isStarted, refusal, type Vitals, wireStatus } from "../plan/httpAnswer.ts"
import { familiesOf, printFamilies } from "../plan/metricsText.ts"
import { answerOf } from "./answer.ts"
import { metricsType, Whole } from "./Api.ts"
import type { EndpointOptions } from "./options.ts"

const vitalsOf = ({ metrics, postgresAlive, status }: Snapshot): Vitals => ({
  status,
  postgresAlive,
  everRan: metrics.total_startup_ms > 0
})

export const metricsText = (snapshot: Snapshot, buildTag: string): string =>
  printFamilies(familiesOf({
    status: snapshot.status,
    steps: snapshot.steps,
    downtime: snapshot.downtime,
    totalStartupMillis: snapshot.metrics.total_startup_ms,
    lastActive: snapshot.lastActive?.epochMilliseconds ?? null
  }, buildTag))

export const openHandlers = (options: EndpointOptions) =>
  HttpApiBuilder.group(Whole, "open", Effect.fnUntraced(function*(handlers) {
    const state = yield* ComputeState
    const document = yield* Effect.cached(Effect.sync(() => OpenApi.fromApi(Whole)))

    const probe = (code: string, passes: (vitals: Vitals) => boolean) => () =>
      Effect.map(state.now, (snapshot) => {
        const status = wireStatus(options.dialect, snapshot.status)
        return passes(vitalsOf(snapshot))
          ? { status }
          : answerOf(refusal(503, code, snapshot.error ?? `compute status is ${status}`, "GET /status says more"))
      })

    return handlers.handleAll({
      livez: probe("not_alive", () => true),
      readyz: probe("not_ready", isReady),
      startupz: probe("not_started", isStarted),
      metrics: () =>
        Effect.map(Effect.all([state.now, PrometheusMetrics.format()]), ([snapshot, counted]) =>
          HttpServerResponse.text(metricsText(snapshot, options.buildTag) + counted, { contentType: metricsType })),
      openapi: () => document
    })
  }))
