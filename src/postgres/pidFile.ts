/**
 * postmaster.pid: whose it is, how far that Postgres has come, and waiting until ours is ready.
 *
 * Postgres rewrites the file in place, so a reader may see any beginning of it; a line counts only once its end is
 * there. Nothing here throws, changes the file, or has a deadline of its own.
 */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as fs from "node:fs"
import * as path from "node:path"

const name = "postmaster.pid"

/** `standby` is a replica that does not accept connections yet; one that does says `ready`. */
export type PostmasterStatus = "starting" | "ready" | "standby" | "stopping"

export interface PidFile {
  readonly pid: number
  /** `null`: it has not been written yet. */
  readonly status: PostmasterStatus | null
}

const statuses: ReadonlyArray<PostmasterStatus> = ["starting", "ready", "standby", "stopping"]

/** Line 1 is the pid, line 8 the status, padded with spaces. `null`: not even the pid is there. */
export const parsePidFile = (text: string): PidFile | null => {
  const whole = text.split("\n").slice(0, -1)
  const pid = Number(/^\s*(\d{1,10})\s*$/.exec(whole[0] ?? "")?.[1])
  const status = whole[7]?.trim()
  return pid > 0 ? { pid, status: statuses.find((one) => one === status) ?? null } : null
}

/** The file's text; empty where there is none. */
export const readPidFile = (pgdata: string): string => {
  try {
    return fs.readFileSync(path.join(pgdata, name), "utf8")
  } catch {
    return ""
  }
}

export interface Awaited {
  readonly pgdata: string
  readonly pid: number
  /** The file's text before this Postgres was started: a dead one's, which may even have had the same pid. */
  readonly before: string
}

const isReady = ({ before, pgdata, pid }: Awaited): boolean => {
  const text = readPidFile(pgdata)
  const file = text === before ? null : parsePidFile(text)
  return file !== null && file.pid === pid && file.status === "ready"
}

/** `null`: the kernel will not report changes, for example because of too many watches on this host. */
const watch = (folder: string): fs.FSWatcher | null => {
  try {
    const watcher = fs.watch(folder)
    return watcher.on("error", () => watcher.close())
  } catch {
    return null
  }
}

const watchUntilReady = (awaited: Awaited): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const watcher = watch(awaited.pgdata)
    const check = (file: string | null) => {
      if ((file !== null && file !== name) || !isReady(awaited)) return
      watcher?.close()
      resume(Effect.void)
    }
    watcher?.on("change", (_, file) => check(file === null ? null : String(file)))
    check(null)
    return Effect.sync(() => watcher?.close())
  })

const pollUntilReady = (awaited: Awaited): Effect.Effect<void> =>
  Effect.sync(() => isReady(awaited)).pipe(
    Effect.repeat({ schedule: Schedule.spaced("50 millis"), until: (ready) => ready }),
    Effect.asVoid
  )

/**
 * The kernel reports each change of PGDATA; a look every 50 ms makes up for file systems where it does not. Leaves no
 * watcher behind when it is interrupted.
 */
export const awaitReady = (awaited: Awaited): Effect.Effect<void> =>
  Effect.raceFirst(watchUntilReady(awaited), pollUntilReady(awaited))
