/**
 * Waits until postmaster.pid says that our Postgres is ready.
 *
 * The kernel tells of each change of PGDATA; a look every 50 ms makes up for file systems where it does not. Has no
 * deadline of its own, and leaves no watcher behind when it is interrupted.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { parsePidFile } from "./PidFile.ts"

const name = "postmaster.pid"
const look = "50 millis"

/** Empty where there is none. */
export const readPidFile = (pgdata: string): string => {
  try {
    return fs.readFileSync(path.join(pgdata, name), "utf8")
  } catch {
    return ""
  }
}

export interface Expected {
  readonly pgdata: string
  readonly pid: number
  /** The file's text before this Postgres was started: a dead one's, which may even have had the same pid. */
  readonly before: string
}

const isReady = ({ before, pgdata, pid }: Expected): boolean => {
  const text = readPidFile(pgdata)
  const said = text === before ? null : parsePidFile(text)
  return said !== null && said.pid === pid && said.status === "ready"
}

const watching = (expected: Expected): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const watcher = watch(expected.pgdata)
    const check = (file: string | null) => {
      if ((file !== null && file !== name) || !isReady(expected)) return
      watcher?.close()
      resume(Effect.void)
    }
    watcher?.on("change", (_, file) => check(file === null ? null : String(file)))
    check(null)
    return Effect.sync(() => watcher?.close())
  })

/** `null`: the kernel will not tell, for example because of too many watches on this host. The looks go on. */
const watch = (folder: string): fs.FSWatcher | null => {
  try {
    const watcher = fs.watch(folder)
    return watcher.on("error", () => watcher.close())
  } catch {
    return null
  }
}

const looking = (expected: Expected): Effect.Effect<void> =>
  Effect.suspend(() => isReady(expected) ? Effect.void : Effect.andThen(Effect.sleep(look), looking(expected)))

export const awaitReady = (expected: Expected): Effect.Effect<void> => Effect.raceFirst(watching(expected), looking(expected))
