/**
 * What OpenTelemetry's environment variables ask for (docs/reference/compute_ctl.md#environment), and the caller's
 * span. Pure; sends nothing.
 *
 * Without an endpoint nothing is sent: a compute on somebody's laptop has no collector, and no one to ask there.
 */
import * as Redacted from "effect/Redacted"

export type Environment = Readonly<Record<string, string | undefined>>

export interface OtlpSettings {
  /** Where spans are posted to. */
  readonly url: string
  readonly encoding: "protobuf" | "json"
  /** Values are often tokens. */
  readonly headers: ReadonlyMap<string, Redacted.Redacted<string>>
  readonly serviceName: string
  /** For one request, milliseconds. */
  readonly timeoutMillis: number
}

interface RemoteSpan {
  readonly traceId: string
  readonly spanId: string
  readonly sampled: boolean
}

/** `settings` `null`: tracing is off. Warnings never repeat a value. */
export const readOtlp = (
  env: Environment
): { readonly settings: OtlpSettings | null; readonly warnings: ReadonlyArray<string> } => {
  const off = (...warnings: ReadonlyArray<string>) => ({ settings: null, warnings })
  const base = env["OTEL_EXPORTER_OTLP_ENDPOINT"]?.trim()
  const traces = env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]?.trim()
  const endpoint = traces || (base ? `${base.replace(/\/+$/, "")}/v1/traces` : "")
  const exporters = (env["OTEL_TRACES_EXPORTER"] ?? "otlp").split(",").map((one) => one.trim())
  if (env["OTEL_SDK_DISABLED"]?.trim().toLowerCase() === "true" || endpoint === "" || !exporters.includes("otlp"))
    return off()
  const url = URL.parse(endpoint)
  if (url === null || !/^https?:$/.test(url.protocol)) {
    return off("traces are not sent: OTEL_EXPORTER_OTLP_ENDPOINT is no http or https URL")
  }
  if (url.username !== "" || url.password !== "")
    return off(
      "traces are not sent: OTEL_EXPORTER_OTLP_ENDPOINT has a user or a password in it; " +
        "OTEL_EXPORTER_OTLP_HEADERS is the place for what the collector asks for"
    )
  const protocol = env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] || env["OTEL_EXPORTER_OTLP_PROTOCOL"] || "http/protobuf"
  const known = protocol === "http/protobuf" || protocol === "http/json"
  const timeout = Number(env["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"] || env["OTEL_EXPORTER_OTLP_TIMEOUT"] || "10000")
  return {
    settings: {
      url: endpoint,
      encoding: protocol === "http/json" ? "json" : "protobuf",
      headers: readHeaders(env["OTEL_EXPORTER_OTLP_TRACES_HEADERS"] || env["OTEL_EXPORTER_OTLP_HEADERS"] || ""),
      serviceName: env["OTEL_SERVICE_NAME"] || "compute_ctl",
      timeoutMillis: Number.isFinite(timeout) && timeout > 0 ? Math.min(timeout, 60_000) : 10_000
    },
    warnings: known
      ? []
      : ["OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf and http/json are spoken; traces are sent as http/protobuf"]
  }
}

/** `name=value,name=value`, values in URL encoding. What is no header is left out. */
const readHeaders = (text: string): OtlpSettings["headers"] =>
  new Map(
    text.split(",").flatMap((pair) => {
      const at = pair.indexOf("=")
      const name = pair.slice(0, at).trim().toLowerCase()
      const value = at < 0 ? null : decoded(pair.slice(at + 1).trim())
      return value === null || !/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(name) || /[\0\r\n]/.test(value)
        ? []
        : [[name, Redacted.make(value, { label: name })] as const]
    })
  )

const decoded = (text: string): string | null => {
  try {
    return decodeURIComponent(text)
  } catch {
    return null
  }
}

const traceparent = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?$/

/** The caller's span, from `TRACEPARENT` (W3C trace context); `null` when there is none that can be read. */
export const readTraceparent = (text: string | undefined): RemoteSpan | null => {
  const [, version, traceId, spanId, flags] = traceparent.exec(text?.trim() ?? "") ?? []
  if (version === undefined || traceId === undefined || spanId === undefined || flags === undefined || version === "ff")
    return null
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return null
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 }
}
