/**
 * The messages of `page_api` that a start needs, in protobuf's bytes (reference section 11.11).
 *
 * Unknown fields are passed over, so a newer pageserver may say more.
 */
import Protobuf, { type Reader, type Writer } from "protobufjs/minimal.js"
import type { Lsn } from "../../spec/Lsn.ts"

export interface BaseBackupRequest {
  /** `0/0`: the latest. */
  readonly lsn: Lsn
  readonly replica: boolean
}

/** Wire types of protobuf. */
const varint = 0
const field = (number: number, type: number): number => (number << 3) | type

/** The library's own pair of halves, which needs no number that is too big for JavaScript. */
const halves = (value: bigint) => ({ low: Number(value & 0xffff_ffffn), high: Number(value >> 32n), unsigned: true })

const writeLsn = (writer: Writer, lsn: Lsn): Writer => lsn === 0n ? writer : writer.uint32(field(1, varint)).uint64(halves(lsn) as never)

const gzip = 2

export const encodeBaseBackupRequest = ({ lsn, replica }: BaseBackupRequest): Buffer => {
  const writer = writeLsn(new Protobuf.Writer(), lsn)
  if (replica) writer.uint32(field(2, varint)).bool(true)
  return Buffer.from(writer.uint32(field(4, varint)).int32(gzip).finish())
}

export const encodeLeaseRequest = (lsn: Lsn): Buffer => Buffer.from(writeLsn(new Protobuf.Writer(), lsn).finish())

/** Calls `take` at each field; what it does not read is passed over. */
const eachField = (reader: Reader, end: number, take: (number: number) => boolean): void => {
  while (reader.pos < end) {
    const tag = reader.uint32()
    if (!take(tag >>> 3)) reader.skipType(tag & 7)
  }
}

/** The bytes of the archive in one chunk. */
export const decodeChunk = (message: Buffer): Uint8Array => {
  const reader = Protobuf.Reader.create(message)
  let chunk: Uint8Array = new Uint8Array(0)
  eachField(reader, reader.len, (number) => {
    if (number !== 1) return false
    chunk = reader.bytes()
    return true
  })
  return chunk
}

/** When the lease ends, in milliseconds since the epoch; 0 when it does not say. */
export const decodeLease = (message: Buffer): number => {
  const reader = Protobuf.Reader.create(message)
  let millis = 0
  eachField(reader, reader.len, (outer) => {
    if (outer !== 1) return false
    const end = reader.uint32() + reader.pos
    eachField(reader, end, (inner) => {
      if (inner === 1) millis += Number(reader.int64().toString()) * 1000
      else if (inner === 2) millis += Math.floor(reader.int32() / 1_000_000)
      else return false
      return true
    })
    return true
  })
  return millis
}
