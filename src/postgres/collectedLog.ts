/**
 * The log of a Postgres with `logging_collector = on`: it lies in files of its own, as a rule in PGDATA, and never
 * reaches our standard error. Read when Postgres has left, for the crash report, and before PGDATA is emptied.
 *
 * PGDATA is Postgres's: which file it names and what lies there may be anybody's doing, so only plain files of PGDATA's
 * owner are read, and of them only the end. Never fails.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import * as LogRecords from "./logRecords.ts"

/** Bytes read of the newest file. */
const tailBytes = 64 * 1024
const keptRecords = 30
const reportedRecords = 10

/** `null`: it has none. Postgres removes the list when it starts without a collector. */
const newestFile = (pgdata: string): string | null => {
  const list = fs.readFileSync(path.join(pgdata, "current_logfiles"), "utf8")
  const found = /^stderr (.+)$/m.exec(list) ?? /^(?:jsonlog|csvlog) (.+)$/m.exec(list)
  return found?.[1] === undefined ? null : path.resolve(pgdata, found[1])
}

const readTail = (file: string, owner: number): string => {
  const fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK)
  try {
    const stat = fs.fstatSync(fd)
    if (!stat.isFile() || stat.uid !== owner) return ""
    const buffer = Buffer.alloc(Math.min(tailBytes, stat.size))
    const read = fs.readSync(fd, buffer, 0, buffer.length, Math.max(0, stat.size - tailBytes))
    const text = buffer.toString("utf8", 0, read)
    // The first line is only the end of one.
    return stat.size > tailBytes ? text.slice(text.indexOf("\n") + 1) : text
  } finally {
    fs.closeSync(fd)
  }
}

/** Its last records, oldest first, as `LogPipe.recent` has them; none without a collector. */
export const collectedLog = (pgdata: string): ReadonlyArray<string> => {
  try {
    const file = newestFile(pgdata)
    if (file === null) return []
    const [state, records] = LogRecords.push(LogRecords.nothing, readTail(file, fs.statSync(pgdata).uid))
    return [...records, ...LogRecords.end(state)].slice(-keptRecords).map((record) => LogRecords.quote(record))
  } catch {
    return []
  }
}

/** Into our log, what the Postgres that ran here before said last: its files are about to be removed. */
export const reportCollectedLog = (pgdata: string): Effect.Effect<void> =>
  Effect.suspend(() => {
    const records = collectedLog(pgdata).slice(-reportedRecords)
    return records.length === 0
      ? Effect.void
      : Effect.logInfo(
          "the last records of the Postgres that ran in this data directory before, whose logging_collector kept " +
            `them there: ${records.join(" | ")}`
        )
  })
