/**
 * Stack traces of the program as it is shipped: one minified file, changed after the bundler wrote it.
 */
import { assert, describe, it } from "@effect/vitest"
import { build } from "esbuild"
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { movedMappings } from "../../.ci/sourceMap.ts"

const trace = path.resolve(import.meta.dirname, "../../bin/compute_ctl_trace.mjs")
const named = (log: string, ...map: ReadonlyArray<string>): string =>
  execFileSync(process.execPath, [trace, ...map], { input: log, encoding: "utf8" })

const thrower = `
export const outer = (depth: number): number => {
  // A comment, and names that are longer than those of the bundle.
  const innermost = (remaining: number): number => {
    if (remaining === 0) throw new Error("as it should")
    return [remaining].map((one) => innermost(one - 1))[0] ?? 0
  }
  return innermost(depth)
}
process.stdout.write(String(outer(Number("1"))))
`
/** The line and column of a text in it, as a stack trace counts them. */
const placeOf = (text: string): string => {
  const before = thrower.slice(0, thrower.indexOf(text)).split("\n")
  return `src/thrower.ts:${before.length}:${(before.at(-1)?.length ?? 0) + 1}`
}

describe("bin/compute_ctl_trace.mjs", () => {
  it("names the sources of a trace, also where something was put into the bundle's lines", async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-trace-"))
    try {
      fs.mkdirSync(path.join(folder, "src"))
      fs.writeFileSync(path.join(folder, "src/thrower.ts"), thrower)
      const outfile = path.join(folder, "dist/compute_ctl.cjs")
      const options = { bundle: true, format: "cjs", platform: "node", minify: true, sourcemap: "external" } as const
      await build({ ...options, absWorkingDir: folder, entryPoints: ["src/thrower.ts"], outfile })
      const before = fs.readFileSync(outfile, "utf8")
      const after = before
        .replace(/new Error\("[^"]*"\)/, "($&)")
        .replace("return", "/* something longer than a parenthesis */$&")
      assert.notStrictEqual(after, before)
      fs.writeFileSync(outfile, after)
      const map = JSON.parse(fs.readFileSync(`${outfile}.map`, "utf8")) as { readonly mappings: string }
      const moved = { ...map, mappings: movedMappings(map.mappings, before, after) }
      fs.writeFileSync(`${outfile}.map`, JSON.stringify(moved))

      const { stderr } = spawnSync(process.execPath, [outfile], { encoding: "utf8" })
      assert.match(stderr, /dist\/compute_ctl\.cjs:\d+:\d+/)
      const text = named(`a line of the log\n${stderr}`, `${outfile}.map`)
      assert.match(text, /^a line of the log\n/)
      for (const call of ["new Error", "innermost(one - 1)", "innermost(depth)", "outer(Number"]) {
        assert.include(text, placeOf(call))
      }
    } finally {
      fs.rmSync(folder, { recursive: true, force: true })
    }
  })

  it("finds the map of the bundle that is shipped", () => {
    const bundle = process.env["COMPUTE_CTL_TEST_PROGRAM"] ?? ""
    if (!bundle.endsWith(".cjs")) return console.info("not tested: no bundle was named")
    const text = fs.readFileSync(bundle, "utf8")
    const before = text.slice(0, text.indexOf("there is an argument that belongs to no flag"))
    const column = before.length - before.lastIndexOf("\n")
    const frame = `    at a (${bundle}:${before.split("\n").length}:${column})\n`
    assert.match(named(frame), /^ {4}at a \(src\/cli\/arguments\.ts:\d+:\d+\)\n$/)
  })

  it("says which map it cannot read", () => {
    const { status, stderr } = spawnSync(process.execPath, [trace, "/nowhere/a.map"], { encoding: "utf8", input: "" })
    assert.strictEqual(status, 1)
    assert.match(stderr, /^compute_ctl_trace: the source map \/nowhere\/a\.map cannot be read: [^\n]+\n$/)
  })
})
