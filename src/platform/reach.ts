/**
 * Whether a user can get to a file and read and execute it, judged from owners and modes on the way.
 *
 * Access lists, capabilities and network file systems with rules of their own are not looked at.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import type { RunAs } from "./Spawn.ts"

/** Read and execute, or pass through, as one octal digit of a mode. */
const readAndExecute = 0o5
const passThrough = 0o1

const allows = (stat: fs.Stats, user: RunAs, wanted: number): boolean => {
  const shift = stat.uid === user.uid ? 6 : stat.gid === user.gid ? 3 : 0
  return ((stat.mode >> shift) & wanted) === wanted
}

const ancestors = (file: string): ReadonlyArray<string> => {
  const parent = path.dirname(file)
  return parent === file ? [] : [...ancestors(parent), parent]
}

/**
 * The first path that keeps the user out, or `null`. `null` for the user means ourselves: then the kernel is asked.
 * A file that does not exist keeps everybody out.
 */
export const barrier = (file: string, user: RunAs | null): string | null => {
  const absolute = path.resolve(file)
  try {
    if (user === null) {
      fs.accessSync(absolute, fs.constants.R_OK | fs.constants.X_OK)
      return null
    }
    const real = fs.realpathSync(absolute)
    const on = [...new Set([...ancestors(absolute), ...ancestors(real)])]
    const closed = on.find((parent) => !allows(fs.statSync(parent), user, passThrough))
    return closed ?? (allows(fs.statSync(real), user, readAndExecute) ? null : real)
  } catch {
    return absolute
  }
}
