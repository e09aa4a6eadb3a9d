/**
 * One file that runs without Node: Node's single executable application, with the program in it.
 *
 * `npm run build:exe [-- --target linux-x64|linux-arm64]` (default: this machine's). Writes `dist/compute_ctl-TARGET`,
 * beside it its SHA-256, the list of what is in it (CycloneDX) and its source map. On its own platform it begins with a
 * snapshot; for another one it carries the bundle alone, because only the Node that runs can make one. The target's
 * Node is fetched from the npm registry, in the version that builds.
 */
import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { parseArgs } from "node:util"
import { inject } from "postject"

const targets = ["linux-x64", "linux-arm64"] as const
const root = path.resolve(import.meta.dirname, "..")
const dist = path.join(root, "dist")
const here = `${process.platform}-${process.arch}`

const { target = here } = parseArgs({ options: { target: { type: "string" } } }).values
if (!targets.some((one) => one === target)) throw new Error(`--target is ${target}; it can be ${targets.join(" or ")}`)
if (!fs.existsSync(path.join(dist, "compute_ctl.cjs"))) throw new Error("there is no bundle yet; run npm run build")

const nodeOf = (work: string): string => {
  if (target === here) return process.execPath
  const version = process.version.slice(1)
  const options = { cwd: work, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] } as const
  const packed = execFileSync("npm", ["pack", "--silent", `node-${target}@${version}`], options).trim()
  execFileSync("tar", ["-xzf", packed, "package/bin/node"], { cwd: work })
  return path.join(work, "package/bin/node")
}

/** Node looks for this in its own file: there is a program in it. */
const sentinelFuse = "NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2"

const build = async (work: string, output: string): Promise<void> => {
  const blob = path.join(work, "program.blob")
  const config = {
    main: path.join(dist, "compute_ctl.cjs"),
    output: blob,
    useSnapshot: target === here,
    disableExperimentalSEAWarning: true,
    execArgv: ["--disable-sigusr1", "--max-semi-space-size=1"],
    execArgvExtension: "none",
    assets: Object.fromEntries(["grpc.cjs", "fakes.cjs"].map((name) => [name, path.join(dist, name)]))
  }
  fs.writeFileSync(path.join(work, "sea.json"), JSON.stringify(config))
  execFileSync(process.execPath, ["--experimental-sea-config", path.join(work, "sea.json")], { stdio: "inherit" })
  fs.copyFileSync(nodeOf(work), output)
  fs.chmodSync(output, 0o755)
  await inject(output, "NODE_SEA_BLOB", fs.readFileSync(blob), { sentinelFuse })
}

const work = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-exe-"))
try {
  const output = path.join(dist, `compute_ctl-${target}`)
  await build(work, output)
  const digest = createHash("sha256").update(fs.readFileSync(output)).digest("hex")
  fs.writeFileSync(`${output}.sha256`, `${digest}  ${path.basename(output)}\n`)
  fs.copyFileSync(path.join(dist, "bill-of-materials.json"), `${output}.cdx.json`)
  fs.copyFileSync(path.join(dist, "compute_ctl.cjs.map"), `${output}.map`)
  console.log(`${path.relative(root, output)}: ${Math.round(fs.statSync(output).size / 2 ** 20)} MiB`)
} finally {
  fs.rmSync(work, { recursive: true, force: true })
}
