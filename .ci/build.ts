/**
 * Builds what is shipped: one CommonJS file that needs nothing but Node (and, for gRPC and for fakes, those beside it),
 * a snapshot of it for the Node that builds, and the library with its declarations.
 *
 * Everything is built beside `dist/` and moved into place at the end, so that a running compute never meets half
 * a bundle. Why one file, and why CommonJS: docs/adr/0010.
 */
import { build } from "esbuild"
import * as fs from "node:fs"
import * as path from "node:path"
import { apart, buildApart } from "./apart.ts"
import { eager } from "./eager.ts"
import { hoist } from "./hoist.ts"
import { buildLibrary } from "./library.ts"
import { lazily, platformHttp } from "./lazy.ts"
import { texts } from "./texts.ts"
import { billOf, licencesOf } from "./licences.ts"
import { requireText } from "./require.ts"
import { makeSnapshot } from "./snapshot.ts"
import { movedMappings } from "./sourceMap.ts"
import { train } from "./train.ts"

const root = path.resolve(import.meta.dirname, "..")
const dist = path.join(root, "dist")
const fresh = path.join(root, "dist.new")

/** Packages that stay outside of the one file, because only a compute with a gRPC pageserver needs them. */
const separate = { "@grpc/grpc-js": "grpc.cjs" } as const

/** Modules of ours that are files of their own, by the words with which others import them: no compute needs fakes. */
const fakes = "fakes.cjs"
const own = { "./testing/fakes/fakes.ts": fakes, "./fakes/fakes.ts": fakes }

/** What few starts need, or none before its first answer. */
const lazy = [
  "async_hooks",
  "crypto",
  "zlib",
  "http",
  "https",
  "http2",
  "net",
  "tls",
  "tty",
  "readline",
  "child_process",
  "ws",
  "tar/parse",
  "protobufjs/minimal.js",
  ...Object.keys(separate)
]

/** Answers what went into it. */
const bundle = async (entry: string, name: string): Promise<ReadonlyArray<string>> => {
  const outfile = path.join(fresh, name)
  const result = await build({
    absWorkingDir: root,
    entryPoints: [entry],
    outfile,
    bundle: true,
    platform: "node",
    format: "cjs",
    target: "node22",
    // A snapshot has no `import()`.
    supported: { "dynamic-import": false },
    minify: true,
    treeShaking: true,
    conditions: ["source"],
    // Which build it is, for whoever says so (src/version.ts).
    define: process.env["BUILD_TAG"] ? { BUILD_TAG: JSON.stringify(process.env["BUILD_TAG"]) } : {},
    legalComments: "eof",
    // Beside it, for bin/compute_ctl_trace.mjs: a start does not read it.
    ...(name === fakes ? {} : { sourcemap: "external", sourcesContent: false }),
    metafile: true,
    logLevel: "warning",
    plugins: [hoist(path.join(root, "src"), own), texts, lazily(lazy), apart({ ...separate, ...own }), platformHttp],
    // What the program loads finds what lies beside it by itself.
    ...(name === fakes ? {} : { banner: { js: requireText } })
  })
  change(outfile, shareNamespaces)
  if (/\bimport\(/.test(fs.readFileSync(outfile, "utf8"))) throw new Error("the bundle has an import()")
  if (result.warnings.length > 0) throw new Error("the bundle has warnings")
  const inputs = Object.keys(result.metafile.inputs)
  const barrel = inputs.find((input) => /node_modules\/(effect|@effect\/[^/]+)\/(dist|src)\/index\./.test(input))
  if (barrel !== undefined) throw new Error(`a barrel was bundled: ${barrel}`)
  console.log(`dist/${name}: ${Math.round(fs.statSync(outfile).size / 1024)} KiB from ${inputs.length} files`)
  return inputs
}

/** Puts something into a bundle's lines, and keeps its source map true. */
const change = (file: string, how: (text: string) => string): void => {
  const before = fs.readFileSync(file, "utf8")
  const after = how(before)
  fs.writeFileSync(file, after)
  if (!fs.existsSync(`${file}.map`)) return
  const map = JSON.parse(fs.readFileSync(`${file}.map`, "utf8")) as { readonly mappings: string }
  fs.writeFileSync(`${file}.map`, JSON.stringify({ ...map, mappings: movedMappings(map.mappings, before, after) }))
}

const program = async (): Promise<void> => {
  const inputs = [
    ...(await bundle("src/main.ts", "compute_ctl.cjs")),
    ...(await bundle("src/testing/fakes/fakes.ts", fakes))
  ]
  const more = [...(await buildApart(root, fresh, separate)), ...(await library())]
  const all = [...inputs, ...more].map((input) => path.resolve(root, input))
  fs.writeFileSync(path.join(fresh, "third-party-licences.txt"), licencesOf(all))
  fs.writeFileSync(path.join(fresh, "bill-of-materials.json"), billOf(all))
}

/**
 * Each file that imports a CommonJS module or a builtin would get an object of getters of its own, ten thousand getters
 * in all: one for each module does.
 */
const shareNamespaces = (text: string): string => {
  // name = (module, mode, target) => (target = module != null ? create(prototype(module)) : {}, copy(…, module))
  const copied = String.raw`[\w$]+\(\4\|\|!\3\|\|!\3\.__esModule\?[^?]*?:\5,\3\)`
  const made = String.raw`\(\5=\3!=null\?(?:[\w$]+\()+\3\)\):\{\},${copied}\)`
  const helper = new RegExp(String.raw`([\w$]+)=(\((\w),(\w),(\w)\)=>${made})`, "g")
  const found = [...text.matchAll(helper)]
  if (found.length !== 1) throw new Error("the bundler's way of importing a CommonJS module is not what it was")
  const shared = "((make,made=new Map)=>(e,t)=>{let k=made.get(e)??made.set(e,[]).get(e);return k[t?1:0]??=make(e,t)})"
  return text.replace(helper, (_, name: string, make: string) => `${name}=${shared}(${make})`)
}

/** What a start runs is compiled with the bundle; see `eager.ts`. */
const trained = async (file: string): Promise<void> => {
  const ran = await train(file)
  if (typeof ran === "string") return console.log(`dist/compute_ctl.cjs is not trained: no compute runs here (${ran})`)
  let marked = 0
  change(file, (before) => {
    const after = eager(before, ran)
    marked = after.marked
    return after.text
  })
  console.log(`dist/compute_ctl.cjs: a start runs ${ran.length} functions, ${marked} of them are compiled ahead`)
}

/** TypeScript's compiler is a program in an optional package; `npm ci --omit=optional` leaves it out. */
const hasCompiler = (): boolean =>
  fs.existsSync(path.join(root, `node_modules/@typescript/typescript-${process.platform}-${process.arch}`))

const library = async (): Promise<ReadonlyArray<string>> => {
  if (hasCompiler()) return buildLibrary(root, path.join(fresh, "lib"), lazy, separate, own)
  console.log("dist/lib: not built, because TypeScript's compiler is not installed")
  return []
}

fs.rmSync(fresh, { recursive: true, force: true })
try {
  fs.mkdirSync(fresh, { recursive: true })
  await program()
  await trained(path.join(fresh, "compute_ctl.cjs"))
  fs.rmSync(dist, { recursive: true, force: true })
  fs.renameSync(fresh, dist)
  makeSnapshot(dist)
} finally {
  fs.rmSync(fresh, { recursive: true, force: true })
}
