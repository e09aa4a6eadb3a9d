/**
 * The drawing of a compute's life has what the table of changes has: no row less, and none of its own.
 */
import { assert, describe, it } from "@effect/vitest"
import { statuses, table } from "../../src/compute/transitions.ts"
import { diagramSvg } from "../../src/http/page/diagram.ts"

const attributes = (svg: string, pattern: RegExp) => [...svg.matchAll(pattern)].map(([, ...groups]) => groups)

for (const shape of ["wide", "tall"] as const) {
  describe(`the ${shape} drawing`, () => {
    const svg = diagramSvg(shape, "a life & <its> end")
    const edges = attributes(svg, /data-from="([^"]+)" data-to="([^"]+)"/g)

    it("has every change of the table on exactly one edge, and no edge for what is no row", () => {
      const drawn = edges.flatMap(([from = "", to]) => from.split(" ").map((one) => `${one} ${to}`))
      const changes = new Set(table.map(({ from, to }) => `${from} ${to}`))
      assert.deepStrictEqual(drawn.toSorted(), [...changes].toSorted())
    })

    it("has each status once", () => {
      assert.deepStrictEqual(
        attributes(svg, /class="node" data-status="([^"]+)"/g)
          .flat()
          .toSorted(),
        [...statuses].toSorted()
      )
    })

    it("says of each edge why it is taken", () => {
      for (const { because } of table) assert.include(svg, because)
    })

    it("draws one edge for all that can be asked to end, and one for all that can fail", () => {
      const ofFrames = edges.filter(([from = ""]) => from.includes(" ")).map(([, to]) => to)
      assert.deepStrictEqual(ofFrames.toSorted(), [
        "failed",
        "termination_pending_fast",
        "termination_pending_immediate"
      ])
    })

    it("stays within its frame, lays no node over another, and escapes its label", () => {
      const [[width = 0, height = 0] = []] = attributes(svg, /viewBox="0 0 ([\d.]+) ([\d.]+)"/g).map((one) =>
        one.map(Number)
      )
      const nodes = attributes(
        svg,
        /data-status="[^"]+"><rect x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"/g
      ).map((one) => one.map(Number))
      for (const [index, [x = NaN, y = NaN, w = NaN, h = NaN]] of nodes.entries()) {
        assert.isTrue(x >= 0 && y >= 0 && x + w <= width && y + h <= height)
        for (const [a = NaN, b = NaN, c = NaN, d = NaN] of nodes.slice(index + 1))
          assert.isTrue(x + w < a || a + c < x || y + h < b || b + d < y)
      }
      const points = attributes(svg, / d="M([^"z]+)z?"/g)
        .flatMap(([path = ""]) => path.split("L"))
        .map((point) => point.split(" ").map(Number))
      for (const [x = NaN, y = NaN] of points) assert.isTrue(x >= 0 && x <= width && y >= 0 && y <= height)
      assert.include(svg, 'aria-label="a life &amp; &lt;its&gt; end"')
    })
  })
}
