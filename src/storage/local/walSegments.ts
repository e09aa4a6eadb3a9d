/**
 * The names of write-ahead log segments, and the arithmetic between them and LSNs, for any segment size. Pure.
 *
 * Knows one Postgres timeline at a time: local storage never leaves the one it began with.
 */
import * as Option from "effect/Option"
import type { Lsn } from "../../spec/identifiers.ts"

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
 * when that is known to have been written. Replay stops at a hole and reports nothing, so it must be seen before.
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
