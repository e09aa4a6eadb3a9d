/**
 * Keeps the folder of audit records small, and measures it.
 *
 * It may miss a turn: a folder that cannot be read is told once and looked at again a minute later.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import type { Actor } from "../compute/Supervisor.ts"
import { FileFailed } from "../errors/Failure.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Which files of audit records may go, and how much there is of them (reference section 11.4). Pure.
// ---------------------------------------------------------------------------------------------------------------------

export interface AuditFile {
  readonly name: string
  readonly bytes: number
  /** Milliseconds since the epoch. */
  readonly modifiedAt: number
}

/** Postgres begins a new file every 5 minutes; what has rested this long was read and sent. */
export const auditAge = Duration.minutes(15)

export const isStale = (file: AuditFile, now: number): boolean =>
  file.name.startsWith("audit") && file.name.endsWith(".log") && now - file.modifiedAt > Duration.toMillis(auditAge)

/** Bytes of everything that is a log there. */
export const logBytes = (files: ReadonlyArray<AuditFile>): number =>
  files.filter(({ name }) => name.endsWith("log")).reduce((sum, { bytes }) => sum + bytes, 0)

// ---------------------------------------------------------------------------------------------------------------------
// Reads `/proc/locks` of Linux: who holds a `flock` on a file. Pure.
//
// A line is `1: FLOCK  ADVISORY  WRITE 1234 08:01:131 0 EOF`: kind, holder's pid, device (hexadecimal) and inode.
// Lines with `->` wait for a lock and hold none.
// ---------------------------------------------------------------------------------------------------------------------

export interface FileIdentity {
  readonly inode: bigint
}

const held = /^\d+:\s+FLOCK\s+\S+\s+\S+\s+(-?\d+)\s+[0-9a-fA-F]+:[0-9a-fA-F]+:(\d+)\s/

/**
 * Pids that hold a flock on the file; 0 for a holder that our pid namespace cannot see. The device is not compared:
 * overlay and btrfs say another one here than `stat` does.
 */
export const flockHolders = (locks: string, file: FileIdentity): ReadonlyArray<number> =>
  locks.split("\n").flatMap((line) => {
    const [, pid, inode] = held.exec(line) ?? []
    return pid !== undefined && inode !== undefined && BigInt(inode) === file.inode ? [Number(pid)] : []
  })

// ---------------------------------------------------------------------------------------------------------------------

const every = Duration.minutes(1)

const list = async (directory: string): Promise<ReadonlyArray<AuditFile>> => {
  const names = await fs.readdir(directory)
  const all = await Promise.all(
    names.map(async (name) => {
      const stat = await fs.stat(path.join(directory, name)).catch(() => null)
      return stat === null || !stat.isFile() ? [] : [{ name, bytes: stat.size, modifiedAt: stat.mtimeMs }]
    })
  )
  return all.flat()
}

/** One turn: removes what is old, and answers how many bytes of logs are left. */
export const sweepAuditFiles = Effect.fnUntraced(function* (directory: string): Effect.fn.Return<number, FileFailed> {
  const now = yield* Clock.currentTimeMillis
  return yield* Effect.tryPromise({
    try: async () => {
      const files = await list(directory)
      const [stale, kept] = [files.filter((file) => isStale(file, now)), files.filter((file) => !isStale(file, now))]
      await Promise.all(stale.map(({ name }) => fs.rm(path.join(directory, name), { force: true })))
      return logBytes(kept)
    },
    catch: (cause) => new FileFailed({ operation: "tidy the audit files in", path: directory, cause })
  })
})

/** `measured` gets bytes after each turn. */
export const auditSweeper = (directory: string, measured: (bytes: number) => Effect.Effect<void>): Actor => ({
  name: "audit sweeper",
  policy: "permanent",
  run: Effect.gen(function* () {
    let told = false
    while (true) {
      const turn = yield* Effect.result(sweepAuditFiles(directory))
      if (turn._tag === "Success") yield* measured(turn.success)
      else if (!told) yield* Effect.logWarning(turn.failure.message)
      told = turn._tag === "Failure"
      yield* Effect.sleep(every)
    }
  })
})
