/**
 * The WAL folder: whether all that a start needs is there, segment by segment and record by record, and whether it
 * has reached the disk.
 *
 * Replay ends at the first hole, reports nothing, and what came after the hole would be overwritten: so a hole is
 * refused, and so is a record that is broken though WAL was written after it. Except where one was to be expected:
 * after a power cut, in WAL that was written while fsync was off (always with durability `process`; otherwise between
 * a start and its `secure`, when nobody had been promised anything). Then the useless rest is set aside, and logged.
 * Old segments are removed in `publishBase.ts`, not here.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as path from "node:path"
import type { FileFailed, StorageDamaged } from "../../errors/Failure.ts"
import { makeFolder, namesIn, removeFile, textOrNull } from "../../platform/files.ts"
import { readBootId } from "../../platform/processes.ts"
import { type Lsn, printLsn } from "../../spec/identifiers.ts"
import { parseBackupLabel } from "./backupLabel.ts"
import { flush, removeTree, rename, replaceUnflushed, statOrNull } from "./disk.ts"
import { type Base, damaged, type Layout, printRecord, readSpareId, readUnflushed } from "./layout.ts"
import { type Reached, readReached, writeReached } from "./reached.ts"
import { type ChainEnd, lastPageAfter, walkChain } from "./walChain.ts"
import {
  firstMissing,
  parseWalFile,
  printWalFile,
  segmentNumberBefore,
  segmentNumberOf,
  segmentsFrom
} from "./walSegments.ts"

/** What is asked of WAL that replay is to go through: that of a base, or of a cluster whose files stay in place. */
export interface Replayed {
  /** The data files need WAL up to here to be whole. */
  readonly stop: Lsn
  readonly pgTimeline: number
  readonly current: { readonly segmentBytes: number }
}

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

/** The first segment that is not there or not whole, though a start needs it; `null`: there is none. */
const findHole = Effect.fnUntraced(function* (layout: Layout, base: Base, bootId: string | null) {
  const { segmentBytes } = base.current
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
  if (missing === null) return null
  const promised = yield* promisedThrough(layout, bootId, stop)
  return {
    missing,
    how: names.includes(missing) ? "cut short" : "missing",
    isDamage: promised === null || numberOf(missing, segmentBytes) <= promised,
    following: segmentsFrom(names, numberOf(missing, segmentBytes), segmentBytes)
  }
})

/** Every segment from the base's first to the newest is there and whole, except where a power cut explains it. */
const checkSegments = Effect.fnUntraced(function* (layout: Layout, base: Base, bootId: string | null) {
  const hole = yield* findHole(layout, base, bootId)
  if (hole === null) return
  if (!hole.isDamage) return yield* setAside(layout, hole.following)
  const detail = `the WAL segment ${hole.missing} is ${hole.how} in ${layout.wal}, though later WAL was written`
  return yield* damaged(layout, detail)
})

const largest = (...values: ReadonlyArray<Lsn>): Lsn => values.reduce((a, b) => (a > b ? a : b))

/** `null`: replay ends where it has to. Otherwise how it is known that there was more. */
const findLoss = Effect.fnUntraced(function* (
  layout: Layout,
  base: Replayed,
  end: ChainEnd,
  known: { readonly bootId: string | null; readonly reached: Reached | null; readonly later: Lsn | null }
) {
  const { bootId, later, reached } = known
  const { segmentBytes } = base.current
  if (base.stop > end.contiguous) return `the data files need WAL up to ${printLsn(base.stop)}`
  const sameBoot = reached !== null && reached.bootId !== null && reached.bootId === bootId
  const promised = reached === null ? 0n : sameBoot ? largest(reached.written, reached.flushed) : reached.flushed
  if (promised > end.contiguous) return `WAL up to ${printLsn(promised)} had been written`
  if (later === null || later < (reached?.stale ?? 0n)) return null
  if (sameBoot) return `there is WAL at ${printLsn(later)}, written after it`
  // Postgres flushes a segment before it begins the next one; only without fsync may one be there and not the other.
  const broken = segmentNumberOf(end.contiguous, segmentBytes)
  if (segmentNumberOf(later, segmentBytes) <= broken) return null
  const through = yield* promisedThrough(layout, bootId, segmentNumberBefore(base.stop, segmentBytes))
  return through === null || broken <= through ? `there is WAL at ${printLsn(later)}, written after it` : null
})

