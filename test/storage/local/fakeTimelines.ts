/**
 * Timelines without a Postgres, small and fast: WAL whose records carry a number each, written as Postgres writes it,
 * and a data directory whose one file lists the numbers that it holds.
 */
import * as Effect from "effect/Effect"
import * as assert from "node:assert"
import * as fs from "node:fs"
import { crc32c } from "../../../src/postgres/controlFile.ts"
import { type Base, type Layout, readBase } from "../../../src/storage/local/layout.ts"
import { walkChain } from "../../../src/storage/local/walChain.ts"
import { printWalFile } from "../../../src/storage/local/walSegments.ts"

export const segmentBytes = 1024 * 1024
const pageBytes = 8192
export const systemId = 7_123_456_789_012_345_678n

export const walFile = (wal: string, lsn: number): string =>
  `${wal}/${printWalFile({ pgTimeline: 1, number: BigInt(Math.floor(lsn / segmentBytes)) }, segmentBytes)}`

const headerBytes = (page: number): number => (page % segmentBytes === 0 ? 40 : 24)

/** As large and as laid out as Postgres 17's. */
export const controlBytes = (checkpoint: number): Buffer => {
  const bytes = Buffer.alloc(8192)
  bytes.writeBigUInt64LE(systemId, 0)
  bytes.writeInt32LE(1, 16)
  bytes.writeBigUInt64LE(BigInt(checkpoint), 32)
  bytes.writeBigUInt64LE(BigInt(checkpoint), 40)
  bytes.writeUInt32LE(1, 48)
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, 288)), 288)
  return bytes
}

const recordOf = (n: number, length: number, previous: number): Buffer => {
  const record = Buffer.alloc(24 + 8 + length, n % 251)
  record.fill(0, 0, 24)
  record.writeUInt32LE(record.length, 0)
  record.writeBigUInt64LE(BigInt(previous), 8)
  record[17] = 10
  record.writeDoubleLE(n, 24)
  record.writeUInt32LE(crc32c(Buffer.concat([record.subarray(24), record.subarray(0, 20)])), 20)
  return record
}

/** Writes in place, as Postgres does, and never into a file that has another name. */
const writeAt = (wal: string, lsn: number, bytes: Buffer): void => {
  const file = walFile(wal, lsn)
  const fd = fs.openSync(file, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600)
  try {
    const { nlink, size } = fs.fstatSync(fd)
    assert.strictEqual(nlink, 1, `${file} is written to and has ${nlink} names`)
    if (size === 0) fs.ftruncateSync(fd, segmentBytes)
    fs.writeSync(fd, bytes, 0, bytes.length, lsn % segmentBytes)
  } finally {
    fs.closeSync(fd)
  }
}

/** Where Postgres writes on, and the record before; `overwrites`: in place of the rest of a record that was torn. */
export interface WalEnd {
  lsn: number
  previous: number
  overwrites: boolean
}

const putHeader = (wal: string, page: number, remaining: number, overwrites = false): void => {
  const header = Buffer.alloc(headerBytes(page))
  header.writeUInt16LE(0xd116, 0)
  header.writeUInt16LE((remaining > 0 ? 1 : 0) | (header.length === 40 ? 2 : 0) | (overwrites ? 8 : 0), 2)
  header.writeUInt32LE(1, 4)
  header.writeBigUInt64LE(BigInt(page), 8)
  header.writeUInt32LE(remaining, 16)
  if (header.length === 40) {
    header.writeBigUInt64LE(systemId, 24)
    header.writeUInt32LE(segmentBytes, 32)
    header.writeUInt32LE(pageBytes, 36)
  }
  writeAt(wal, page, header)
}

