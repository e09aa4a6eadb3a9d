/**
 * The names of write-ahead log segments, and the arithmetic between them and LSNs, for any segment size.
 *
 * Knows one Postgres timeline at a time: local storage never leaves the one it began with.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { FileFailed, StorageDamaged } from "../../errors/Failure.ts"
import type { Lsn } from "../../spec/identifiers.ts"
import { flush, makeFolder, namesIn, removeFile, removeTree, rename, replaceFile, statOrNull } from "./disk.ts"
import { type Base, damaged, type Layout, printRecord, readBootId, readReached, readUnflushed } from "./layout.ts"

/** One segment: `number` counts from 0 at LSN 0/0. */
export interface WalSegment {
  readonly pgTimeline: number
  readonly number: bigint
}

const hex8 = (value: bigint): string => value.toString(16).toUpperCase().padStart(8, "0")

/** How many segments share one 4 GiB "log id", the middle third of the name. */
const perLogId = (segmentBytes: number): bigint => 0x1_0000_0000n / BigInt(segmentBytes)

export const printWalFile = (segment: WalSegment, segmentBytes: number): string => {
  const per = perLogId(segmentBytes)
  return hex8(BigInt(segment.pgTimeline)) + hex8(segment.number / per) + hex8(segment.number % per)
}

/** `none` for everything that is not a plain segment: `.partial`, `.history`, `.backup`, `xlogtemp.42`, folders. */
export const parseWalFile = (name: string, segmentBytes: number): Option.Option<WalSegment> => {
  const match = /^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$/.exec(name)
  if (match === null) return Option.none()
  const low = BigInt(`0x${match[3]}`)
  const per = perLogId(segmentBytes)
  if (low >= per) return Option.none()
  return Option.some({ pgTimeline: Number.parseInt(match[1] ?? "", 16), number: BigInt(`0x${match[2]}`) * per + low })
}

/** The segment that holds the byte at `lsn`. */
export const segmentNumberOf = (lsn: Lsn, segmentBytes: number): bigint => lsn / BigInt(segmentBytes)

/** The segment that holds the last byte before `lsn`: an end position at a border needs nothing of the next file. */
export const segmentNumberBefore = (lsn: Lsn, segmentBytes: number): bigint =>
  lsn === 0n ? 0n : (lsn - 1n) / BigInt(segmentBytes)

const numbersOf = (names: ReadonlyArray<string>, pgTimeline: number, segmentBytes: number): ReadonlyArray<bigint> =>
  names
    .flatMap((name) =>
      Option.match(parseWalFile(name, segmentBytes), {
        onNone: () => [],
        onSome: (segment) => (segment.pgTimeline === pgTimeline ? [segment.number] : [])
      })
    )
    .sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))

/**
 * The first segment that a start from `first` would miss: a hole anywhere up to the newest file, or up to `last`
 * when that is known to have been written. Replay stops at a hole without a word, so it must be seen before.
 */
export const firstMissing = (
  names: ReadonlyArray<string>,
  range: { readonly pgTimeline: number; readonly first: bigint; readonly last: bigint },
  segmentBytes: number
): Option.Option<string> => {
  const present = new Set(numbersOf(names, range.pgTimeline, segmentBytes))
  let end = range.last
  for (const number of present) if (number > end) end = number
  for (let number = range.first; number <= end; number++) {
    if (!present.has(number)) return Option.some(printWalFile({ pgTimeline: range.pgTimeline, number }, segmentBytes))
  }
  return Option.none()
}

/** Names of segments (and their `.backup` notes) that end before the segment `keepFrom`. Nothing else is ever named. */
export const segmentsBefore = (
  names: ReadonlyArray<string>,
  keepFrom: bigint,
  segmentBytes: number
): ReadonlyArray<string> =>
  names.filter((name) => {
    const plain = /^([0-9A-F]{24})(?:\.[0-9A-F]{8}\.backup)?$/.exec(name)?.[1]
    const segment = plain === undefined ? Option.none() : parseWalFile(plain, segmentBytes)
    return Option.isSome(segment) && segment.value.number < keepFrom
  })

/** Names of segments at or after `from`, in no particular order. */
export const segmentsFrom = (names: ReadonlyArray<string>, from: bigint, segmentBytes: number): ReadonlyArray<string> =>
  names.filter((name) => {
    const segment = parseWalFile(name, segmentBytes)
    return Option.isSome(segment) && segment.value.number >= from
  })

// ---------------------------------------------------------------------------------------------------------------------
// Whether all WAL that a start needs is there: replay ends without a word at the first hole, and what came after it
// would be overwritten.
//
// A hole is refused, except where it is what was to be expected: after a power cut, in WAL that was written while
// fsync was off (always with durability `process`; otherwise between a start and its `secure`, when nobody had been
// promised anything). Then the useless rest is set aside, and said.
// ---------------------------------------------------------------------------------------------------------------------

