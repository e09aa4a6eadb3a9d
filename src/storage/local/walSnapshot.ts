/**
 * The WAL of a timeline at one moment, in the folder of a branch, while Postgres may be writing to it.
 *
 * Segments that are complete are shared by a second name: nobody writes to them again. The last ones are copied, from
 * their ends to their beginnings: Postgres writes WAL in order, so where a page was there, all before it was there when
 * it was looked for afterwards, and the copy has no gap. Zeros are not written. Only the end of the copy is a matter
 * of chance, and never before what was acknowledged when the copy began.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import type { FileFailed } from "../../errors/Failure.ts"
import { attemptPromise, namesIn, removeFile } from "../../platform/files.ts"
import type { RunAs } from "../../platform/Spawn.ts"
import { parseSegmentHeader } from "../../postgres/controlFile.ts"
import type { Lsn } from "../../spec/identifiers.ts"
import { flush, handOver, readStart, rename, statOrNull } from "./disk.ts"
import { failpoint } from "./failpoint.ts"
import type { Base, Layout } from "./layout.ts"
import { paced, type Pacer } from "./pacing.ts"
import type { Reached } from "./reached.ts"
import { shareFiles } from "./secondNames.ts"
import { parseWalFile, printWalFile, segmentNumberBefore, segmentNumberOf, segmentsFrom } from "./walSegments.ts"

const pageBytes = 8192
/** Written at once. */
const chunkBytes = 256 * 1024
const zeros = Buffer.alloc(pageBytes)

const readPages = (fd: number, chunk: Buffer, at: number): number => {
  let used = 0
  for (let page = chunkBytes - pageBytes; page >= 0; page -= pageBytes) {
    const got = fs.readSync(fd, chunk, page, pageBytes, at + page)
    if (got < pageBytes) chunk.fill(0, page + got, page + pageBytes)
    if (used === 0 && chunk.compare(zeros, 0, pageBytes, page, page + pageBytes) !== 0) used = page + pageBytes
  }
  return used
}

