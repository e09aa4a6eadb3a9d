/**
 * The chain of write-ahead log records, followed as Postgres will follow it at replay, before Postgres does: where it
 * ends, why it ends there, and whether WAL that was written later is still to be seen behind that end.
 *
 * Only reads. Each record is checked as Postgres checks it: its page's address, its length, the link to the record
 * before it, its CRC-32C. A record that was cut short by a crash and then overwritten is skipped, as Postgres does it.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { codeOf } from "../../errors/errno.ts"
import { FileFailed } from "../../errors/Failure.ts"
import { crc32cBegin, crc32cEnd, crc32cUpdate } from "../../postgres/controlFile.ts"
import { type Lsn, printLsn } from "../../spec/identifiers.ts"
import { freeMemory } from "./pacing.ts"
import { printWalFile } from "./walSegments.ts"

const pageBytes = 8192
const recordHeaderBytes = 24
/** A longer one is refused when it is written. */
const longestRecord = 0x4000_0000
const furthestBack = 0x10_0000n
/** Read at once: about a millisecond's work. */
const chunkBytes = 512 * 1024

/** Of a page: it begins inside a record; it is the first of its segment; it replaces the rest of a lost record. */
const flags = { continues: 1, long: 2, overwrites: 8 } as const

export interface WalFolder {
  readonly folder: string
  readonly segmentBytes: number
  readonly pgTimeline: number
}

export interface ChainEnd {
  /** Behind the last whole record. */
  readonly lsn: Lsn
  /**
   * Every byte before it is proven to be there. Later than `lsn` when the last record was still being written: Postgres
   * may have flushed its beginning.
   */
  readonly contiguous: Lsn
  /** From here on a page tells of WAL that was written after what is missing. */
  readonly after: Lsn
  /** Records that were followed. */
  readonly records: number
  readonly reason: string
  /** It goes on, but not before the LSN that it was asked for. */
  readonly isLimit: boolean
  /** A tablespace is made in it, whose files are outside of the data directory. */
  readonly hasTablespace: boolean
}

/** Pages one after the other, in a buffer that the next read reuses; `null`: there is none. */
const makeReader = ({ folder, pgTimeline, segmentBytes }: WalFolder) => {
  const memory = new ArrayBuffer(chunkBytes)
  const bytes = new Uint8Array(memory)
  const chunk = { bytes, words: new Int32Array(memory), view: new DataView(memory) }
  const nameOf = (number: bigint) => `${folder}/${printWalFile({ pgTimeline, number }, segmentBytes)}`
  let file: { readonly number: bigint; readonly handle: fs.promises.FileHandle } | null = null
  let at = -1n
  let filled = 0
  const close = async () => {
    await file?.handle.close()
    file = null
  }
  const open = async (number: bigint) => {
    if (file?.number === number) return file.handle
    await close()
    const name = nameOf(number)
    try {
      file = { number, handle: await fs.promises.open(name, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW) }
    } catch (cause) {
      if (codeOf(cause) !== "ENOENT") throw new FileFailed({ operation: "read", path: name, cause })
    }
    return file?.handle ?? null
  }
  const readChunk = async (handle: fs.promises.FileHandle, from: bigint) => {
    try {
      return (await handle.read(bytes, 0, chunkBytes, Number(from % BigInt(segmentBytes)))).bytesRead
    } catch (cause) {
      throw new FileFailed({ operation: "read", path: nameOf(from / BigInt(segmentBytes)), cause })
    }
  }
  /** The page's place in `chunk`. */
  const page = async (address: Lsn): Promise<number | null> => {
    const wanted = address - (address % BigInt(chunkBytes))
    if (wanted !== at) {
      const handle = await open(address / BigInt(segmentBytes))
      filled = handle === null ? 0 : await readChunk(handle, wanted)
      at = wanted
    }
    const offset = Number(address - wanted)
    return offset + pageBytes <= filled ? offset : null
  }
  /** To be called once, when nothing is read any more. */
  const end = async () => {
    await close()
    freeMemory(memory)
  }
  return { chunk, end, page }
}

type Reader = ReturnType<typeof makeReader>

interface Page {
  /** Its place in the chunk. */
  readonly base: number
  readonly info: number
  readonly remaining: number
  readonly headerBytes: number
}

