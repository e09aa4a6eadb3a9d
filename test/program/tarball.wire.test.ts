/**
 * What `npm pack` ships has what its pages and its exports name.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "../..")
const packed = JSON.parse(
  execFileSync("npm", ["pack", "--dry-run", "--ignore-scripts", "--json"], {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"]
  })
) as unknown
/** npm answers a list, or a map by name, as its version is. */
const [tarball] = Object.values(packed as Record<string, { readonly files: ReadonlyArray<{ readonly path: string }> }>)
const files = new Set(tarball?.files.map((file) => file.path))
const isShipped = (name: string): boolean =>
  files.has(name) || [...files].some((file) => file.startsWith(`${name.replace(/\/$/, "")}/`))

/** The files that a page links to, from the root. */
const linksOf = (page: string): ReadonlyArray<string> =>
  [...fs.readFileSync(path.join(root, page), "utf8").matchAll(/\]\(([^)\s#]+)(?:#[^)]*)?\)/g)]
    .map(([, link = ""]) => link)
    .filter((link) => !/^[a-z]+:/.test(link))
    .map((link) => path.join(path.dirname(page), link))

describe("the tarball of npm", () => {
  it("has every file that README and the pages of docs and packaging link to, but for tests", () => {
    const pages = [...files].filter((file) => /^(README|docs\/[^/]*|packaging\/README)\.md$/.test(file))
    assert.include(pages, "README.md")
    assert.include(pages, "docs/operations.md")
    const missing = pages.flatMap((page) => linksOf(page).filter((link) => !isShipped(link)))
    assert.deepStrictEqual(
      missing.filter((link) => !/^test\/.*\.(test\.)?ts$/.test(link)),
      []
    )
  })

  it("has the spec of npm start, the sources that its source maps name, and the source of each export", () => {
    const { bin, exports, scripts } = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as {
      readonly bin: Readonly<Record<string, string>>
      readonly scripts: { readonly start: string }
      readonly exports: Readonly<Record<string, { readonly source: string; readonly types: string; default: string }>>
    }
    assert.isTrue(isShipped(/-S (\S+)/.exec(scripts.start)?.[1] ?? ""))
    for (const file of Object.values(bin)) assert.isTrue(isShipped(file), file)
    for (const { default: code, source, types } of Object.values(exports)) {
      const name = /^\.\/src\/(.*)\.ts$/.exec(source)?.[1] ?? assert.fail(source)
      assert.isTrue(isShipped(`src/${name}.ts`), source)
      assert.deepStrictEqual([types, code], [`./dist/lib/${name}.d.ts`, `./dist/lib/${name}.js`])
    }
    const options = fs.readFileSync(path.join(root, "tsconfig.lib.json"), "utf8")
    for (const map of ["sourceMap", "declarationMap"]) assert.match(options, new RegExp(`"${map}": true`))
  })
})