const copySegment = async (pacer: Pacer, from: string, to: string, segmentBytes: number): Promise<void> => {
  const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = fs.constants
  const source = fs.openSync(from, O_RDONLY | O_NOFOLLOW)
  try {
    const target = fs.openSync(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
    try {
      fs.ftruncateSync(target, segmentBytes)
      const chunk = Buffer.allocUnsafe(chunkBytes)
      for (let at = segmentBytes - chunkBytes; at >= 0; at -= chunkBytes) {
        const used = readPages(source, chunk, at)
        for (let put = 0; put < used;) put += fs.writeSync(target, chunk, put, used - put, at + put)
        const rest = pacer.tick()
        if (rest !== null) await rest
      }
    } finally {
      fs.closeSync(target)
    }
  } finally {
    fs.closeSync(source)
  }
}

const numberIn = (base: Base, name: string): bigint | null =>
  Option.match(parseWalFile(name, base.current.segmentBytes), {
    onNone: () => null,
    onSome: ({ number, pgTimeline }) => (pgTimeline === base.pgTimeline ? number : null)
  })

/** The last segment that Postgres has begun to write to; others may be made ahead of need. */
const newestBegun = Effect.fnUntraced(function* (
  wal: string,
  names: ReadonlyArray<string>,
  base: Base
): Effect.fn.Return<bigint, FileFailed> {
  const { segmentBytes, systemId } = base.current
  for (const name of [...names].sort().reverse()) {
    const header = Result.getOrNull(parseSegmentHeader(yield* readStart(`${wal}/${name}`, 64)))
    const number = numberIn(base, name)
    const isBegun = header?.systemId === BigInt(systemId) && header.pgTimeline === base.pgTimeline
    if (number !== null && isBegun && header.address === number * BigInt(segmentBytes)) return number
  }
  return segmentNumberOf(base.start, segmentBytes)
})

/**
 * Puts all WAL of `from` since its base into `to`, an empty folder; `reached` was read before. Where only some of it is
 * wanted, `cutWal` takes away the rest.
 */
export const takeWal = Effect.fnUntraced(function* (
  from: Layout,
  base: Base,
  reached: Reached | null,
  to: string
): Effect.fn.Return<void, FileFailed> {
  const { segmentBytes } = base.current
  const present = segmentsFrom(yield* namesIn(from.wal), segmentNumberOf(base.start, segmentBytes), segmentBytes)
  const last = yield* newestBegun(from.wal, present, base)
  const names = present.filter((name) => (numberIn(base, name) ?? last + 1n) <= last)
  // Behind both of them Postgres will write; a page of WAL that was lost long ago proves nothing.
  const isNew = reached !== null && last * BigInt(segmentBytes) >= reached.stale
  const written = reached === null ? 0n : segmentNumberOf(reached.written, segmentBytes)
  const complete = isNew && last > written ? last : written
  const first = printWalFile({ pgTimeline: base.pgTimeline, number: complete }, segmentBytes)
  const copied = names.filter((name) => name >= first).sort()
  yield* paced("copy", from.wal, "urgent", async (pacer) => {
    for (const name of copied.reverse()) {
      await copySegment(pacer, `${from.wal}/${name}`, `${to}/${name}`, segmentBytes)
    }
    const shared = names.filter((name) => name < first)
    await shareFiles(pacer, from.wal, to, shared, from.owner)
  })
  for (const name of copied) yield* handOver(`${to}/${name}`, from.owner)
})

/** A copy of the first `length` bytes takes the place of the file, which keeps its size. */
const ownStart = Effect.fnUntraced(function* (path: string, draft: string, length: number, owner: RunAs | null) {
  yield* removeFile(draft)
  yield* attemptPromise("copy", path, async () => {
    const { size } = await fs.promises.lstat(path)
    if (length > 0) {
      await fs.promises.copyFile(path, draft, fs.constants.COPYFILE_FICLONE | fs.constants.COPYFILE_EXCL)
    } else await fs.promises.writeFile(draft, "", { flag: "wx", mode: 0o600 })
    await fs.promises.truncate(draft, length)
    await fs.promises.truncate(draft, size)
  })
  yield* handOver(draft, owner)
  yield* flush(draft)
  yield* rename(draft, path)
})

/** Nothing at or after `end` stays in the folder. Its last segment is then nobody else's. */
export const cutWal = Effect.fnUntraced(function* (
  wal: string,
  base: Base,
  end: Lsn,
  owner: RunAs | null
): Effect.fn.Return<void, FileFailed> {
  const { segmentBytes } = base.current
  const last = segmentNumberBefore(end, segmentBytes)
  const names = segmentsFrom(yield* namesIn(wal), last, segmentBytes)
  const name = printWalFile({ pgTimeline: base.pgTimeline, number: last }, segmentBytes)
  yield* Effect.forEach(
    names.filter((other) => other !== name),
    (other) => removeFile(`${wal}/${other}`),
    { discard: true }
  )
  const used = Number(end - last * BigInt(segmentBytes))
  const path = `${wal}/${name}`
  if ((yield* statOrNull(path))?.nlink !== 1) return yield* ownStart(path, `${wal}/cut`, used, owner)
  yield* attemptPromise("cut", path, async () => {
    await fs.promises.truncate(path, used)
    await fs.promises.truncate(path, segmentBytes)
  })
})

/**
 * Before Postgres starts: segments that it may write to, which are those at the end of replay and behind it, are made
 * this timeline's own where a branch has them too. Then no file with a second name is ever written to.
 */
export const ownWal = Effect.fnUntraced(function* (layout: Layout, base: Base, end: Lsn) {
  const { segmentBytes } = base.current
  const last = segmentNumberBefore(end, segmentBytes)
  for (const name of segmentsFrom(yield* namesIn(layout.wal), last, segmentBytes)) {
    const path = `${layout.wal}/${name}`
    const stat = yield* statOrNull(path)
    if (stat === null || stat.nlink === 1) continue
    yield* failpoint("wal-own")
    yield* ownStart(path, `${layout.root}/wal.own`, stat.size, layout.owner)
  }
})
