/**
 * Builds what `import "compute-ctl"` loads.
 *
 * Few files: the loader costs more than the code, where there are hundreds. All that ours is built of is in them, so
 * that the package depends on nothing. Only `effect` stays outside of the entries that speak it, because there must be
 * one. `compute-ctl/promise` has Effect in it, too, and is one CommonJS file beside a module that loads it: jest can
 * `require` it. Nothing is minified: traces name lines that one can read.
 */
import { build, type BuildOptions, type Plugin } from "esbuild"
import { execFileSync } from "node:child_process"
import { hash } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { hoist } from "./hoist.ts"
import { lazily, platformHttp } from "./lazy.ts"
import { texts } from "./texts.ts"

type Separate = Readonly<Record<string, string>>

/** What lies beside the program serves the library, too. */
const besideProgram = (separate: Separate): Plugin => ({
  name: "besideProgram",
  setup(bundle) {
    bundle.onResolve({ filter: /.*/ }, ({ path: name }) => {
      const file = separate[name]
      return file === undefined ? undefined : { path: `../${file}`, external: true }
    })
  }
})

/** Says it in words: what an older Node lacks looks like a bug of ours when it is met. */
const checkNode = (root: string): string => {
  const needed = /^needed="(.+)"$/m.exec(fs.readFileSync(path.join(root, "bin/compute_ctl"), "utf8"))?.[1]
  if (needed === undefined) throw new Error("bin/compute_ctl says no longer which Node it needs (needed=...)")
  const [major, minor] = needed.split(".")
  return (
    `{ const [major, minor] = process.versions.node.split(".").map(Number); ` +
    `if (major < ${major} || (major === ${major} && minor < ${minor})) ` +
    `throw new Error("compute-ctl needs Node.js ${needed} or newer, and this is " + process.versions.node) }`
  )
}

const common = (root: string, lazy: ReadonlyArray<string>, separate: Separate) =>
  ({
    absWorkingDir: root,
    bundle: true,
    platform: "node",
    target: "node22",
    conditions: ["source"],
    legalComments: "eof",
    metafile: true,
    logLevel: "warning",
    plugins: [texts, lazily([...lazy, "tar/create", "protobufjs/light.js"]), besideProgram(separate), platformHttp]
  }) satisfies BuildOptions

const bundleModules = async (root: string, folder: string, lazy: ReadonlyArray<string>, separate: Separate) => {
  const { metafile } = await build({
    ...common(root, lazy, separate),
    entryPoints: { index: "src/index.ts", testing: "src/testing/index.ts" },
    outdir: folder,
    format: "esm",
    splitting: true,
    external: ["effect", "effect/*", "@effect/sql-pg/PgClient"],
    // For the CommonJS packages in it, and for what is loaded later.
    banner: {
      js:
        `${checkNode(root)}\nimport { createRequire as requireOf } from "node:module"\n` +
        "const require = requireOf(import.meta.url)"
    }
  })
  return metafile.inputs
}

const bundlePromise = async (
  root: string,
  folder: string,
  lazy: ReadonlyArray<string>,
  separate: Separate,
  own: Separate
) => {
  const { plugins, ...options } = common(root, lazy, { ...separate, ...own })
  const { metafile } = await build({
    ...options,
    plugins: [hoist(path.join(root, "src"), own), ...plugins],
    entryPoints: ["src/testing/promise.ts"],
    outfile: path.join(folder, "promise.cjs"),
    format: "cjs",
    external: ["@effect/sql-pg/PgClient"],
    define: { "import.meta.dirname": "__dirname" },
    banner: { js: checkNode(root) }
  })
  const digest = hash("sha256", fs.readFileSync(path.join(folder, "promise.cjs"))).slice(0, 32)
  await build({
    ...options,
    plugins: [],
    entryPoints: ["src/testing/promiseEntry.ts"],
    define: { PROMISE_DIGEST: JSON.stringify(digest) },
    outfile: path.join(folder, "promise.js"),
    format: "esm",
    banner: { js: checkNode(root) }
  })
  return metafile.inputs
}

/** The compiler writes one per source; who uses `require` needs those of promise under names of their own. */
const declare = (root: string, folder: string): void => {
  const tsc = path.join(root, "node_modules/typescript/bin/tsc")
  execFileSync(process.execPath, [tsc, "-p", "tsconfig.lib.json", "--outDir", folder], { cwd: root, stdio: "inherit" })
  for (const name of ["promise", "options", "fakes/script"]) {
    const declared = fs.readFileSync(path.join(folder, `testing/${name}.d.ts`), "utf8")
    const text = declared
      .replace(/^\/\/# sourceMappingURL.*$/m, "")
      .replaceAll(/from "\.\/(.*)\.ts"/g, 'from "./$1.cts"')
    fs.writeFileSync(path.join(folder, `testing/${name}.d.cts`), text)
  }
}

/** Answers what went into the files, relative to `root`. */
export const buildLibrary = async (
  root: string,
  folder: string,
  lazy: ReadonlyArray<string>,
  separate: Separate,
  own: Separate
): Promise<ReadonlyArray<string>> => {
  const modules = await bundleModules(root, folder, lazy, separate)
  const promise = await bundlePromise(root, folder, lazy, separate, own)
  declare(root, folder)
  return Object.keys({ ...modules, ...promise })
}
