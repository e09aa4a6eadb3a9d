/**
 * Children get our trace in their environment when somebody follows it, and nothing otherwise.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { runCommand } from "../../src/platform/processes.ts"
import { Spawn } from "../../src/platform/Spawn.ts"
import { telemetryOf } from "../../src/telemetry/Telemetry.ts"

const trace = "0af7651916cd43dd8448eb211c80319c"

/** What a child would find in its environment. */
const childTrace = (env: Record<string, string>) => {
  const { layer, underCaller } = telemetryOf(env, "0")
  return Effect.gen(function* () {
    const { spanId } = yield* Effect.currentSpan
    const said = yield* runCommand({ command: "env", args: [], runAs: null }, "10 seconds")
    const variable = (name: string) => said.stdout.split("\n").find((line) => line.startsWith(`${name}=`)) ?? null
    return { spanId, line: variable("TRACEPARENT"), state: variable("TRACESTATE") }
  }).pipe(Effect.withSpan("a step"), underCaller, Effect.provide(layer), Effect.provide(Spawn.layer))
}

describe("a child process", () => {
  it.live("continues the caller's trace, below the step that started it", () =>
    Effect.gen(function* () {
      const parent = `00-${trace}-b7ad6b7169203331-01`
      const { line, spanId, state } = yield* childTrace({ TRACEPARENT: parent, TRACESTATE: "vendor=1" })
      assert.deepStrictEqual([line, state], [`TRACEPARENT=00-${trace}-${spanId}-01`, "TRACESTATE=vendor=1"])
      assert.isNull((yield* childTrace({ TRACEPARENT: parent, TRACESTATE: "no\nlist" })).state)
      const silent = yield* childTrace({ TRACEPARENT: `00-${trace}-b7ad6b7169203331-00` })
      assert.strictEqual(silent.line, `TRACEPARENT=00-${trace}-${silent.spanId}-00`, "what is not sampled stays so")
    })
  )

  it.live("hears nothing when nobody follows", () =>
    Effect.gen(function* () {
      assert.isNull((yield* childTrace({})).line)
      assert.isNull((yield* childTrace({ TRACEPARENT: "garbage" })).line)
    })
  )
})
