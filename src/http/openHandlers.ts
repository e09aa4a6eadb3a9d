/**
 * Probes, metrics and the document: anonymous, cheap, never blocked by Postgres.
 */
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as OpenApi from "effect/http-api/OpenApi"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import { ComputeState, type Snapshot } from "../compute/ComputeState.ts"
import { bodyOf, type Dialect } from "./httpAnswer.ts"
import { answered, answerOf, json } from "./answer.ts"
import { wholeApi } from "./Api.ts"
import { communicatorMetrics } from "./communicator.ts"
import { docsPage } from "./docs.ts"
import type { EndpointOptions } from "./options.ts"
import { metricsType } from "./paths.ts"
import { livez, readyz, type Said, startupz } from "./probes2.ts"
import type { Traffic } from "./traffic.ts"
import { metricsText, verboseVitals } from "./views.ts"

export const openHandlers = (options: EndpointOptions, traffic: Traffic) =>
  HttpApiBuilder.group(wholeApi(), "open", Effect.fnUntraced(function*(handlers) {
    const { dialect } = options
    const state = yield* ComputeState
    const document = yield* Effect.cached(Effect.sync(() => OpenApi.fromApi(wholeApi())))

    interface Asked {
      readonly query: { readonly verbose?: string }
    }
    const probe = (read: (dialect: Dialect, snapshot: Snapshot) => Said) => ({ query }: Asked) =>
      Effect.map(state.now, (snapshot) => {
        const { body, refused } = read(dialect, snapshot)
        if (query.verbose === undefined) return refused === null ? json(body) : answerOf(refused)
        const vitals = verboseVitals(dialect, snapshot)
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
      docs: () => Effect.map(document, (spec) => HttpServerResponse.text(docsPage(spec), { contentType: "text/html; charset=utf-8" }))
    })
  }))
