/**
 * What can be read from a record of Postgres's log: severity, process, database (reference section 6.4). Pure.
 *
 * The prefix is whatever `log_line_prefix` says, so nothing is certain: a fact that is not surely there is `null`, and
 * the record is always kept as it came.
 */
import { lineJoint } from "./logRecords.ts"

/** As Postgres spells them; `STATEMENT`, `DETAIL` and their like go with a record before them. */
const severities = [
  "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3", "DEBUG4", "DEBUG5", "LOG", "INFO", "NOTICE", "WARNING", "ERROR", "FATAL", "PANIC",
  "DETAIL", "HINT", "QUERY", "CONTEXT", "LOCATION", "BACKTRACE", "STATEMENT"
] as const
export type Severity = typeof severities[number]

export interface PostgresRecord {
  readonly severity: Severity | null
  readonly pid: number | null
  readonly user: string | null
  readonly database: string | null
  /** The whole record as it came, prefix and all. Lines are lines again. */
  readonly message: string
}

export type RecordLevel = "DEBUG" | "INFO" | "WARN" | "ERROR" | "FATAL"

const severityMark = new RegExp(`(?:^|\\s)(${severities.join("|")}):  `)

const stamp = /^\d+-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(?:\.\d+)?(?: [A-Za-z0-9_/+:-]+)?/

export const parseRecord = (record: string): PostgresRecord => {
  const text = record.replaceAll(lineJoint, "\n")
  const mark = severityMark.exec(text.slice(0, longestPrefix))
  if (mark === null) return { severity: null, pid: null, user: null, database: null, message: text }
  const prefix = text.slice(0, mark.index).replace(stamp, "")
  const [, pid] = /[[({](\d{1,10})(?:-\d+)?[\])}]/.exec(prefix) ?? /(?:^|\s)(?:pid=)?(\d{1,10})(?=\s|:|,|$)/.exec(prefix) ?? []
  const [, user, database] = /(?:^|\s)([^\s@[\]=,]+)@([^\s@[\]=,]+)(?=\s|$|,)/.exec(prefix) ?? []
  const named = (name: string) => new RegExp(`(?:^|[\\s,])${name}=([^\\s,]+)`).exec(prefix)?.[1]
  return {
    severity: severities.find((one) => one === mark[1]) ?? null,
    pid: pid === undefined ? null : Number(pid),
    user: named("user") ?? user ?? null,
    database: named("db") ?? database ?? null,
    message: text
  }
}

/** A prefix is short; beyond this, what looks like a severity is part of a message. */
const longestPrefix = 1024

export const levelOfSeverity = (severity: Severity | null): RecordLevel => {
  switch (severity) {
    case "WARNING":
      return "WARN"
    case "ERROR":
      return "ERROR"
    case "FATAL":
    case "PANIC":
      return "FATAL"
    default:
      return severity?.startsWith("DEBUG") ? "DEBUG" : "INFO"
  }
}
