/**
 * Keeps the folder of audit records small, and measures it.
 *
 * A folder that cannot be read is logged once and tried again a minute later; it never stops the compute.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import type { Actor } from "../compute/Supervisor.ts"
import type { FileFailed } from "../errors/Failure.ts"
import { attemptPromise } from "../platform/files.ts"

// -- which files (docs/reference/compute_ctl.md#rsyslog-and-audit-records)

export interface AuditFile {
  readonly name: string
  readonly bytes: number
  /** Milliseconds since the epoch. */
  readonly modifiedAt: number
}

/** Postgres begins a new file every 5 minutes; what was not written to for this long was read and sent. */
const auditAge = Duration.minutes(15)

export const isStale = (file: AuditFile, now: number): boolean =>
  file.name.startsWith("audit") && file.name.endsWith(".log") && now - file.modifiedAt > Duration.toMillis(auditAge)

/** Bytes of everything that is a log there. */
export const logBytes = (files: ReadonlyArray<AuditFile>): number =>
  files.filter(({ name }) => name.endsWith("log")).reduce((sum, { bytes }) => sum + bytes, 0)

// -- sweeping

const sweepEvery = Duration.minutes(1)

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
  return yield* attemptPromise("tidy the audit files in", directory, async () => {
    const files = await list(directory)
    const [stale, kept] = [files.filter((file) => isStale(file, now)), files.filter((file) => !isStale(file, now))]
    await Promise.all(stale.map(({ name }) => fs.rm(path.join(directory, name), { force: true })))
    return logBytes(kept)
  })
})

/** `measured` gets bytes after each turn. */
export const auditSweeper = (directory: string, measured: (bytes: number) => Effect.Effect<void>): Actor => ({
  name: "audit sweeper",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    let failing = false
    while (true) {
      const turn = yield* Effect.result(sweepAuditFiles(directory))
      if (turn._tag === "Success") yield* measured(turn.success)
      else if (!failing) yield* Effect.logWarning(turn.failure.message)
      failing = turn._tag === "Failure"
      yield* Effect.sleep(sweepEvery)
    }
  })
})
