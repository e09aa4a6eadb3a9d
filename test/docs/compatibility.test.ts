/**
 * docs/compatibility.md names what the program has: flags, routes, metrics, log lines, exit codes; no more and no less.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"
import { flags } from "../../src/cli/flags.ts"
import { failed, usageError } from "../../src/errors/policy.ts"
import { wholeApi } from "../../src/http/Api.ts"
import { endpointsOf } from "../../src/http/routes.ts"
import { metricNames, vmMetrics } from "../support/metricNames.ts"

const root = path.resolve(import.meta.dirname, "../..")
const sources = fs
  .readdirSync(path.join(root, "src"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts"))
  .map((file) => fs.readFileSync(path.join(root, "src", file), "utf8"))
const page = fs.readFileSync(path.join(root, "docs/compatibility.md"), "utf8")

/** The rows of a section's tables, without their heads. A bar within a cell is written with a backslash. */
const rowsOf = (section: string): ReadonlyArray<ReadonlyArray<string>> => {
  const text = page.split(/^## /m).find((one) => one.startsWith(`${section}\n`)) ?? assert.fail(`no ${section}`)
  const tables = text.split("\n\n").filter((paragraph) => paragraph.startsWith("| "))
  return tables.flatMap((table) =>
    table
      .trim()
      .split("\n")
      .slice(2)
      .map((row) =>
        row
          .slice(1, -1)
          .split(/(?<!\\)\|/)
          .map((cell) => cell.trim())
      )
  )
}
const nameOf = ([cell = ""]: ReadonlyArray<string>): string => cell.replaceAll("`", "")

const absent = "–"

describe("docs/compatibility.md", () => {
  it("has every flag, and gives each to the version that has it", () => {
    const documented = rowsOf("Flags")
    assert.deepStrictEqual(
      documented.map(nameOf),
      flags.map(({ name, short, value }) => {
        const spelled = `${short === null ? "" : `-${short}, `}--${name}`
        return value === null ? spelled : `${spelled} ${value}`
      })
    )
    for (const [index, [name, in2024, inHead, here]] of documented.entries()) {
      const generation = flags[index]?.generation ?? assert.fail(`${name} is no flag`)
      if (generation === "ours") assert.match(here ?? "", /^ours/, name)
      else if (generation !== "head") assert.notStrictEqual(in2024, absent, name)
      else assert.strictEqual(in2024, absent, name)
      if (generation === "both" || generation === "head") assert.notStrictEqual(inHead, absent, name)
    }
  })

  it("has every route", () => {
    assert.sameMembers(
      rowsOf("Routes").map(nameOf),
      endpointsOf(wholeApi()).map(({ method, path }) => `${method} ${path}`)
    )
  })

  it("has every metric", () => {
    const documented = rowsOf("Metrics")
      .filter((row) => row.at(-1) !== absent)
      .map(nameOf)
    const wildcard = `${vmMetrics}*`
    assert.sameMembers(
      documented.filter((name) => name !== wildcard),
      [...metricNames()]
    )
    assert.include(documented, wildcard)
  })

  it("quotes log lines that the program writes", () => {
    for (const row of rowsOf("Log lines")) {
      // What is in capitals differs from line to line.
      for (const part of nameOf(row).split(/…|\b[A-Z]+\b(?!:|_|\/)/)) {
        const words = part.trim()
        if (words.length > 2)
          assert.isTrue(
            sources.some((text) => text.includes(words)),
            `nothing writes "${words}"`
          )
      }
    }
  })

  it("has every exit code that the program can choose", () => {
    const documented = rowsOf("Exit codes").map(nameOf)
    for (const code of [0, failed, usageError]) assert.include(documented, String(code))
  })

  it("says something in every cell", () => {
    for (const section of ["Flags", "Routes", "Log lines", "Metrics", "Exit codes"]) {
      const rows = rowsOf(section)
      assert.isAbove(rows.length, 3, section)
      for (const row of rows) for (const cell of row) assert.notStrictEqual(cell, "", row.join(" | "))
    }
  })
})
