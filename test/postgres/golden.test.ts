/**
 * Every file of every case, line by line, against the files in `golden/`. `UPDATE_GOLDEN=1` writes them anew: read
 * the difference before you keep it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"
import { startPlan } from "../../src/postgres/startPlan.ts"
import { cases } from "./cases.ts"

const folder = path.join(import.meta.dirname, "golden")
const update = process.env["UPDATE_GOLDEN"] === "1"

const render = (plan: ReturnType<typeof startPlan>): string =>
  [
    `apply the catalog: ${plan.applyCatalog}; link pg_dynshmem: ${plan.linkDynshmem}; ` +
      `override: ${plan.override ?? "none"}`,
    `signal files: ${plan.signalFiles.join(", ") || "none"}`,
    ...plan.appended.map(({ line, name }) => `appended to ${name}: ${line}`),
    ...plan.starting.map(({ content, name }) => `\n===== starting ${name}\n${content}`),
    ...plan.opening.map(({ content, name }) => `\n===== opening ${name}\n${content}`)
  ].join("\n")

describe("the plan", () => {
  for (const [name, spec, inputs] of cases) {
    it(name, () => {
      const file = path.join(folder, `${name}.txt`)
      const text = render(startPlan(spec, inputs))
      if (update) fs.writeFileSync(file, text)
      assert.strictEqual(text, fs.readFileSync(file, "utf8"))
    })
  }

  it("has no golden file without a case", () => {
    assert.deepStrictEqual(fs.readdirSync(folder).sort(), cases.map(([name]) => `${name}.txt`).sort())
  })
})
