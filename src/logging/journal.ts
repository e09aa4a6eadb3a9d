/**
 * Lines for systemd's journal: each begins with its priority (`<3>`, sd-daemon(3)), and has no time and no level of its
 * own, because the journal has both. Where standard error is the journal's, which it says in `JOURNAL_STREAM`.
 */
import type { Stats } from "node:fs"
import type * as Effect from "effect/Effect"
import { levelOfSeverity, parseRecord, withoutTime } from "../postgres/logRecords.ts"
import type { LogFormat } from "./Log.ts"

/** Those of syslog(3). */
const priorities = new Map([
  ["FATAL", 2],
  ["ERROR", 3],
  ["WARN", 4],
  ["INFO", 6],
  ["DEBUG", 7],
  ["TRACE", 7]
])

/** `device:inode` of the journal's stream; a descriptor that was redirected since is another. */
export const isJournal = (journalStream: string | undefined, stderr: Pick<Stats, "dev" | "ino">): boolean =>
  journalStream === `${stderr.dev}:${stderr.ino}`

/** The journal takes every line as a record, so every line of a longer text has its priority. */
const withPriority = (text: string, level: string): string =>
  text.replaceAll(/^(?=[^\n])/gm, `<${priorities.get(level) ?? 6}>`)

/** What a line of the text format begins with. */
const head = /^\d{4}-\d\d-\d\dT[\d:.]+Z +[A-Z]+ /

/** A line of our own log, as its format has it. */
export const journalLine = (format: LogFormat, line: string, level: string): string =>
  withPriority(format === "json" ? line : line.replace(head, ""), level)

/** Postgres's records on their way to `sink`: one line each, either as Postgres wrote them (`PG:`) or as JSON. */
export const postgresRecordsForJournal =
  (sink: (text: string) => Effect.Effect<void>) =>
  (text: string): Effect.Effect<void> =>
    sink(
      text
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => `${recordForJournal(line)}\n`)
        .join("")
    )

const recordForJournal = (line: string): string => {
  if (!line.startsWith("PG:")) return withPriority(line, (JSON.parse(line) as { level: string }).level)
  const record = line.slice("PG:".length)
  return withPriority(`PG:${withoutTime(record)}`, levelOfSeverity(parseRecord(record).severity))
}