const numberOf = (name: string, segmentBytes: number): bigint =>
  Option.match(parseWalFile(name, segmentBytes), { onNone: () => -1n, onSome: ({ number }) => number })

const newestOf = (names: ReadonlyArray<string>, segmentBytes: number): bigint =>
  names.map((name) => numberOf(name, segmentBytes)).reduce((a, b) => (a > b ? a : b), -1n)

/** Kept for a person to look at, until the next time. Never needed again: replay cannot get past the hole. */
const setAside = Effect.fnUntraced(function* (layout: Layout, names: ReadonlyArray<string>) {
  const before = (yield* namesIn(layout.root)).filter((name) => /^aside-\d+$/.test(name))
  const last = before.map((name) => Number(name.slice("aside-".length))).reduce((a, b) => Math.max(a, b), 0)
  const aside = `${layout.root}/aside-${last + 1}`
  yield* makeFolder(aside, layout.owner)
  // The newest first: a crash in between leaves the hole where it was.
  for (const name of [...names].sort().reverse()) yield* rename(`${layout.wal}/${name}`, `${aside}/${name}`)
  yield* Effect.forEach(before, (name) => removeTree(`${layout.root}/${name}`), { discard: true })
  const what = `${names.length} WAL segments that followed what was lost are in ${aside}`
  yield* Effect.logWarning(`the machine went down while WAL was in memory only; ${what}`)
})

/** Which segments must be whole, whatever happened: `null` when a hole may be nothing but damage. */
const promisedThrough = Effect.fnUntraced(function* (layout: Layout, bootId: string | null, stop: bigint) {
  const note = yield* readUnflushed(layout)
  if (note === null || (note.bootId !== null && note.bootId === bootId)) return null
  const through = BigInt(note.through)
  return through > stop ? through : stop
})

export const checkWal: (layout: Layout, base: Base) => Effect.Effect<void, FileFailed | StorageDamaged> =
  Effect.fnUntraced(function* (layout, base) {
    const { segmentBytes } = base.current
    const bootId = yield* readBootId
    const first = segmentNumberOf(base.start, segmentBytes)
    const stop = segmentNumberBefore(base.stop, segmentBytes)
    const names = segmentsFrom(yield* namesIn(layout.wal), first, segmentBytes)
    const whole: Array<string> = []
    for (const name of names) {
      if ((yield* statOrNull(`${layout.wal}/${name}`))?.size === segmentBytes) whole.push(name)
    }
    const reached = yield* readReached(layout)
    const seen = reached !== null && reached.bootId === bootId ? numberOf(reached.segment, segmentBytes) : -1n
    const last = [stop, seen, newestOf(names, segmentBytes)].reduce((a, b) => (a > b ? a : b))
    const missing = Option.getOrNull(firstMissing(whole, { pgTimeline: base.pgTimeline, first, last }, segmentBytes))
    if (missing !== null) {
      const promised = yield* promisedThrough(layout, bootId, stop)
      if (promised === null || numberOf(missing, segmentBytes) <= promised) {
        const how = names.includes(missing) ? "cut short" : "missing"
        return yield* damaged(
          layout,
          `the WAL segment ${missing} is ${how} in ${layout.wal}, though later WAL was written`
        )
      }
      yield* setAside(layout, segmentsFrom(names, numberOf(missing, segmentBytes), segmentBytes))
    }
    // Half-made by a Postgres that was killed; there is never a record in one.
    const halves = (yield* namesIn(layout.wal)).filter((name) => /^xlogtemp\.\d+$/.test(name))
    yield* Effect.forEach(halves, (name) => removeFile(`${layout.wal}/${name}`), { discard: true })
  })

/**
 * Says, on the disk, that from now on WAL is written without fsync; all there is now was flushLsn, or has survived
 * a power cut, unless an earlier start in this boot has said the same.
 */
export const noteUnflushed: (layout: Layout, base: Base) => Effect.Effect<void, FileFailed> = Effect.fnUntraced(
  function* (layout, base) {
    const bootId = yield* readBootId
    const note = yield* readUnflushed(layout)
    const newest = newestOf(yield* namesIn(layout.wal), base.current.segmentBytes)
    const through = note !== null && note.bootId === bootId ? note.through : newest.toString()
    yield* replaceFile(layout.unflushed, printRecord({ through, bootId }), layout.owner)
    yield* flush(layout.unflushed)
    yield* flush(layout.root)
  }
)

/** Everything is flushLsn, and from now on Postgres flushes. */
export const forgetUnflushed: (layout: Layout) => Effect.Effect<void, FileFailed> = Effect.fnUntraced(
  function* (layout) {
    yield* removeFile(layout.unflushed)
    yield* flush(layout.root)
  }
)
