/**
 * Counting extensions over databases, in the words of both generations, and how often.
 */
import { assert, describe, it } from "@effect/vitest"
import { count, inventoryBody, inventoryFamily } from "../../src/extensions/countExtensions.ts"
import { inventoryInterval, inventoryPeriod } from "../../src/extensions/InstalledExtensions.ts"
import { printFamilies } from "../../src/telemetry/prometheus.ts"

const installed = (name: string, version: string, ownedBySuperuser = true) => ({ name, version, ownedBySuperuser })
const counts = count([
  [installed("plpgsql", "1.0"), installed("b", "2")],
  [installed("plpgsql", "1.0"), installed("b", "1"), installed("a", "1", false)],
  [installed("plpgsql", "1.0"), installed("b", "1", false)]
])

describe("an inventory", () => {
  it("counts versions and owners separately at head", () => {
    assert.deepStrictEqual(
      counts.map((one) => [one.name, one.version, one.ownedBySuperuser, one.databases]),
      [
        ["a", "1", false, 1],
        ["b", "1", true, 1],
        ["b", "1", false, 1],
        ["b", "2", true, 1],
        ["plpgsql", "1.0", true, 3]
      ]
    )
  })

  it("lists an extension once with its versions in 2024", () => {
    assert.deepStrictEqual(inventoryBody(counts, "2024").extensions[1], {
      extname: "b",
      versions: ["1", "2"],
      n_databases: 3
    })
  })

  it("has no two samples with the same labels", () => {
    for (const apiVersion of ["2024", "head"] as const) {
      const lines = printFamilies([inventoryFamily(counts, apiVersion)])
        .split("\n")
        .map((line) => line.replace(/ \d+$/, ""))
      assert.strictEqual(new Set(lines).size, lines.length)
    }
    assert.include(
      printFamilies([inventoryFamily(counts, "2024")]),
      'installed_extensions{extension_name="b",version="1"} 2'
    )
  })

  it("is empty text when nothing is installed", () => {
    assert.strictEqual(printFamilies([inventoryFamily(count([]), "head")]), "")
  })
})

describe("the period", () => {
  it("is twice the interval, which the applied spec decides, and never shrinks", () => {
    assert.strictEqual(inventoryInterval(10, null), 10)
    assert.strictEqual(inventoryInterval(10, 300), 300)
    assert.strictEqual(inventoryInterval(10, 0), 3600)
    assert.strictEqual(inventoryInterval(10, -1), 3600)
    assert.strictEqual(inventoryPeriod(0, 300), 600)
    assert.strictEqual(inventoryPeriod(7200, 300), 7200)
  })
})
