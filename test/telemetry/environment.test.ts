/**
 * OpenTelemetry's environment variables: which collector they name, and whose trace is continued.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import { inspect } from "node:util"
import { readOtlp, readTraceparent } from "../../src/telemetry/environment.ts"

describe("OpenTelemetry's variables", () => {
  const canary = "canary-otlp"
  it("ask for nothing without an endpoint, or when disabled", () => {
    for (const env of [
      {},
      { OTEL_EXPORTER_OTLP_ENDPOINT: "" },
      { OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4318", OTEL_SDK_DISABLED: "TRUE" },
      { OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4318", OTEL_TRACES_EXPORTER: "none" }
    ]) {
      assert.deepStrictEqual(readOtlp(env), { settings: null, warnings: [] })
    }
    assert.deepStrictEqual(readOtlp({ OTEL_EXPORTER_OTLP_ENDPOINT: canary }).settings, null)
    assert.notInclude(JSON.stringify(readOtlp({ OTEL_EXPORTER_OTLP_ENDPOINT: canary })), canary)
  })

  it("name the collector, and keep its token to themselves", () => {
    const { settings, warnings } = readOtlp({
      OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4318/",
      OTEL_EXPORTER_OTLP_HEADERS: `Authorization=Bearer%20${canary}, x-b = 2,bad name=3,broken=%zz,x`,
      OTEL_EXPORTER_OTLP_PROTOCOL: "grpc"
    })
    assert.deepInclude(settings, {
      url: "http://c:4318/v1/traces",
      encoding: "protobuf",
      serviceName: "compute_ctl",
      timeoutMillis: 10_000
    })
    assert.deepStrictEqual(
      [...(settings?.headers ?? [])].map(([name, value]) => [name, Redacted.value(value)]),
      [
        ["authorization", `Bearer ${canary}`],
        ["x-b", "2"]
      ]
    )
    assert.notInclude(inspect(settings, { depth: 9 }) + JSON.stringify([...(settings?.headers ?? [])]), canary)
    assert.lengthOf(warnings, 1)
  })

  it("refuse a collector's URL with a user or a password in it, and do not repeat it", () => {
    for (const url of ["http://user:canary@c:4318", "https://canary@c", "http://:canary@c"])
      for (const name of ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]) {
        const { settings, warnings } = readOtlp({ [name]: url })
        assert.isNull(settings)
        assert.match(warnings.join(), /has a user or a password in it; OTEL_EXPORTER_OTLP_HEADERS/)
        assert.notInclude(warnings.join(), "canary")
      }
  })

  it("continue a trace that can be read", () => {
    const trace = "0af7651916cd43dd8448eb211c80319c"
    assert.deepStrictEqual(readTraceparent(`00-${trace}-b7ad6b7169203331-01`), {
      traceId: trace,
      spanId: "b7ad6b7169203331",
      sampled: true
    })
    assert.deepStrictEqual(readTraceparent(`00-${trace}-b7ad6b7169203331-00`)?.sampled, false)
    for (const text of [
      undefined,
      "",
      "00",
      `ff-${trace}-b7ad6b7169203331-01`,
      `00-${"0".repeat(32)}-b7ad6b7169203331-01`,
      `00-${trace}-${"0".repeat(16)}-01`
    ]) {
      assert.isNull(readTraceparent(text))
    }
  })
})
