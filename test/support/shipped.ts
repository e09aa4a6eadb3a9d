/**
 * The program that tests start as a process: the bundle where the run names one (CI names what it has just built, so
 * that what is shipped is what is tested), else the sources as they are. A bundle is started from its snapshot, as
 * `bin/compute_ctl` does it.
 */
import * as fs from "node:fs"
import * as path from "node:path"

export const shipped = process.env["COMPUTE_CTL_TEST_PROGRAM"] ?? path.resolve(import.meta.dirname, "../../src/main.ts")

const snapshot = `${shipped.slice(0, -path.extname(shipped).length)}.snapshot`

/** What Node is given to start it. */
export const startShipped: ReadonlyArray<string> = fs.existsSync(snapshot)
  ? ["--snapshot-blob", snapshot, shipped]
  : [shipped]
