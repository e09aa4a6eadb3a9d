/**
 * docs/architecture.md agrees with the code: the table of edges, and how many files each walk passes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "../..")
const read = (file: string) => fs.readFileSync(path.join(root, file), "utf8")
const page = read("docs/architecture.md")

describe("docs/architecture.md", () => {
  it("has the table of edges that the tidy test checks", () => {
    const table = /const edges[^=]*= \{(.*?)\n\}/s.exec(read("test/tidy.test.ts"))?.[1]?.replace(/" \+\s+"/g, "") ?? ""
    const checked = [...table.matchAll(/^ {2}"?([\w.]+)"?:\s+"([^"]*)"/gm)].map(([, from, to]) => [from, to])
    const documented = [...page.matchAll(/^\| `([\w.]+)` \|([^|]*)\|$/gm)].map(([, from, to = ""]) => [
      from,
      to.trim().replaceAll(", ", " ")
    ])
    assert.isAbove(checked.length, 10)
    assert.deepStrictEqual(documented, checked)
  })

  it("lists modules so that each imports only from rows above its own", () => {
    const seen = new Set<string>()
    for (const [, module = "", targets = ""] of page.matchAll(/^\| `([\w.]+)` \|([^|]*)\|$/gm)) {
      for (const target of targets.trim().split(", ")) {
        if (target !== "" && !target.endsWith(".ts")) assert.isTrue(seen.has(target), `${module} imports ${target}`)
      }
      seen.add(module)
    }
  })

  it("counts the files of each walk", () => {
    const walks = page.split(/^### /m).slice(1)
    assert.strictEqual(walks.length, 5)
    for (const walk of walks) {
      const heading = walk.slice(0, walk.indexOf("\n"))
      const files = new Set([...walk.matchAll(/\]\((\.\.\/src\/[^)]+\.ts)\)/g)].map((match) => match[1]))
      assert.match(heading, new RegExp(`\\(${files.size} files\\)$`), `it passes ${files.size} files`)
    }
  })

  it("names every module of src/ in the README's tree", () => {
    const modules = fs.readdirSync(path.join(root, "src"), { withFileTypes: true }).filter((one) => one.isDirectory())
    for (const { name } of modules) assert.include(read("README.md"), `── ${name}/ `)
  })
})
