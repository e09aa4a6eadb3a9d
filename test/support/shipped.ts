/**
 * The program that tests start as a process: the bundle where the run names one (CI names what it has just built, so
 * that what is shipped is what is tested), else the sources as they are. A bundle is started from its snapshot, as
 * `bin/compute_ctl` does it. It may also be an executable.
 */
import * as fs from "node:fs"
import * as path from "node:path"

const shipped = process.env["COMPUTE_CTL_TEST_PROGRAM"] ?? path.resolve(import.meta.dirname, "../../src/main.ts")

const isScript = /\.c?[jt]s$/.test(shipped)
const snapshot = shipped.replace(/\.cjs$/, ".snapshot")

/** The command that starts it, before its arguments. */
export const startShipped: readonly [command: string, ...args: ReadonlyArray<string>] = !isScript
  ? [shipped]
  : snapshot !== shipped && fs.existsSync(snapshot)
    ? [process.execPath, "--snapshot-blob", snapshot, shipped]
    : [process.execPath, shipped]
