/**
 * Processes that tests strike: those of a Postgres, by its data directory, whichever namespace they are in.
 */
import * as fs from "node:fs"
import { parentOf } from "../../src/platform/processes.ts"

const everybody = (): ReadonlyArray<number> =>
  fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)

/** Every live process whose working directory is this folder: Postgres's own mark. */
export const processesIn = (directory: string): ReadonlyArray<number> =>
  everybody().filter((pid) => {
    try {
      return fs.readlinkSync(`/proc/${pid}/cwd`).replace(/ \(deleted\)$/, "") === directory
    } catch {
      return false
    }
  })

export const childrenOf = (pid: number): ReadonlyArray<number> => everybody().filter((other) => parentOf(other) === pid)

export const killAll = (pids: ReadonlyArray<number>, signal: NodeJS.Signals): void => {
  for (const pid of pids) {
    try {
      process.kill(pid, signal)
    } catch {
      // It left by itself.
    }
  }
}

/** A process tree, and System V memory, of its own; /proc shows nothing else. It ends with the program that made it. */
export const apart: ReadonlyArray<string> = ["unshare", "-p", "-f", "--kill-child", "--mount-proc", "-i", "--"]
