/**
 * Postgres's records read, filters read, trace context read: total functions over any text.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { inspect } from "node:util"
import { isWanted, loosest, parseLogFilter } from "../../src/logging/filter.ts"
import { levelOfSeverity, lineJoint, parseRecord } from "../../src/postgres/logRecords.ts"
import { readOtlp, readTraceparent } from "../../src/telemetry/Telemetry.ts"

describe("a record of Postgres", () => {
  const table: ReadonlyArray<readonly [record: string, read: Partial<ReturnType<typeof parseRecord>>]> = [
    [
      "2026-01-31 12:00:00.123 GMT [4242] LOG:  database system is ready",
      { severity: "LOG", pid: 4242, user: null, database: null }
    ],
    [
      '2026-01-31 12:00:00.123 CET [42] web@shop ERROR:  relation "x" does not exist',
      { severity: "ERROR", pid: 42, user: "web", database: "shop" }
    ],
    [
      "2026-01-31 12:00:00 UTC [42-1] user=web,db=shop,app=psql FATAL:  no",
      { severity: "FATAL", pid: 42, user: "web", database: "shop" }
    ],
    ["2026-01-31 12:00:00.1 Europe/Berlin pid=77 PANIC:  no", { severity: "PANIC", pid: 77 }],
    ["FATAL:  no prefix", { severity: "FATAL", pid: null, user: null, database: null }],
    [
      "2026-01-31 12:00:00.123 GMT [1] LOG:  he said [2] a@b ERROR:  not really",
      { severity: "LOG", pid: 1, user: null, database: null }
    ],
    ["anything at all", { severity: null, pid: null }],
    ["", { severity: null }]
  ]
  it.each(table)("%s", (record, read) => assert.deepInclude(parseRecord(record), { ...read, message: record }))

  it("has its lines back", () => {
    assert.strictEqual(
      parseRecord(`2026-01-31 12:00:00 UTC [1] ERROR:  a${lineJoint}\tb${lineJoint}c`).message,
      "2026-01-31 12:00:00 UTC [1] ERROR:  a\n\tb\nc"
    )
  })

  it.prop("is kept whole, whatever it is", { text: Schema.String, pid: Schema.Int }, ({ pid, text }) => {
    for (const record of [text, `2026-01-31 12:00:00 UTC [${pid}] ${text}`, `${text} ERROR:  ${text}`]) {
      const read = parseRecord(record)
      assert.strictEqual(read.message, record.replaceAll(lineJoint, "\n"))
      assert.include(["DEBUG", "INFO", "WARN", "ERROR", "FATAL"], levelOfSeverity(read.severity))
    }
  })

  it("of a megabyte is read at once", () => {
    for (const filling of ["x", "a@", "[1", "ERROR: ", " pid=1"]) {
      const from = performance.now()
      parseRecord(filling.repeat(1_000_000 / filling.length))
      assert.isBelow(performance.now() - from, 500, filling)
    }
  })
})

describe("a log filter", () => {
  it("is read as RUST_LOG is", () => {
    const read = (text: string) => {
      const {
        filter: { level, modules },
        unread
      } = parseLogFilter(text, "info")
      return [level, Object.fromEntries(modules), unread]
    }
    assert.deepStrictEqual(read(""), ["info", {}, 0])
    assert.deepStrictEqual(read("DEBUG"), ["debug", {}, 0])
    assert.deepStrictEqual(read("warn, Monitor = debug ,hyper=off"), ["warn", { monitor: "debug", hyper: "off" }, 0])
    assert.deepStrictEqual(read("compute_tools::spec=trace"), ["info", { "compute_tools::spec": "trace" }, 0])
    assert.deepStrictEqual(read("loud,a=b,=info,[span]=info"), ["info", {}, 4])
  })

  it("asks the nearest name first, and the general level last", () => {
    const { filter } = parseLogFilter("warn,monitor=debug,applier=off,applier.lane=info", "info")
    assert.strictEqual(loosest(filter), "debug")
    const wanted = (level: "debug" | "info" | "warn" | "error", ...names: ReadonlyArray<string>) =>
      isWanted(filter, level, () => names)
    assert.isTrue(wanted("debug", "monitor"))
    assert.isFalse(wanted("debug", "keeper"))
    assert.isTrue(wanted("warn", "keeper"))
    assert.isFalse(wanted("error", "Applier.apply"))
    assert.isTrue(wanted("info", "Applier.lane", "Applier.apply"))
    assert.isFalse(wanted("error", "Applier.apply", "monitor"))
  })

  it.prop("is never more than its parts", { text: Schema.String }, ({ text }) => {
    const { filter, understood, unread } = parseLogFilter(text, "info")
    assert.strictEqual(
      understood || unread > 0,
      text.split(",").some((part) => part.trim() !== "")
    )
    assert.isTrue(isWanted(filter, "error", () => []) || filter.level === "off")
  })
})

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
