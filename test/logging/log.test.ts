/**
 * The loggers over a sink: one line each, ids and trace when known, and a cause on its line.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { parseLogFilter } from "../../src/logging/filter.ts"
import {
  commandLog,
  idsOf,
  type LogFormat,
  logLayer,
  logNameActor,
  newLogContext,
  postgresRecordsAsJson
} from "../../src/logging/Log.ts"
import { Tracing } from "../../src/platform/tracing.ts"
import { emptySpec } from "../support/specs.ts"

const logged = (format: LogFormat, filter = "info") => {
  const lines: Array<string> = []
  const context = newLogContext()
  const layer = logLayer({
    format,
    filter: parseLogFilter(filter, "info").filter,
    sink: (line) => void lines.push(line),
    context
  })
  return { lines, context, layer }
}

const caller = Tracer.externalSpan({ traceId: "0af7651916cd43dd8448eb211c80319c", spanId: "b7ad6b7169203331" })

describe("the log", () => {
  it.effect("of a command that comes to its end is sentences, a line each, for who typed it", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const layer = commandLog((text) => void lines.push(text))
      yield* Effect.logWarning("ending postgres (pid 7),\nleft behind").pipe(Effect.provide(layer))
      assert.deepStrictEqual(lines, ["ending postgres (pid 7),\\nleft behind\n"])
    })
  )

  it.effect("has no password of a URL, neither of a message nor of a cause", () =>
    Effect.gen(function* () {
      for (const format of ["text", "json"] as const) {
        const { layer, lines } = logged(format)
        const cause = Cause.die(new Error("fetch of https://canary@store/x failed"))
        yield* Effect.logError("asked http://me:canary@cp:80/spec", cause).pipe(Effect.provide(layer))
        assert.notInclude(lines.join(""), "canary")
        assert.include(lines.join(""), "http://me:***@cp:80/spec")
        assert.include(lines.join(""), "https://***@store/x")
      }
    })
  )

  it.effect("says who we are and whose trace it is, once known", () =>
    Effect.gen(function* () {
      for (const format of ["text", "json"] as const) {
        const { context, layer, lines } = logged(format)
        yield* Effect.logInfo("before").pipe(Effect.provide(layer))
        context.ids = idsOf({ ...emptySpec, endpointId: "ep-1", operationId: "op-1" })
        yield* Effect.logWarning("after").pipe(
          Effect.annotateLogs({ actor: "monitor", endpoint_id: "forged", level: "forged" }),
          Effect.provideService(Tracer.ParentSpan, caller),
          Effect.provide([layer, Layer.succeed(Tracing, true)])
        )
        if (format === "json") {
          assert.deepStrictEqual(JSON.parse(lines[0] ?? ""), {
            timestamp: "1970-01-01T00:00:00.000Z",
            level: "INFO",
            message: "before"
          })
          assert.deepStrictEqual(JSON.parse(lines[1] ?? ""), {
            actor: "monitor",
            endpoint_id: "ep-1",
            operation_id: "op-1",
            trace_id: caller.traceId,
            span_id: caller.spanId,
            timestamp: "1970-01-01T00:00:00.000Z",
            level: "WARN",
            message: "after"
          })
        } else {
          assert.strictEqual(lines[0], "1970-01-01T00:00:00.000Z  INFO before\n")
          assert.match(
            lines[1] ?? "",
            /^1970-01-01T00:00:00\S+ {2}WARN after \{actor=monitor endpoint_id=ep-1 .+trace_id=0af.+ span_id=b7.+\}$/m
          )
        }
      }
    })
  )

  it.effect.prop("is one line per line, whatever is in it", { text: Schema.String }, ({ text }) =>
    Effect.gen(function* () {
      for (const format of ["text", "json"] as const) {
        const { layer, lines } = logged(format)
        yield* Effect.logInfo(`${text}\r\n2026-01-31 12:00:00 LOG: forged`).pipe(
          Effect.annotateLogs("who", `${text}\n`),
          Effect.provide(layer)
        )
        assert.lengthOf(lines, 1)
        assert.strictEqual(lines[0]?.indexOf("\n"), (lines[0]?.length ?? 0) - 1)
      }
    })
  )

  it.effect("lets through what the filter wants, by actor and by span", () =>
    Effect.gen(function* () {
      const { layer, lines } = logged("text", "warn,monitor=debug,applier=off")
      yield* Effect.all([
        Effect.logInfo("no"),
        Effect.logError("yes 1"),
        Effect.annotateLogs(Effect.logDebug("yes 2"), "actor", "monitor"),
        Effect.annotateLogs(Effect.logTrace("no"), "actor", "monitor"),
        Effect.withSpan(Effect.withSpan(Effect.logError("no"), "start Postgres"), "Applier.apply")
      ]).pipe(Effect.provide(layer))
      assert.deepStrictEqual(
        lines.map((line) => /yes \d|no/.exec(line)?.[0]),
        ["yes 1", "yes 2"]
      )
    })
  )

  it.effect("follows the spec", () =>
    Effect.gen(function* () {
      const { context } = logged("json")
      const state = yield* ComputeState
      yield* Effect.forkChild(logNameActor(context).run, { startImmediately: true })
      yield* state.note({ spec: { ...emptySpec, endpointId: "ep-1" } })
      yield* Stream.runHead(state.changes)
      yield* Effect.yieldNow
      assert.deepStrictEqual(context.ids, { endpoint_id: "ep-1" })
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect.prop(
    "has Postgres's records as objects, all of them and whole",
    { texts: Schema.Array(Schema.String) },
    ({ texts }) =>
      Effect.gen(function* () {
        const records = texts.map((text) => text.replaceAll("\n", ""))
        let said = ""
        yield* postgresRecordsAsJson(newLogContext(), (text) => Effect.sync(() => void (said += text)))(
          records.map((record) => `PG:${record}\n`).join("")
        )
        const read = said
          .split("\n")
          .filter((line) => line !== "")
          .map((line) => (JSON.parse(line) as { message: string }).message)
        assert.deepStrictEqual(
          read,
          records.map((record) => record.replaceAll("\u200b", "\n"))
        )
      })
  )
})