/** A person has decided to do without what followed the damage. */
const isGivenUp = (layout: Layout, end: Lsn) =>
  Effect.map(textOrNull(`${layout.root}/give-up-after`), (text) => text?.trim() === printLsn(end))

const lossHint = (layout: Layout, segment: string, end: string): string =>
  `nothing was changed: copy ${path.dirname(layout.wal)} away first; put back the segment ${segment} from a copy or ` +
  `an archive. Only if there is none: write ${end} into ${layout.root}/give-up-after, and everything after it is ` +
  "given up"

/**
 * Follows the records from `from` as replay will: where it ends, and what would be lost by that. `seen` is what was
 * known when the WAL was as it is in `layout.wal`, where that is a copy.
 */
export const followChain = Effect.fnUntraced(function* (
  layout: Layout,
  base: Replayed,
  from: Lsn,
  bootId: string | null,
  seen?: Reached | null
) {
  const { segmentBytes } = base.current
  const wal = { folder: layout.wal, segmentBytes, pgTimeline: base.pgTimeline }
  const end = yield* walkChain(wal, from)
  const newest = newestOf(yield* namesIn(layout.wal), segmentBytes)
  const later = yield* lastPageAfter(wal, end.after, newest)
  const reached = seen === undefined ? yield* readReached(layout) : seen
  const loss = yield* findLoss(layout, base, end, { bootId, reached, later })
  return { end, later, reached, loss }
})

/** Refuses when committed rows would be dropped at the end of replay. Otherwise what is known of the WAL now. */
export const checkChain = Effect.fnUntraced(function* (
  layout: Layout,
  base: Replayed,
  from: Lsn,
  bootId: string | null
) {
  const { segmentBytes } = base.current
  const { end, later, loss, reached } = yield* followChain(layout, base, from, bootId)
  const givenUp = loss !== null && (yield* isGivenUp(layout, end.lsn))
  if (loss !== null && !givenUp) {
    const segment = printWalFile(
      { pgTimeline: base.pgTimeline, number: segmentNumberOf(end.lsn, segmentBytes) },
      segmentBytes
    )
    // It must be refused after the next boot as well, whose power cut would explain some of it.
    const { flushed = 0n, segment: newestSeen = segment, stale = 0n, written = 0n } = reached ?? {}
    const needed = largest(flushed, written, later ?? 0n)
    yield* writeReached(layout, { bootId, segment: newestSeen, written, flushed: needed, stale })
    return yield* damaged(
      layout,
      `replay would end at ${printLsn(end.lsn)} in the WAL segment ${segment}, because ${end.reason}; but ${loss}`,
      lossHint(layout, segment, printLsn(end.lsn))
    )
  }
  if (givenUp) yield* Effect.logWarning(`what followed ${printLsn(end.lsn)} in the WAL is given up, as asked: ${loss}`)
  // What is still to be seen behind the end is of no use, and must not count as damage next time.
  const stale = largest(reached?.stale ?? 0n, later === null ? 0n : staleThrough(later, end.after, segmentBytes))
  const sameBoot = reached !== null && reached.bootId === bootId
  return {
    bootId,
    segment: printWalFile(
      { pgTimeline: base.pgTimeline, number: segmentNumberBefore(end.lsn, segmentBytes) },
      segmentBytes
    ),
    written: end.lsn,
    // What was found after the machine went down was on its disk.
    flushed: givenUp ? 0n : sameBoot ? reached.flushed : end.lsn,
    stale: stale > end.lsn ? stale : 0n
  } satisfies Reached
})

/** The last page was looked for only in the segment of the end; of later ones nothing is known but their beginning. */
const staleThrough = (later: Lsn, after: Lsn, segmentBytes: number): Lsn =>
  segmentNumberOf(later, segmentBytes) === segmentNumberOf(after, segmentBytes)
    ? later + 8192n
    : (segmentNumberOf(later, segmentBytes) + 1n) * BigInt(segmentBytes)

/** Where replay will begin if the spare, when there is one, becomes PGDATA. */
export const replayStart = (layout: Layout, base: Base): Effect.Effect<Lsn, FileFailed> =>
  Effect.gen(function* () {
    const spare = yield* readSpareId(layout)
    if (spare === null || spare.n !== base.current.n || spare.bootId !== (yield* readBootId)) return base.start
    return Option.match(parseBackupLabel(spare.label), { onNone: () => base.start, onSome: ({ start }) => start })
  })

