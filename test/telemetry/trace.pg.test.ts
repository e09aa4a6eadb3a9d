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
const another = { trace: "4bf92f3577b34da6a3ce929d0e0e4736", span: "00f067aa0ba902b7" }

describe("the trace of a start", () => {
  it.live(
    "is one, under the caller's span, with every step and no SQL, sent while it runs; a later spec is its sender's",
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

          const roles = [...spec.cluster.roles, { name: "later" }]
          const configured = yield* Effect.promise(() =>
            program.http("/configure", {
              method: "POST",
              headers: {
                "content-type": "application/json",
                traceparent: `00-${another.trace}-${another.span}-01`,
                tracestate: "congo=t61rcWkgMzE"
              },
              body: JSON.stringify({ spec: { ...spec, cluster: { ...spec.cluster, roles } } })
            })
          )
          assert.strictEqual(configured.status, 200, configured.text)
          assert.match(
            program.output(),
            new RegExp(`finished reconfiguration of compute node.*trace_id=${another.trace} span_id=[0-9a-f]{16}}`)
          )
          yield* Effect.promise(() => program.http("/operations/unknown"))
          program.signal("SIGTERM")
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
          assert.notMatch(program.output(), new RegExp(`(received 15|to terminated).*trace_id=${trace}`))
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
        for (const [about, state] of [
          [trace, "vendor=1"],
          [another.trace, "congo=t61rcWkgMzE"]
        ] as const)
          for (const span of all.filter(({ traceId }) => traceId === about)) {
            assert.strictEqual(span.traceState, state, span.name)
            assert.notInclude(
              span.attributes.map(({ key }) => key),
              "w3c.tracestate"
            )
          }
        const asked = all.find(({ name }) => name === "POST /configure") ?? assert.fail("no span of the request")
        assert.deepStrictEqual([asked.traceId, asked.parentSpanId], [another.trace, another.span])
        const work = all.filter(({ traceId }) => traceId === another.trace).map(({ name }) => name)
        assert.includeMembers(work, ["Lifecycle.configure", "Reconfigure.reconfigure", "Applier.apply"])
        assert.notInclude(work, "Lifecycle.start")
        const unasked = all.find(({ name }) => name === "GET /operations/:id") ?? assert.fail("no span of a route")
        assert.isUndefined(unasked.parentSpanId, "who has no trace gets one")
        assert.isFalse(all.some(({ name, traceId }) => traceId === trace && /^[A-Z]+ \//.test(name)))

        const lanes = all.filter(({ name, traceId }) => name === "Applier.lane" && traceId === trace)
        assert.isAtLeast(lanes.length, 1)
        for (const lane of lanes) {
          assert.strictEqual(lane.traceId, trace)
          assert.includeMembers(
            lane.attributes.map(({ key }) => key),
            ["compute.phases", "compute.operations"]
          )
        }
        const ofStart = all.filter(({ traceId }) => traceId === trace)
        assert.strictEqual(
          ofStart.find(({ name }) => name === "Applier.applySpec")?.parentSpanId,
          ofStart.find(({ name }) => name === "Applier.apply")?.spanId
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
