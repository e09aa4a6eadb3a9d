/**
 * The WAL folder: whether all segments that a start needs are there, and whether they have reached the disk.
 *
 * Replay ends at the first hole, reports nothing, and what came after the hole would be overwritten: so a hole is
 * refused. Except where one was to be expected: after a power cut, in WAL that was written while fsync was off
 * (always with durability `process`; otherwise between a start and its `secure`, when nobody had been promised
 * anything). Then the useless rest is set aside, and logged. Old segments are removed in `publishBase.ts`, not here.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { FileFailed, StorageDamaged } from "../../errors/Failure.ts"
import { makeFolder, namesIn, removeFile } from "../../platform/files.ts"
import { readBootId } from "../../platform/processes.ts"
import { flush, removeTree, rename, replaceUnflushed, statOrNull } from "./disk.ts"
import { type Base, damaged, type Layout, printRecord, readReached, readUnflushed } from "./layout.ts"
import { firstMissing, parseWalFile, segmentNumberBefore, segmentNumberOf, segmentsFrom } from "./walSegments.ts"

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
 * Notes, on the disk, that from now on WAL is written without fsync; all there is now was flushed, or has survived
 * a power cut, unless an earlier start in this boot has noted the same.
 */
export const noteUnflushed: (layout: Layout, base: Base) => Effect.Effect<void, FileFailed> = Effect.fnUntraced(
  function* (layout, base) {
    const bootId = yield* readBootId
    const note = yield* readUnflushed(layout)
    const newest = newestOf(yield* namesIn(layout.wal), base.current.segmentBytes)
    const through = note !== null && note.bootId === bootId ? note.through : newest.toString()
    yield* replaceUnflushed(layout.unflushed, printRecord({ through, bootId }), layout.owner)
    yield* flush(layout.unflushed)
    yield* flush(layout.root)
  }
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
