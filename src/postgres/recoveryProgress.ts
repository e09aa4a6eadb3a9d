/**
 * How far a Postgres that is not ready yet has come with its recovery, seen from outside: the title of its startup
 * process names the segment that is being replayed, and the kernel counts what its processes read and write.
 *
 * Only looks, at /proc and PGDATA; where there is no /proc nothing can be said, and nobody counts as standing still.
 */
import * as Option from "effect/Option"
import * as fs from "node:fs"
import * as path from "node:path"
import { commandLineOf } from "../platform/processes.ts"
import { type Lsn, parseLsn, printLsn } from "../spec/identifiers.ts"

/** Segments that replay has to pass, by their names in pg_wal. */
export interface RecoveryRange {
  readonly from: Lsn | null
  /** The end of the newest segment with anything in it. */
  readonly to: Lsn | null
  readonly segmentBytes: number
}

export interface RecoveryPosition {
  /** The first byte of the segment that is being replayed. */
  readonly at: Lsn
  readonly range: RecoveryRange
}

const attempt = <A>(look: () => A): A | null => {
  try {
    return look()
  } catch {
    return null
  }
}

const segmentStart = (name: string, segmentBytes: number): Lsn =>
  BigInt(`0x${name.slice(8, 16)}`) * 0x1_0000_0000n + BigInt(`0x${name.slice(16)}`) * BigInt(segmentBytes)

/** A segment that Postgres will use again has its next name already, and its old content still. */
const isWritten = (wal: string, name: string): boolean => {
  const fd = fs.openSync(path.join(wal, name), fs.constants.O_RDONLY)
  try {
    const header = Buffer.alloc(16)
    const isWhole = fs.readSync(fd, header, 0, header.length, 0) === header.length
    return isWhole && header.readBigUInt64LE(8) === segmentStart(name, fs.fstatSync(fd).size)
  } finally {
    fs.closeSync(fd)
  }
}

/** Before the start: the beginning as backup_label has it, the end as the files show. */
export const recoveryRange = (pgdata: string): RecoveryRange => {
  const label = attempt(() => fs.readFileSync(path.join(pgdata, "backup_label"), "utf8")) ?? ""
  const start = /^START WAL LOCATION: (\S+)/m.exec(label)?.[1]
  const wal = path.join(pgdata, "pg_wal")
  const names = (attempt(() => fs.readdirSync(wal)) ?? []).filter((name) => /^[0-9A-F]{24}$/.test(name)).sort()
  const newest = names.findLast((name) => attempt(() => isWritten(wal, name)) === true)
  const segmentBytes = attempt(() => fs.statSync(path.join(wal, newest ?? "")).size) ?? 0
  return {
    from: Option.getOrNull(parseLsn(start ?? "")),
    to: newest === undefined ? null : segmentStart(newest, segmentBytes) + BigInt(segmentBytes),
    segmentBytes
  }
}

/** The children of a process; nobody where the kernel does not list them. */
const childrenOf = (pid: number): ReadonlyArray<number> =>
  (attempt(() => fs.readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8")) ?? "")
    .split(" ")
    .filter((text) => text.trim() !== "")
    .map(Number)

const recovering = /^postgres: (?:.*: )?startup(?: process)?\s+(?:recovering|waiting for) ([0-9A-F]{24})/

/** `null`: it does not replay, or not visibly. */
export const recoveryPosition = (pid: number, range: RecoveryRange): RecoveryPosition | null => {
  for (const child of childrenOf(pid)) {
    const name = recovering.exec(commandLineOf(child) ?? "")?.[1]
    if (name !== undefined && range.segmentBytes > 0) return { at: segmentStart(name, range.segmentBytes), range }
  }
  return null
}

/**
 * Changes as long as the start gets on: another segment, bytes read or written, or, where the kernel does not let us
 * count those, time on a processor. `null`: nothing can be seen.
 */
export const startActivity = (pid: number): string | null => {
  if (attempt(() => fs.readFileSync(`/proc/${pid}/stat`)) === null) return null
  return [pid, ...childrenOf(pid)]
    .map((one) => {
      const io = attempt(() => fs.readFileSync(`/proc/${one}/io`, "utf8"))
      const busy = io ?? attempt(() => fs.readFileSync(`/proc/${one}/schedstat`, "utf8").split(" ")[0])
      return `${one} ${commandLineOf(one) ?? ""} ${busy ?? ""}`
    })
    .join("\n")
}

const megabytes = (bytes: bigint): string => (Number(bytes) / 1e6).toFixed(bytes < 10_000_000n ? 1 : 0)

/** One sentence; `seconds` since the recovery was first seen at `first`. */
export const printRecovery = ({ at, range }: RecoveryPosition, first: Lsn, seconds: number): string => {
  const from = range.from ?? first
  const rate = seconds > 0 ? ` (${megabytes(BigInt(Math.round(Number(at - first) / seconds)))} MB/s)` : ""
  const total = range.to === null ? 0n : range.to - from
  const percent = total > 0n ? `, ${Math.max(0, Math.min(99, Number(((at - from) * 100n) / total)))} %` : ""
  const left = range.to === null || range.to < at ? "" : `, ${megabytes(range.to - at)} MB are left`
  return `Postgres is recovering: WAL is replayed up to ${printLsn(at)}${percent}${rate}${left}`
}