/** A page that belongs where it stands. The magic number is the Postgres version's: that of the first page counts. */
const readPage = async (reader: Reader, wal: WalFolder, address: Lsn, magic: number | null) => {
  const base = await reader.page(address)
  if (base === null) return null
  const { view } = reader.chunk
  const found = view.getUint16(base, true)
  const isFirst = address % BigInt(wal.segmentBytes) === 0n
  const info = view.getUint16(base + 2, true)
  const belongs =
    view.getBigUint64(base + 8, true) === address &&
    view.getUint32(base + 4, true) === wal.pgTimeline &&
    (magic === null ? found >> 8 === 0xd1 : found === magic) &&
    isFirst === ((info & flags.long) !== 0)
  if (!belongs) return null
  return {
    magic: found,
    page: { base, info, remaining: view.getUint32(base + 16, true), headerBytes: isFirst ? 40 : 24 }
  }
}

/** A record whose beginning was read. */
interface Partial {
  readonly start: Lsn
  readonly total: number
  got: number
  crc: number
}

class Walker {
  private readonly chunk: Reader["chunk"]
  private readonly from: Lsn
  private readonly until: Lsn | null
  private isLimit = false
  private hasTablespace = false
  private readonly header = new Uint8Array(recordHeaderBytes)
  private readonly headerWords = new Int32Array(this.header.buffer)
  private readonly headerView = new DataView(this.header.buffer)
  private partial: Partial | null = null
  private previous: Lsn | null = null
  private end: Lsn
  private records = 0
  private switched = false

  constructor(reader: Reader, from: Lsn, until: Lsn | null) {
    this.chunk = reader.chunk
    this.from = from
    this.until = until
    this.end = from
  }

  private stop(reason: string, contiguous: Lsn, after: Lsn): ChainEnd {
    const { end, hasTablespace, isLimit, records } = this
    return { lsn: end, contiguous: contiguous > end ? contiguous : end, after, records, reason, isLimit, hasTablespace }
  }

  stopWithout(address: Lsn): ChainEnd {
    return this.stop(`there is no page at ${printLsn(address)}`, address, address)
  }

  /** Is the rest of the segment to be skipped? */
  takeSwitch(): boolean {
    const was = this.switched
    this.switched = false
    return was
  }

  /** Takes up to the end of the page; the place behind what was taken. */
  private take(record: Partial, base: number, offset: number): number {
    const { bytes, words } = this.chunk
    const taken = Math.min(record.total - record.got, pageBytes - offset)
    const toHeader = Math.min(Math.max(recordHeaderBytes - record.got, 0), taken)
    const place = base + offset
    if (toHeader > 0) this.header.set(bytes.subarray(place, place + toHeader), record.got)
    record.crc = crc32cUpdate(record.crc, bytes, words, place + toHeader, place + taken)
    record.got += taken
    return offset + taken
  }

  /** Why the record that was read to its end is none, or `null`. */
  private finish(record: Partial, next: Lsn): string | null {
    const { header, headerView, headerWords } = this
    const crc = crc32cEnd(crc32cUpdate(record.crc, header, headerWords, 0, recordHeaderBytes - 4))
    if (crc !== headerView.getUint32(recordHeaderBytes - 4, true)) {
      return `the checksum of the record at ${printLsn(record.start)} does not match`
    }
    if (this.previous !== null && headerView.getBigUint64(8, true) !== this.previous) {
      return `the record at ${printLsn(record.start)} does not follow the one before it`
    }
    if (this.until !== null && next > this.until) {
      this.isLimit = true
      return `the record at ${printLsn(record.start)} ends after ${printLsn(this.until)}`
    }
    this.previous = record.start
    this.end = next
    this.records += 1
    // XLOG_SWITCH: the rest of the segment is empty.
    const [kind, manager] = [(header[16] ?? 0) & 0xf0, header[17]]
    this.switched = manager === 0 && kind === 0x40
    // XLOG_TBLSPC_CREATE.
    this.hasTablespace ||= manager === 5 && kind === 0
    return null
  }

  /** Does the page begin as the one before it ended? `null`: it does. */
  private enter({ info, remaining }: Page, address: Lsn, atHeader: boolean): ChainEnd | null {
    const { partial } = this
    if (partial === null) {
      if (!atHeader || (info & flags.continues) === 0) return null
      return this.stop(`the page at ${printLsn(address)} goes on with a record that never began`, address, address)
    }
    if ((info & flags.overwrites) !== 0) {
      this.partial = null
      return null
    }
    return (info & flags.continues) !== 0 && remaining === partial.total - partial.got
      ? null
      : this.stop(`the record at ${printLsn(partial.start)} does not go on in the next page`, address, address)
  }