export interface InspectedWal {
  /** A sentence, or `null`. */
  readonly damage: string | null
  readonly segments: bigint
  readonly end: Lsn
}

/** What `checkWal` would refuse a start from the base for. Changes nothing. */
export const inspectWal = Effect.fnUntraced(function* (
  layout: Layout,
  base: Base
): Effect.fn.Return<InspectedWal, FileFailed | StorageDamaged> {
  const { segmentBytes } = base.current
  const bootId = yield* readBootId
  const hole = yield* findHole(layout, base, bootId)
  const { end, loss } = yield* followChain(layout, base, base.start, bootId)
  const segments = segmentNumberBefore(end.lsn, segmentBytes) - segmentNumberOf(base.start, segmentBytes) + 1n
  const number = segmentNumberOf(end.lsn, segmentBytes)
  const name = printWalFile({ pgTimeline: base.pgTimeline, number }, segmentBytes)
  const damage =
    hole?.isDamage === true
      ? `wal/${hole.missing} is ${hole.how}, though later WAL was written`
      : loss === null
        ? null
        : `wal/${name}: replay would end at ${printLsn(end.lsn)}, because ${end.reason}; but ${loss}`
  return { damage, segments, end: end.lsn }
})

/**
 * `from`: where replay will begin, at the base or later. Nothing has been changed when it refuses. Answers what is
 * known of the WAL now, which is not written yet.
 */
export const checkWal: (layout: Layout, base: Base, from: Lsn) => Effect.Effect<Reached, FileFailed | StorageDamaged> =
  Effect.fnUntraced(function* (layout, base, from) {
    const bootId = yield* readBootId
    yield* checkSegments(layout, base, bootId)
    const reached = yield* checkChain(layout, base, from, bootId)
    // Half-made by a Postgres that was killed; there is never a record in one.
    const halves = (yield* namesIn(layout.wal)).filter((name) => /^xlogtemp\.\d+$/.test(name))
    yield* Effect.forEach(halves, (name) => removeFile(`${layout.wal}/${name}`), { discard: true })
    return reached
  })

/**
 * Notes that from now on WAL is written without fsync; all there is now was flushed, or has survived a power cut,
 * unless an earlier start in this boot has noted the same.
 */
const noteUnflushed: (layout: Layout, base: Base) => Effect.Effect<void, FileFailed | StorageDamaged> =
  Effect.fnUntraced(function* (layout, base) {
    const bootId = yield* readBootId
    const note = yield* readUnflushed(layout)
    const newest = newestOf(yield* namesIn(layout.wal), base.current.segmentBytes)
    const through = note !== null && note.bootId === bootId ? note.through : newest.toString()
    yield* replaceUnflushed(layout.unflushed, printRecord({ through, bootId }), layout.owner)
    yield* flush(layout.unflushed)
  })

/** On the disk, before Postgres writes any WAL: how far it goes now, and that more may be lost with the machine. */
export const noteStart = (layout: Layout, base: Base, reached: Reached) =>
  Effect.all([writeReached(layout, reached), noteUnflushed(layout, base)], { concurrency: "unbounded" }).pipe(
    Effect.andThen(flush(layout.root))
  )

/** Everything is flushed, and from now on Postgres flushes. */
export const forgetUnflushed: (layout: Layout) => Effect.Effect<void, FileFailed> = Effect.fnUntraced(
  function* (layout) {
    yield* removeFile(layout.unflushed)
    yield* flush(layout.root)
  }
)

/**
 * Flushes every segment from `from` on, then their names. All of them, not only those that changed: flushing what is
 * flushed costs nothing, and an earlier run may have had fsync off.
 */
export const flushWal = Effect.fnUntraced(function* (
  layout: Layout,
  from: bigint,
  segmentBytes: number
): Effect.fn.Return<void, FileFailed> {
  const names = segmentsFrom(yield* namesIn(layout.wal), from, segmentBytes)
  yield* Effect.forEach(names, (name) => flush(`${layout.wal}/${name}`), { concurrency: 4, discard: true })
  yield* flush(layout.wal)
})
