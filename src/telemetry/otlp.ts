/**
 * Sends spans over OTLP/HTTP, in batches. Loaded by `Telemetry.ts` alone, and only when there is a collector.
 *
 * A collector that hangs costs one request's time; one that is gone makes the exporter pause for a minute.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientError from "effect/http/HttpClientError"
import * as Layer from "effect/Layer"
import * as OtlpExporter from "effect/observability/OtlpExporter"
import * as OtlpSerialization from "effect/observability/OtlpSerialization"
import * as OtlpTracer from "effect/observability/OtlpTracer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Tracer from "effect/Tracer"
import { traceStateKey, traceStateOf } from "../platform/tracing.ts"
import type { OtlpSettings } from "./environment.ts"

/** At the end of the program. */
const flushWithin = Duration.seconds(2)

const client = (timeoutMillis: number) =>
  Layer.effect(
    HttpClient.HttpClient,
    Effect.map(HttpClient.HttpClient, (inner) =>
      HttpClient.make((request) =>
        Effect.timeoutOrElse(inner.execute(request), {
          duration: Duration.millis(timeoutMillis),
          orElse: () =>
            Effect.fail(
              new HttpClientError.HttpClientError({
                reason: new HttpClientError.TransportError({
                  request,
                  description: `no answer within ${timeoutMillis} ms`
                })
              })
            )
        })
      )
    )
  ).pipe(Layer.provide(FetchHttpClient.layer))

/** A query may hold what is nobody's business; a path may not. What a caller's vendors want to see is on every span. */
const adapted = (tracer: Tracer.Tracer): Tracer.Tracer => ({
  ...tracer,
  span: (options) => {
    const span = tracer.span(options)
    const set = span.attribute.bind(span)
    const state = traceStateOf(Option.getOrUndefined(options.parent))
    if (state !== undefined) set(traceStateKey, state)
    return Object.assign(span, {
      attribute: (key: string, value: unknown) => {
        if (key !== "url.query") set(key, key === "url.full" ? String(value).replace(/[?#].*$/s, "") : value)
      }
    })
  }
})

interface Sent {
  readonly attributes: ReadonlyArray<{ readonly key: string; readonly value: { readonly stringValue?: string | null } }>
}

/** OTLP has a field of its own for it. */
const withTraceState = <S extends Sent>(span: S): S => {
  const state = span.attributes.find(({ key }) => key === traceStateKey)?.value.stringValue
  if (state == null) return span
  return { ...span, attributes: span.attributes.filter(({ key }) => key !== traceStateKey), traceState: state }
}

const serialization = (plain: Layer.Layer<OtlpSerialization.OtlpSerialization>) =>
  Layer.effect(
    OtlpSerialization.OtlpSerialization,
    Effect.map(OtlpSerialization.OtlpSerialization, (as) => ({
      ...as,
      traces: (data: Parameters<typeof as.traces>[0]) =>
        as.traces({
          resourceSpans: data.resourceSpans.map((one) => ({
            ...one,
            scopeSpans: one.scopeSpans.map((each) => ({ ...each, spans: each.spans.map(withTraceState) }))
          }))
        })
    }))
  ).pipe(Layer.provide(plain))

export const otlpLayer = (settings: OtlpSettings, version: string): Layer.Layer<never> =>
  Layer.effect(
    Tracer.Tracer,
    Effect.map(
      OtlpTracer.make({
        url: settings.url,
        resource: { serviceName: settings.serviceName, serviceVersion: version },
        headers: Object.fromEntries([...settings.headers].map(([name, value]) => [name, Redacted.value(value)])),
        exportInterval: Duration.seconds(5),
        maxBatchSize: 512,
        shutdownTimeout: flushWithin
      }),
      adapted
    )
  ).pipe(
    Layer.provide(OtlpExporter.layerFlusher),
    Layer.provide(
      serialization(settings.encoding === "json" ? OtlpSerialization.layerJson : OtlpSerialization.layerProtobuf)
    ),
    Layer.provide(client(settings.timeoutMillis))
  )
