/**
 * What we read from, and the one thing we change in, Postgres's binary files: pg_control and the first page of a
 * WAL segment.
 *
 * The offsets used are the same in Postgres 14 to 18 on little-endian machines; the checksum's place is not, so it
 * is found by trying. Anything that does not check out is refused.
 */
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type { Lsn } from "../spec/identifiers.ts"

/** pg_control is padded to this many bytes on disk. */
export const controlFileBytes = 8192

export interface ControlFile {
  readonly systemId: bigint
  /** The cluster was stopped cleanly: there is nothing to replay, unless WAL was written by someone else since. */
  readonly shutDown: boolean
  /** Where the latest checkpoint record is. */
  readonly checkpoint: Lsn
  /** Where replay from that checkpoint begins. */
  readonly redo: Lsn
  readonly pgTimeline: number
  readonly crcOffset: number
}

/** Sixteen tables of 256 entries: what a byte does to the checksum when 0 to 15 more bytes follow it at once. */
const tables = ((): Int32Array => {
  const entries = new Int32Array(256 * 16)
  for (let index = 0; index < 256; index++) {
    let value = index
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1
    entries[index] = value
  }
  for (let at = 256; at < entries.length; at++) {
    const before = entries[at - 256] ?? 0
    entries[at] = (before >>> 8) ^ (entries[before & 0xff] ?? 0)
  }
  return entries
})()

const crcStep = (crc: number, byte: number): number => (tables[(crc ^ byte) & 0xff] ?? 0) ^ (crc >>> 8)

/** What four bytes, the lowest first, do when `after` more words follow them at once. */
const crcWord = (word: number, after: number): number => {
  const place = after * 1024
  return (
    (tables[place + 768 + (word & 0xff)] ?? 0) ^
    (tables[place + 512 + ((word >>> 8) & 0xff)] ?? 0) ^
    (tables[place + 256 + ((word >>> 16) & 0xff)] ?? 0) ^
    (tables[place + (word >>> 24)] ?? 0)
  )
}

export const crc32cBegin = -1

/** `from` is a multiple of 4, and `words` the same memory as `bytes`: half a gigabyte per second and more. */
export const crc32cUpdate = (crc: number, bytes: Uint8Array, words: Int32Array, from: number, to: number): number => {
  let result = crc
  let word = from >> 2
  for (const end = to >> 2; word + 4 <= end; word += 4) {
    result =
      crcWord(result ^ (words[word] ?? 0), 3) ^
      crcWord(words[word + 1] ?? 0, 2) ^
      crcWord(words[word + 2] ?? 0, 1) ^
      crcWord(words[word + 3] ?? 0, 0)
  }
  for (let at = word << 2; at < to; at++) result = crcStep(result, bytes[at] ?? 0)
  return result
}

export const crc32cEnd = (crc: number): number => ~crc >>> 0

/** CRC-32C (Castagnoli), as Postgres computes it. */
export const crc32c = (bytes: Uint8Array): number => {
  let crc = crc32cBegin
  for (const byte of bytes) crc = crcStep(crc, byte)
  return crc32cEnd(crc)
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** The checksum is the struct's last field; the struct has grown from version to version, within these bounds. */
const crcBounds = { first: 200, last: 508 }

const findCrc = (bytes: Uint8Array): Option.Option<number> => {
  const view = viewOf(bytes)
  let crc = crc32cBegin
  for (let offset = 0; offset <= crcBounds.last; offset++) {
    if (offset >= crcBounds.first && offset % 4 === 0 && view.getUint32(offset, true) === crc32cEnd(crc)) {
      return Option.some(offset)
    }
    crc = crcStep(crc, bytes[offset] ?? 0)
  }
  return Option.none()
}

export const parseControlFile = (bytes: Uint8Array): Result.Result<ControlFile, string> => {
  if (bytes.length < 512) return Result.fail(`pg_control has only ${bytes.length} bytes`)
  const view = viewOf(bytes)
  const crc = findCrc(bytes)
  if (Option.isNone(crc)) return Result.fail("pg_control's checksum does not match its content")
  return Result.succeed({
    systemId: view.getBigUint64(0, true),
    shutDown: view.getInt32(16, true) === 1,
    checkpoint: view.getBigUint64(32, true),
    redo: view.getBigUint64(40, true),
    pgTimeline: view.getUint32(48, true),
    crcOffset: crc.value
  })
}

/** A copy of pg_control with another system identifier and the checksum that goes with it. */
export const controlFileWithSystemId = (bytes: Uint8Array, systemId: bigint): Result.Result<Uint8Array, string> =>
  Result.map(parseControlFile(bytes), ({ crcOffset }) => {
    const copy = Uint8Array.from(bytes)
    const view = viewOf(copy)
    view.setBigUint64(0, systemId, true)
    view.setUint32(crcOffset, crc32c(copy.subarray(0, crcOffset)), true)
    return copy
  })

export interface SegmentHeader {
  readonly pgTimeline: number
  /** LSN of the segment's first byte. */
  readonly address: Lsn
  readonly systemId: bigint
  readonly segmentBytes: number
}

/** Where a segment's first page holds the system identifier; page headers have no checksum. */
export const segmentSystemIdOffset = 24

/** The long header that begins each segment file; `bytes` needs at least 40 of them. */
export const parseSegmentHeader = (bytes: Uint8Array): Result.Result<SegmentHeader, string> => {
  if (bytes.length < 40) return Result.fail("the segment is shorter than its header")
  const view = viewOf(bytes)
  const segmentBytes = view.getUint32(32, true)
  const bounded = segmentBytes >= 0x10_0000 && segmentBytes <= 0x4000_0000
  if ((view.getUint16(2, true) & 2) === 0 || !bounded || (segmentBytes & (segmentBytes - 1)) !== 0) {
    return Result.fail("the segment does not begin with a long page header")
  }
  return Result.succeed({
    pgTimeline: view.getUint32(4, true),
    address: view.getBigUint64(8, true),
    systemId: view.getBigUint64(segmentSystemIdOffset, true),
    segmentBytes
  })
}
