/**
 * Who has no collector pays for none: the exporter's modules are not even loaded.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "../..")

/** Builds the layer in a process of its own and prints which modules of observability it had to load. */
const loaded = (env: Record<string, string>): ReadonlyArray<string> => {
  const script = `
    import { registerHooks } from "node:module"
    const seen = []
    registerHooks({ load: (url, context, next) => { seen.push(url); return next(url, context) } })
    const Effect = await import("effect/Effect")
    const { telemetryOf } = await import("./src/telemetry/Telemetry.ts")
    const { layer, underCaller } = telemetryOf(process.env, "0")
    await Effect.runPromise(Effect.provide(underCaller(Effect.void), layer))
    process.stdout.write(JSON.stringify(seen.filter((url) => /observability|telemetry\\/otlp/.test(url))))
    process.exit(0)
  `
  const said = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
    cwd: root,
    env: { PATH: process.env["PATH"], ...env },
    encoding: "utf8"
  })
  return JSON.parse(said) as ReadonlyArray<string>
}

describe("the exporter", () => {
  it("is not loaded without a collector, nor when disabled, nor for a caller's span alone", () => {
    const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:9" }
    assert.deepStrictEqual(loaded({}), [])
    assert.deepStrictEqual(loaded({ ...endpoint, OTEL_SDK_DISABLED: "true" }), [])
    assert.deepStrictEqual(loaded({ TRACEPARENT: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" }), [])
    assert.include(loaded(endpoint).join(), "OtlpTracer")
  }, 60_000)
})
