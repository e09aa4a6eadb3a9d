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
import * as path from "node:path"

export const makeSnapshot = (dist: string): void => {
  const snapshot = path.join(dist, "compute_ctl.snapshot")
  const bundle = path.join(dist, "compute_ctl.cjs")
  // No V8 flag here that is not there at a start: the snapshot also holds the code of Node's own modules, and V8 takes
  // none that was compiled under other flags.
  const args = ["--snapshot-blob", snapshot, "--build-snapshot", bundle]
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" })
  // A warning names a module whose state may not outlive the snapshot.
  if (status !== 0 || stderr !== "") throw new Error(`no snapshot can be made: ${stderr}`)
  fs.writeFileSync(`${snapshot}.node`, `${fs.realpathSync(process.execPath)}\n${process.version}\n`)
  const [megabytes, version] = [Math.round(fs.statSync(snapshot).size / 2 ** 20), process.version]
  console.log(`dist/compute_ctl.snapshot: ${megabytes} MiB for Node ${version}`)
}

if (import.meta.main) makeSnapshot(path.resolve(process.argv[2] ?? path.join(import.meta.dirname, "../dist")))
