/**
 * The Prometheus text: one status, no empty family, and no label that gets out of its quotes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { statuses } from "../../src/compute/transitions.ts"
import {
  escapeLabel,
  familiesOf,
  histogramOf,
  histogramSamples,
  type Measured,
  printFamilies,
  stepBounds
} from "../../src/telemetry/prometheus.ts"

const measured: Measured = {
  status: "empty",
  ready: false,
  steps: [],
  downtime: { current: 0, total: 0 },
  totalStartupMillis: 0,
  lastActive: null,
  idleExits: null,
  replica: null,
  conditions: []
}

const unescape = (text: string): string => text.replaceAll(/\\(.)/g, (_, char: string) => (char === "n" ? "\n" : char))

/** The grammar of one sample line, strictly. */
const sample =
  /^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*="(\\[\\n"]|[^\\\n"])*",?)*\})? (NaN|[+-]Inf|-?\d[\d.e+-]*)$/

describe("metrics text", () => {
  it("says the one status there is, by its display name", () => {
    for (const status of statuses) {
      const lines = printFamilies(familiesOf({ ...measured, status }, "tag"))
        .split("\n")
        .filter((line) => line.startsWith("compute_ctl_up"))
      assert.deepStrictEqual(lines, [`compute_ctl_up{build_tag="tag",status="${status.replaceAll("_", "-")}"} 1`])
    }
  })

  it("says whether the compute is ready, also when it is not", () => {
    for (const ready of [true, false])
      assert.match(
        printFamilies(familiesOf({ ...measured, ready }, "tag")),
        RegExp(`^compute_ctl_ready ${Number(ready)}$`, "m")
      )
  })

  it("leaves out families without samples", () => {
    assert.strictEqual(printFamilies([{ name: "a", type: "gauge", help: "h", samples: [] }]), "")
    assert.notInclude(printFamilies(familiesOf(measured, "tag")), "compute_ctl_step_ms")
  })

  it("a step that passed twice is one sample", () => {
    const text = printFamilies(
      familiesOf(
        {
          ...measured,
          steps: [
            { name: "apply", millis: 5 },
            { name: "apply", millis: 7 }
          ]
        },
        "tag"
      )
    )
    assert.deepStrictEqual(
      text.split("\n").filter((line) => line.startsWith("compute_ctl_step_ms")),
      ['compute_ctl_step_ms{step="apply"} 7']
    )
  })

  it("prints the values that are not numbers", () => {
    const values = [NaN, Infinity, -Infinity, 1.5e300].map((value) => ({ labels: {}, value }))
    assert.strictEqual(
      printFamilies([{ name: "a", type: "gauge", help: "two\nlines", samples: values }]),
      "# HELP a two\\nlines\n# TYPE a gauge\na NaN\na +Inf\na -Inf\na 1.5e+300\n"
    )
  })

  it.prop("a label survives the trip and stays in its quotes", { text: Schema.String }, ({ text }) => {
    for (const label of [text, `${text}"} 1\ncompute_ctl_up{x="`, `\\${text}\\`]) {
      assert.strictEqual(unescape(escapeLabel(label)), label)
      const printed = printFamilies(familiesOf({ ...measured, steps: [{ name: label, millis: 1 }] }, label))
      for (const line of printed.split("\n").filter((found) => found !== "" && !found.startsWith("#")))
        assert.match(line, sample)
    }
  })

  it("a step that passed twice is counted twice in its histogram", () => {
    const text = printFamilies(
      familiesOf(
        {
          ...measured,
          steps: [
            { name: "apply", millis: 4 },
            { name: "apply", millis: 70_000 }
          ]
        },
        "tag"
      )
    )
    for (const line of [
      '_bucket{step="apply",le="0.005"} 1',
      '_bucket{step="apply",le="60"} 1',
      '_bucket{step="apply",le="+Inf"} 2',
      '_sum{step="apply"} 70.004',
      '_count{step="apply"} 2'
    ])
      assert.include(text, `compute_ctl_step_seconds${line}\n`)
    assert.include(text, "# TYPE compute_ctl_step_seconds histogram\n")
  })

  it.prop(
    "buckets only rise, and the last holds everything",
    { values: Schema.Array(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 100 }))) },
    ({ values }) => {
      const samples = histogramSamples({}, histogramOf(stepBounds, values))
      const buckets = samples.filter(({ suffix }) => suffix === "_bucket").map(({ value }) => value)
      assert.deepStrictEqual(
        buckets,
        buckets.toSorted((a, b) => a - b)
      )
      assert.strictEqual(buckets.at(-1), values.length)
      for (const [index, bound] of stepBounds.entries())
        assert.strictEqual(buckets[index], values.filter((value) => value <= bound).length)
    }
  )
})
