/**
 * The program that tests start as a process: the bundle where the run names one (CI names what it has just built, so
 * that what is shipped is what is tested), else the sources as they are.
 */
import * as path from "node:path"

export const shipped = process.env["COMPUTE_CTL_TEST_PROGRAM"] ?? path.resolve(import.meta.dirname, "../../src/main.ts")
