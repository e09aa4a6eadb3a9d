/**
 * Postgres's log: cuts its stderr into records, one or more lines each, and reads severity, process and database from
 * one (docs/reference/compute_ctl.md#postgres-log). Pure.
 *
 * Records are the same however the text was chopped. Holds at most about twice `limit` characters plus what it was just
 * given; longer lines and records leave in marked pieces.
 */

/** A record's lines, joined by this, make one line that a client can split again. */
export const lineJoint = "\u200b"
const continues = " [continues]"
const continued = "[continued] "

/** Characters of a line, or of a record, that are kept together. Any limit must be longer than a time stamp. */
const defaultLimit = 4 * 1024 * 1024

export interface Unfinished {
  /** Whole lines of the record being collected, joined; `null`: none yet. */
  readonly record: string | null
  /** The line being collected, without its end. */
  readonly line: string
  /** A piece of this record has left already. */
  readonly inPieces: boolean
  /** A piece of the current line has left already. */
  readonly midLine: boolean
}

export const nothing: Unfinished = { record: null, line: "", inPieces: false, midLine: false }

/** What is still unfinished, and the records that are not. */
export type Split = readonly [Unfinished, ReadonlyArray<string>]

const stamp = /^\d+-\d{2}-\d{2} \d{2}:\d{2}:\d{2}/

export const push = (before: Unfinished, text: string, limit: number = defaultLimit): Split => {
  const records: Array<string> = []
  let state = before
  let from = 0
  for (let newline = text.indexOf("\n"); newline >= 0; newline = text.indexOf("\n", from)) {
    state = endLine(growLine(state, text.slice(from, newline), limit, records), limit, records)
    from = newline + 1
  }
  return [growLine(state, text.slice(from), limit, records), records]
}

/** Nothing was written for a while: a record whose last line is whole is over. */
export const silence = (state: Unfinished): Split =>
  state.record === null
    ? [{ ...state, inPieces: state.midLine }, []]
    : [{ ...state, record: null, inPieces: false }, [render(state, state.record)]]

/** Nothing will be written any more. */
export const end = (state: Unfinished): ReadonlyArray<string> => {
  const records: Array<string> = []
  const closed = state.line === "" && !state.midLine ? state : endLine(state, Number.POSITIVE_INFINITY, records)
  return [...records, ...silence(closed)[1]]
}

/** As Postgres wrote it, on one line, for an error message: short, and without what may be a password. */
export const quote = (record: string, longest = 2000): string =>
  record
    // Of megabytes of a statement nobody needs more.
    .slice(0, 2 * longest)
    .replaceAll(lineJoint, " ")
    .replaceAll(/(password\s+(?:E|U&)?)'(?:[^']|'')*('|$)/gi, "$1'<redacted>'")
    .slice(0, longest)

const render = (state: Unfinished, text: string): string => (state.inPieces ? `${continued}${text}` : text)

const growLine = (before: Unfinished, text: string, limit: number, records: Array<string>): Unfinished => {
  if (text === "") return before
  let state: Unfinished = { ...before, line: before.line + text }
  while (state.line.length > limit) {
    // Only now is the beginning of the line surely there, so the record before it can be told from a part of it.
    if (state.record !== null) {
      const over = !state.midLine && stamp.test(state.line)
      records.push(over ? render(state, state.record) : `${render(state, state.record)}${continues}`)
      state = { ...state, record: null, inPieces: !over }
    } else if (!state.midLine && stamp.test(state.line)) {
      state = { ...state, inPieces: false }
    }
    const cut = cutAt(state.line, limit)
    records.push(`${render(state, state.line.slice(0, cut))}${continues}`)
    state = { record: null, line: state.line.slice(cut), inPieces: true, midLine: true }
  }
  return state
}

/** Not between the halves of one character. */
const cutAt = (line: string, limit: number): number => {
  const last = line.charCodeAt(limit - 1)
  return limit > 1 && last >= 0xd800 && last <= 0xdbff ? limit - 1 : limit
}

const endLine = (state: Unfinished, limit: number, records: Array<string>): Unfinished => {
  const begins = !state.midLine && stamp.test(state.line)
  if (begins && state.record !== null) records.push(render(state, state.record))
  const joined = begins || state.record === null ? state.line : `${state.record}${lineJoint}${state.line}`
  const next: Unfinished = { record: joined, line: "", inPieces: state.inPieces && !begins, midLine: false }
  if (joined.length <= limit) return next
  records.push(`${render(next, joined)}${continues}`)
  return { ...next, record: null, inPieces: true }
}

// Reading a record. The prefix is whatever `log_line_prefix` says, so nothing is certain: what is not surely there is
// `null`, and the record is always kept as it came.

/** As Postgres spells them; `STATEMENT`, `DETAIL` and their like go with a record before them. */
const severities = [
  "DEBUG",
  "DEBUG1",
  "DEBUG2",
  "DEBUG3",
  "DEBUG4",
  "DEBUG5",
  "LOG",
  "INFO",
  "NOTICE",
  "WARNING",
  "ERROR",
  "FATAL",
  "PANIC",
  "DETAIL",
  "HINT",
  "QUERY",
  "CONTEXT",
  "LOCATION",
  "BACKTRACE",
  "STATEMENT"
] as const
export type Severity = (typeof severities)[number]

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

const leadingTime = /^\d+-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(?:\.\d+)?(?: [A-Za-z0-9_/+:-]+)?/

/** For a reader that has the time already. */
export const withoutTime = (record: string): string => record.replace(leadingTime, "").trimStart()

export const parseRecord = (record: string): PostgresRecord => {
  const text = record.replaceAll(lineJoint, "\n")
  const mark = severityMark.exec(text.slice(0, longestPrefix))
  if (mark === null) return { severity: null, pid: null, user: null, database: null, message: text }
  const prefix = text.slice(0, mark.index).replace(leadingTime, "")
  const [, pid] =
    /[[({](\d{1,10})(?:-\d+)?[\])}]/.exec(prefix) ?? /(?:^|\s)(?:pid=)?(\d{1,10})(?=\s|:|,|$)/.exec(prefix) ?? []
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