  /** All records that begin or go on in this page. `null`: go on with the next page. */
  walkPage(page: Page, address: Lsn, first: boolean): ChainEnd | null {
    const behind = address + BigInt(pageBytes)
    let offset = first ? Math.max(Number(this.from - address), page.headerBytes) : page.headerBytes
    const wrongPage = this.enter(page, address, offset === page.headerBytes)
    if (wrongPage !== null) return wrongPage
    while (offset < pageBytes) {
      if (this.partial === null) {
        const start = address + BigInt(offset)
        const total = this.chunk.view.getUint32(page.base + offset, true)
        if (total < recordHeaderBytes || total > longestRecord) {
          return this.stop(`there is no record at ${printLsn(start)}`, start, behind)
        }
        this.partial = { start, total, got: 0, crc: crc32cBegin }
      }
      const record = this.partial
      offset = (this.take(record, page.base, offset) + 7) & ~7
      if (record.got < record.total) return null
      const wrong = this.finish(record, address + BigInt(offset))
      if (wrong !== null) return this.stop(wrong, address, behind)
      this.partial = null
      if (this.switched) return null
    }
    return null
  }
}

const walk = async (wal: WalFolder, from: Lsn, until: Lsn | null): Promise<ChainEnd> => {
  const reader = makeReader(wal)
  try {
    const walker = new Walker(reader, from, until)
    const segment = BigInt(wal.segmentBytes)
    let address = from - (from % BigInt(pageBytes))
    let magic: number | null = null
    for (let first = true; ; first = false) {
      const read = await readPage(reader, wal, address, magic)
      if (read === null) return walker.stopWithout(address)
      magic = read.magic
      const ended = walker.walkPage(read.page, address, first)
      if (ended !== null) return ended
      address = walker.takeSwitch() ? (address / segment + 1n) * segment : address + BigInt(pageBytes)
    }
  } finally {
    await reader.end()
  }
}

/** A segment that cannot be read is named. */
const reading = <A>({ folder }: WalFolder, work: () => Promise<A>): Effect.Effect<A, FileFailed> =>
  Effect.tryPromise({
    try: work,
    catch: (cause) => (cause instanceof FileFailed ? cause : new FileFailed({ operation: "read", path: folder, cause }))
  })

/** Follows the records from `from`, where one begins; with `until` only those that end at or before it. */
export const walkChain = (wal: WalFolder, from: Lsn, until: Lsn | null = null): Effect.Effect<ChainEnd, FileFailed> =>
  reading(wal, () => walk(wal, from, until))

/** Back from the page of `lsn` to one in which a record begins before it. */
const findRecordBefore = async (wal: WalFolder, lsn: Lsn): Promise<Lsn | null> => {
  const reader = makeReader(wal)
  try {
    const last = lsn - 1n - ((lsn - 1n) % BigInt(pageBytes))
    for (let address = last; address >= 0n && address > last - furthestBack; address -= BigInt(pageBytes)) {
      const read = await readPage(reader, wal, address, null)
      if (read === null) return null
      const { headerBytes, info, remaining } = read.page
      const offset = headerBytes + ((info & flags.continues) === 0 ? 0 : (remaining + 7) & ~7)
      if (offset < pageBytes && address + BigInt(offset) < lsn) return address + BigInt(offset)
    }
    return null
  } finally {
    await reader.end()
  }
}

/** Where some record begins, at most a megabyte before `lsn`; `null`: none was found. */
export const recordBefore = (wal: WalFolder, lsn: Lsn): Effect.Effect<Lsn | null, FileFailed> =>
  lsn === 0n ? Effect.succeed(null) : reading(wal, () => findRecordBefore(wal, lsn))

const findLastPage = async (wal: WalFolder, from: Lsn, last: bigint): Promise<Lsn | null> => {
  const reader = makeReader(wal)
  const segment = BigInt(wal.segmentBytes)
  let found: Lsn | null = null
  try {
    for (let address = from; address / segment === from / segment; address += BigInt(pageBytes)) {
      if ((await readPage(reader, wal, address, null)) !== null) found = address
    }
    // Of later segments the first page is enough: nothing is written into one that was not begun.
    for (let number = from / segment + 1n; number <= last; number++) {
      if ((await readPage(reader, wal, number * segment, null)) !== null) found = number * segment
    }
    return found
  } finally {
    await reader.end()
  }
}

/**
 * The last page at or after `from`, in the segments up to number `last`, that was written as part of this WAL; of a
 * later segment than `from`'s, its first page. `null`: there is none.
 */
export const lastPageAfter = (wal: WalFolder, from: Lsn, last: bigint): Effect.Effect<Lsn | null, FileFailed> =>
  reading(wal, () => findLastPage(wal, from, last))
