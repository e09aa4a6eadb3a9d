/**
 * A real start, traced: to a real collector, under the caller's span, and with a collector that hangs.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { launch, localArguments, place } from "../program/harness.ts"
import { eventually } from "../support/waiting.ts"
import { collector } from "./collector.ts"

const spec = {
  format_version: 1,
  suspend_timeout_seconds: -1,
  project_id: "prj-1",
  endpoint_id: "ep-1",
  cluster: {
    roles: [{ name: "web", encrypted_password: "0123456789abcdef0123456789abcdef" }],
    databases: [{ name: "shop", owner: "web" }]
  }
}
const trace = "0af7651916cd43dd8448eb211c80319c"
const caller = "b7ad6b7169203331"

describe("the trace of a start", () => {
  it.live(
    "is one, under the caller's span, with every step and no SQL, and is sent while the compute runs",
    () =>
      Effect.gen(function* () {
        const at = yield* place
        const { raw, spans } = yield* Effect.gen(function* () {
          const sink = yield* collector()
          const program = yield* launch(localArguments(at, spec), at.httpPort, {
            OTEL_EXPORTER_OTLP_ENDPOINT: sink.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
            TRACEPARENT: `00-${trace}-${caller}-01`,
            TRACESTATE: "vendor=1"
          })
          yield* Effect.promise(() => program.reaches("running"))
          const find = (name: string) => sink.spans().find((span) => span.name === name)
          yield* eventually(
            "the start's spans, sent while it runs",
            () => find("Lifecycle.start") !== undefined,
            program.output
          )

          assert.match(
            program.output(),
            new RegExp(
              `start Postgres: \\d+ ms {endpoint_id=ep-1 project_id=prj-1 trace_id=${trace} span_id=[0-9a-f]{16}}`
            )
          )

          program.signal("SIGTERM")
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
          return sink
        })
        const all = spans()
        const start = all.find(({ name }) => name === "Lifecycle.start") ?? assert.fail("no start")
        for (const step of [
          "claim the timeline",
          "build PGDATA",
          "start Postgres",
          "apply the spec",
          "secure the storage"
        ]) {
          const span = all.find(({ name }) => name === step) ?? assert.fail(`no span: ${step}`)
          assert.strictEqual(span.traceId, trace, step)
          assert.strictEqual(span.parentSpanId, start.spanId, step)
        }
        const lanes = all.filter(({ name }) => name === "Applier.lane")
        assert.isAtLeast(lanes.length, 1)
        for (const lane of lanes) {
          assert.strictEqual(lane.traceId, trace)
          assert.includeMembers(
            lane.attributes.map(({ key }) => key),
            ["compute.phases", "compute.operations"]
          )
        }
        assert.strictEqual(
          all.find(({ name }) => name === "Applier.applySpec")?.parentSpanId,
          all.find(({ name }) => name === "Applier.apply")?.spanId
        )
        const known = new Set([caller, ...all.map(({ spanId }) => spanId)])
        const orphans = all.filter((span) => span.traceId === trace && !known.has(span.parentSpanId ?? ""))
        assert.deepStrictEqual(
          orphans.map(({ name }) => name),
          [],
          "at the end nothing is missing above any span"
        )
        assert.notMatch(raw(), /\b(CREATE|ALTER|GRANT|SELECT) [A-Z]/)
        assert.notInclude(raw(), "0123456789abcdef0123456789abcdef")
      }),
    120_000
  )

  it.live(
    "a collector that hangs does not keep the program from its end",
    () =>
      Effect.gen(function* () {
        const at = yield* place
        const sink = yield* collector(null)
        const program = yield* launch(localArguments(at, spec), at.httpPort, {
          OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${sink.endpoint}/v1/traces`
        })
        yield* Effect.promise(() => program.reaches("running"))
        program.signal("SIGTERM")
        yield* Effect.promise(() => program.prints(/to terminated/))
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
        assert.include(sink.raw(), '"content-type":"application/x-protobuf"')
      }),
    120_000
  )
})