/** The end of the record, from where the next one goes on. `torn`: only half of it reaches the file. */
export const append = (wal: string, end: WalEnd, n: number, length: number, torn = false): number => {
  if (end.lsn % pageBytes === 0) {
    putHeader(wal, end.lsn, 0, end.overwrites)
    end.lsn += headerBytes(end.lsn)
    end.overwrites = false
  }
  const start = end.lsn
  const record = recordOf(n, length, end.previous)
  const wanted = torn ? record.length >> 1 : record.length
  let at = start
  for (let done = 0; done < wanted;) {
    if (at % pageBytes === 0) {
      putHeader(wal, at, record.length - done)
      at += headerBytes(at)
    }
    const part = record.subarray(done, Math.min(wanted, done + pageBytes - (at % pageBytes)))
    writeAt(wal, at, part)
    done += part.length
    at += part.length
  }
  if (torn) return start
  end.lsn = (at + 7) & ~7
  end.previous = start
  return end.lsn
}

/** The page where replay has ended is written anew, with zeros behind. */
export const writeOn = (wal: string, lsn: number): void => {
  const behind = lsn % pageBytes
  if (behind !== 0) writeAt(wal, lsn, Buffer.alloc(pageBytes - behind))
}

/** Of the records from `from` to `to`: their numbers, where each ends, and the last one's beginning. */
const readRecords = (wal: string, from: number, to: number) => {
  const records: Array<{ readonly n: number; readonly start: number; readonly end: number }> = []
  const segments = new Map<string, Buffer>()
  const segmentAt = (lsn: number): Buffer => {
    const file = walFile(wal, lsn)
    const known = segments.get(file) ?? fs.readFileSync(file)
    segments.set(file, known)
    return known
  }
  let previous = 0
  for (let at = from; at < to;) {
    if (at % pageBytes === 0) at += headerBytes(at)
    const start = at
    const parts: Array<Buffer> = []
    let total = Infinity
    for (let got = 0; got < total;) {
      if (at % pageBytes === 0) {
        const isTorn = (segmentAt(at).readUInt16LE((at % segmentBytes) + 2) & 8) !== 0
        at += headerBytes(at)
        if (isTorn) break
      }
      const offset = at % segmentBytes
      const part = segmentAt(at).subarray(offset, offset + Math.min(total - got, pageBytes - (at % pageBytes)))
      if (got === 0) total = part.readUInt32LE(0)
      const taken = part.subarray(0, total - got)
      parts.push(taken)
      got += taken.length
      at += taken.length
    }
    const record = Buffer.concat(parts)
    if (record.length < total) continue
    at = (at + 7) & ~7
    previous = start
    records.push({ n: record.readDoubleLE(24), start, end: at })
  }
  return { records, previous }
}

export const data = "base/1/numbers"

const numbersIn = (file: string): ReadonlyArray<number> => {
  const text = fs.readFileSync(file, "utf8")
  return text === "" ? [] : text.split("\n").map(Number)
}

/** What a start from the timeline's folder would bring back: its numbers, in order, and its WAL's records and end. */
export const contentOf = Effect.fnUntraced(function* (layout: Layout) {
  const base = (yield* readBase(layout)) as Base
  const end = yield* walkChain({ folder: layout.wal, segmentBytes, pgTimeline: 1 }, base.start, null)
  const { previous, records } = readRecords(layout.wal, Number(base.start), Number(end.lsn))
  const folder = base.current.format === 2 ? base.current.folder : ""
  return {
    numbers: [...numbersIn(`${layout.root}/${folder}/pgdata/${data}`), ...records.map(({ n }) => n)],
    records,
    lsn: end.lsn,
    end: { lsn: Number(end.contiguous), previous, overwrites: end.contiguous > end.lsn },
    base
  }
})

/** A file of PGDATA gets another content, in place. */
export const writeData = (pgdata: string, name: string, content: string | Buffer): void => {
  const file = `${pgdata}/${name}`
  const names = fs.lstatSync(file, { throwIfNoEntry: false })?.nlink ?? 1
  assert.strictEqual(names, 1, `${file} is written to and has ${names} names`)
  fs.writeFileSync(file, content, { mode: 0o600 })
}
