/**
 * The last lines of our own log, as they were written: for the compute's page. Bounded, in memory only. Postgres's
 * records are not among them: they may hold what tenants wrote.
 */
import type { LogFormat } from "./Log.ts"

/** A line of the log, read back. */
interface LogEntry {
  /** ISO 8601, UTC; empty when the line does not begin with one. */
  readonly at: string
  /** `INFO`, `WARN`, …; empty when there is none. */
  readonly level: string
  readonly message: string
}

export interface RecentLines {
  readonly add: (line: string) => void
  /** Oldest first. */
  readonly entries: () => ReadonlyArray<LogEntry>
}

/** Lines that are kept, and how much of each. */
const kept = 200
const longest = 2_000

const shortened = (text: string): string =>
  text.length > longest ? `${text.slice(0, longest)}… (${text.length - longest} characters more in the log)` : text

const textLine = /^(\d{4}-\d\d-\d\dT[\d:.]+Z) +([A-Z]+) ([^]*)$/

const readText = (line: string): LogEntry => {
  const [, at = "", level = "", message = line] = textLine.exec(line) ?? []
  return { at, level, message: shortened(message) }
}

const readJson = (line: string): LogEntry => {
  try {
    const { cause, level, message, timestamp } = JSON.parse(line) as Record<string, unknown>
    const text = cause === undefined ? String(message) : `${String(message)}: ${String(cause)}`
    return { at: String(timestamp), level: String(level), message: shortened(text) }
  } catch {
    return { at: "", level: "", message: shortened(line) }
  }
}

export const recentLines = (format: LogFormat): RecentLines => {
  const entries: Array<LogEntry> = []
  const read = format === "json" ? readJson : readText
  return {
    add: (line) => {
      entries.push(read(line.trimEnd()))
      if (entries.length > kept) entries.shift()
    },
    entries: () => [...entries]
  }
}
