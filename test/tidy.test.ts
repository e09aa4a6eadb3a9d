/**
 * Properties of the code itself: module edges, circles, purity, size, headers, banned words.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "..")
const src = path.join(root, "src")
const typescriptIn = (folder: string): ReadonlyArray<string> =>
  fs
    .readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .sort()
const files = typescriptIn(src)
const read = (file: string) => fs.readFileSync(path.join(src, file), "utf8")
const imports = (text: string) => [...text.matchAll(/(?:from|import)\(? ?"([^"]+)"/g)].map((match) => match[1] ?? "")
const moduleOf = (file: string) => (file.includes("/") ? file.slice(0, file.indexOf("/")) : file)
const targetsOf = (file: string): ReadonlyArray<string> =>
  imports(read(file))
    .filter((target) => target.startsWith("."))
    .map((target) => path.relative(src, path.resolve(src, path.dirname(file), target)))

/** Which modules a module may import from. A new edge is a word here; an edge that nothing uses any more goes. */
const edges: Record<string, string> = {
  errors: "",
  pgwire: "errors",
  platform: "errors",
  spec: "errors pgwire",
  postgres: "errors pgwire platform spec",
  compute: "errors postgres spec",
  logging: "compute platform postgres spec",
  telemetry: "compute platform",
  controlplane: "compute errors platform spec",
  catalog: "compute errors pgwire platform postgres spec",
  storage: "compute errors pgwire platform postgres spec",
  activity: "catalog compute errors pgwire",
  autoscaling: "compute errors pgwire platform spec telemetry",
  extensions: "compute errors pgwire platform postgres spec telemetry",
  lfc: "compute errors pgwire spec",
  sidecars: "compute errors pgwire platform postgres spec telemetry",
  tls: "compute errors platform postgres spec",
  http: "activity catalog compute errors pgwire platform postgres spec telemetry",
  lifecycle:
    "activity autoscaling catalog compute errors extensions http lfc logging pgwire platform postgres sidecars spec storage telemetry tls",
  testing: "catalog compute errors lifecycle pgwire platform postgres spec storage",
  cli: "catalog controlplane errors http lifecycle logging pgwire spec version.ts",
  "version.ts": "",
  "index.ts": "compute errors lifecycle postgres spec testing",
  "main.ts": "cli compute errors http lifecycle logging postgres telemetry version.ts"
}
const banned: ReadonlyArray<readonly [RegExp, string]> = [
  [/\bDate\.now\(|new Date\(/, "use DateTime or Clock"],
  [/\bMath\.random\(/, "use Random"],
  [/(?<!\.)\b(setTimeout|setInterval)\(/, "use Effect.sleep or Schedule"],
  [/\bconsole\./, "use Effect.log"],
  [/\bas any\b|: any\b|<any>/, "say the type"],
  [/@ts-(ignore|expect-error|nocheck)/, "say the type"],
  [/\bTODO\b|\bFIXME\b|\bXXX\b/, "finish it or file it"],
  [/from "(effect|@effect\/platform-node|@effect\/sql-pg)"/, "import by file, never a barrel"]
]

describe("tidy", () => {
  for (const file of files) {
    it(file, () => {
      const text = read(file)
      const lines = text.split("\n")
      assert.isAtMost(lines.length, 400, "one idea per file")
      for (const [index, line] of lines.entries()) assert.isAtMost(line.length, 140, `${file}:${index + 1} is too wide`)
      assert.isTrue(text.replace(/^#!.*\n/, "").startsWith("/**\n * "), "open with one sentence saying what this is")
      for (const [pattern, remedy] of banned) assert.notMatch(text, pattern, remedy)
      if (file !== "main.ts") assert.notMatch(text, /\bprocess\.env\b/, "the environment arrives as a value")
    })
  }

  it("a module imports only from the modules it may know", () => {
    for (const file of files) {
      const here = moduleOf(file)
      const allowed = edges[here] ?? assert.fail(`${here} has no line in the table of edges`)
      for (const other of targetsOf(file)) {
        const there = moduleOf(other)
        assert.isTrue(here === there || allowed.split(" ").includes(there), `${file} must not know ${other}`)
      }
    }
  })

  it("no allowed edge is unused", () => {
    const used = new Set(
      files.flatMap((file) => targetsOf(file).map((other) => `${moduleOf(file)} ${moduleOf(other)}`))
    )
    for (const [here, allowed] of Object.entries(edges)) {
      for (const there of allowed.split(" ").filter((name) => name !== "")) {
        assert.isTrue(used.has(`${here} ${there}`), `nothing in ${here} imports from ${there}`)
      }
    }
  })

  it("rooms are named for what they keep", () => {
    for (const file of files)
      assert.notMatch(file, /(^|\/)(utils?|common|helpers?|misc|services?|layers?|types)(\/|\.ts$)/i)
  })

  it("no test is skipped or focused", () => {
    const tests = typescriptIn(path.join(root, "test")).filter((file) => !file.endsWith("tidy.test.ts"))
    for (const file of tests) {
      const text = fs.readFileSync(path.join(root, "test", file), "utf8")
      assert.notMatch(text, /\.(skip|only|todo|skipIf|runIf)\(|\bskip: true/, file)
    }
  })
})
