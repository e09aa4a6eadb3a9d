/**
 * The Prometheus text: one status, no empty family, and no label that gets out of its quotes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { statuses } from "../../src/lifecycle/Status.ts"
import { escapeLabel, familiesOf, type Measured, printFamilies } from "../../src/plan/metricsText.ts"

const measured: Measured = {
  status: "empty",
  steps: [],
  downtime: { current: 0, total: 0 },
  totalStartupMillis: 0,
  lastActive: null
}

const unescape = (text: string): string => text.replaceAll(/\\(.)/g, (_, char: string) => char === "n" ? "\n" : char)

/** The grammar of one sample line, strictly. */
const sample = /^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*="(\\[\\n"]|[^\\\n"])*",?)*\})? (NaN|[+-]Inf|-?\d[\d.e+-]*)$/

describe("metrics text", () => {
  it("says the one status there is, by its display name", () => {
    for (const status of statuses) {
      const lines = printFamilies(familiesOf({ ...measured, status }, "tag")).split("\n").filter((line) => line.startsWith("compute_ctl_up"))
      assert.deepStrictEqual(lines, [`compute_ctl_up{build_tag="tag",status="${status.replaceAll("_", "-")}"} 1`])
    }
  })

  it("leaves out families without samples", () => {
    assert.strictEqual(printFamilies([{ name: "a", type: "gauge", help: "h", samples: [] }]), "")
    assert.notInclude(printFamilies(familiesOf(measured, "tag")), "compute_ctl_step_ms")
  })

  it("a step that passed twice is one sample", () => {
    const text = printFamilies(familiesOf({ ...measured, steps: [{ name: "apply", millis: 5 }, { name: "apply", millis: 7 }] }, "tag"))
    assert.deepStrictEqual(text.split("\n").filter((line) => line.startsWith("compute_ctl_step_ms")), ["compute_ctl_step_ms{step=\"apply\"} 7"])
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
      for (const line of printed.split("\n").filter((found) => found !== "" && !found.startsWith("#"))) assert.match(line, sample)
    }
  })
})
