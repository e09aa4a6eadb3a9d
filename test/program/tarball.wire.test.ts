/**
 * What `npm pack` ships has what its pages and its exports name.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
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

  it("asks for the Node that the program needs; a checkout asks for npm's alone", () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-tarball-"))
    try {
      for (const file of ["package.json", "bin/compute_ctl", ".ci/engines.ts"]) {
        fs.cpSync(path.join(root, file), path.join(folder, file))
      }
      const before = fs.readFileSync(path.join(folder, "package.json"), "utf8")
      const built = "npm run build && test -f dist/lib/index.js && "
      assert.include(before, `"prepack": "${built}`)
      fs.writeFileSync(path.join(folder, "package.json"), before.replace(built, ""))
      const env = { ...process.env, PATH: `${path.dirname(process.execPath)}:${process.env["PATH"]}` }
      execFileSync("npm", ["pack", "--silent"], { cwd: folder, env, stdio: "ignore" })
      const file = fs.readdirSync(folder).find((name) => name.endsWith(".tgz")) ?? assert.fail("no tarball")
      const inside = execFileSync("tar", ["-xzOf", path.join(folder, file), "package/package.json"], {
        encoding: "utf8"
      })
      const needed = /^needed="(.+)"$/m.exec(fs.readFileSync(path.join(root, "bin/compute_ctl"), "utf8"))?.[1]
      assert.include(inside, `"engines": {\n    "node": ">=${needed}"\n  }`)
      assert.strictEqual(fs.readFileSync(path.join(folder, "package.json"), "utf8"), before.replace(built, ""))
      assert.include(before, `"engines": {\n    "node": ">=20"\n  }`)
    } finally {
      fs.rmSync(folder, { recursive: true, force: true })
    }
  })

  it("is built of packages of which none asks npm for a Node: `npm run lock` mends it after an install", () => {
    const { packages } = JSON.parse(fs.readFileSync(path.join(root, "package-lock.json"), "utf8")) as {
      readonly packages: Readonly<Record<string, { readonly engines?: Readonly<Record<string, string>> }>>
    }
    const asking = Object.entries(packages).filter(([, { engines }]) => engines !== undefined)
    assert.deepStrictEqual(
      asking.map(([name, { engines }]) => `${name} ${engines?.["node"]}`),
      [" >=20"]
    )
  })
})
