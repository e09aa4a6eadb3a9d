/**
 * A start-up snapshot of the program: its modules evaluated, as V8 keeps them. It saves a start a third of the
 * processor time until HTTP answers, and memory (docs/adr/0019).
 *
 * `node .ci/snapshot.ts [DIST]` makes it for the very Node that runs this, of `DIST/compute_ctl.cjs`. Only that Node
 * can use it, so its path and version are written beside it, and `bin/compute_ctl` takes the bundle when they are
 * others.
 */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { isBuiltin } from "node:module"
import * as path from "node:path"

/**
 * Prints the modules of Node's that come with a server that answers, by their own names, beyond those that every start
 * has: a snapshot holds these.
 */
const probe = `
  const had = new Set(process.moduleLoadList)
  for (const name of process.argv.slice(1)) require("node:" + name)
  const print = () => {
    const more = process.moduleLoadList.filter((name) => !had.has(name) && name.startsWith("NativeModule "))
    process.stdout.write(more.map((name) => name.slice(13)).join())
  }
  const server = require("node:http").createServer((_, answer) => answer.end()).listen(0, "127.0.0.1", () =>
    fetch("http://127.0.0.1:" + server.address().port).then(() => (print(), process.exit())))`

const loadedBy = (bundle: string): ReadonlySet<string> => {
  const text = fs.readFileSync(bundle, "utf8")
  const names = new Set([...text.matchAll(/"node:([\w/]+)"/g)].flatMap(([, name]) => name ?? []))
  for (const name of names) if (!isBuiltin(`node:${name}`)) names.delete(name)
  const { status, stdout } = spawnSync(process.execPath, ["-e", probe, ...names], { encoding: "utf8", timeout: 20_000 })
  if (status !== 0) throw new Error("Node's own modules cannot be listed")
  return new Set(stdout.split(","))
}

/** The vector at `at` when it ends with the file: how many, then each name and each code, with their lengths. */
const cachesAt = (blob: Buffer, at: number) => {
  const count = blob.readUInt32LE(at)
  const caches: Array<{ readonly name: string; readonly bytes: Buffer }> = []
  let end = at + 8
  const skip = (most: number): boolean => {
    if (end + 8 > blob.length || blob.readUInt32LE(end + 4) !== 0 || blob.readUInt32LE(end) > most) return false
    end += 8 + blob.readUInt32LE(end)
    return end <= blob.length
  }
  for (let n = 0; n < count; n++) {
    const from = end
    if (!skip(200)) return null
    const name = blob.toString("latin1", from + 8, end)
    if (!/^[\w/.-]+$/.test(name) || !skip(blob.length)) return null
    caches.push({ name, bytes: blob.subarray(from, end) })
  }
  return end === blob.length ? caches : null
}

/**
 * Leaves out the compiled code of the modules of Node's that the program never loads (its test runner, its debugger):
 * a process keeps all of it in memory for as long as it lives. It is the last thing in the file; `null`: this Node has
 * it elsewhere or otherwise. A module that has none is compiled when it is loaded.
 */
export const withoutUnusedCode = (blob: Buffer, used: ReadonlySet<string>): Buffer | null => {
  for (let at = blob.length - 8; at > 0; at--) {
    // There are hundreds of them.
    const count = blob.readUInt32LE(at)
    if (count < 100 || count > 2000 || blob.readUInt32LE(at + 4) !== 0) continue
    const caches = cachesAt(blob, at)
    if (caches === null) continue
    const kept = caches.filter(({ name }) => used.has(name))
    const length = Buffer.alloc(8)
    length.writeUInt32LE(kept.length)
    return Buffer.concat([blob.subarray(0, at), length, ...kept.map(({ bytes }) => bytes)])
  }
  return null
}

const runs = (snapshot: string, bundle: string): boolean =>
  spawnSync(process.execPath, ["--snapshot-blob", snapshot, bundle, "--version"], { timeout: 20_000 }).status === 0

export const makeSnapshot = (dist: string): void => {
  const snapshot = path.join(dist, "compute_ctl.snapshot")
  const bundle = path.join(dist, "compute_ctl.cjs")
  // No V8 flag here that is not there at a start: the snapshot also holds the code of Node's own modules, and V8 takes
  // none that was compiled under other flags.
  const args = ["--snapshot-blob", snapshot, "--build-snapshot", bundle]
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" })
  // A warning names a module whose state may not outlive the snapshot.
  if (status !== 0 || stderr !== "") throw new Error(`no snapshot can be made: ${stderr}`)
  const less = withoutUnusedCode(fs.readFileSync(snapshot), loadedBy(bundle))
  if (less === null)
    console.log("dist/compute_ctl.snapshot: with the code of all of Node's modules, whose format is new")
  else fs.writeFileSync(snapshot, less)
  if (!runs(snapshot, bundle)) throw new Error("the snapshot does not start")
  fs.writeFileSync(`${snapshot}.node`, `${fs.realpathSync(process.execPath)}\n${process.version}\n`)
  const [megabytes, version] = [Math.round(fs.statSync(snapshot).size / 2 ** 20), process.version]
  console.log(`dist/compute_ctl.snapshot: ${megabytes} MiB for Node ${version}`)
}

if (import.meta.main) makeSnapshot(path.resolve(process.argv[2] ?? path.join(import.meta.dirname, "../dist")))
