/**
 * Makes a base the one that starts begin from, so that a crash at any point leaves a storage that starts.
 *
 * The order is the whole content of this file. Everything a start needs is on the disk before `current.json` names
 * it; nothing a start needs is removed before `current.json`, on the disk, no longer names it.
 */
import * as Effect from "effect/Effect"
import type { FileFailed } from "../../errors/Failure.ts"
import { segmentNumberOf, segmentsBefore, segmentsFrom } from "./wal.ts"
import { flush, handOver, namesIn, removeFile, rename, replaceFile } from "./disk.ts"
import { failpoint } from "./failpoint.ts"
import { type Base, type Current, type Layout, printRecord } from "./layout.ts"

/**
 * Flushes every segment from `from` on, then their names. All of them, not only those that changed: flushing what is
 * flushed costs nothing, and an earlier run may have had fsync off.
 */
export const flushWal = Effect.fnUntraced(function*(
  layout: Layout,
  from: bigint,
  segmentBytes: number
): Effect.fn.Return<void, FileFailed> {
  const names = segmentsFrom(yield* namesIn(layout.wal), from, segmentBytes)
  yield* Effect.forEach(names, (name) => flush(`${layout.wal}/${name}`), { concurrency: 4, discard: true })
  yield* flush(layout.wal)
})

/** `tar` is the finished copy under a name of its own; it becomes `next.tar`. `start` is where its label begins. */
export const publish: (
  layout: Layout,
  tar: string,
  next: Current,
  startSegment: bigint
) => Effect.Effect<void, FileFailed> = Effect.fnUntraced(function*(layout, tar, next, startSegment) {
  yield* failpoint("base-copied")
  // 1. The WAL that makes the copy whole. Without fsync it may be in memory only.
  yield* flushWal(layout, startSegment, next.segmentBytes)
  yield* failpoint("base-wal-synced")
  // 2. The copy, and its name.
  yield* handOver(tar, layout.owner)
  yield* flush(tar)
  yield* rename(tar, `${layout.root}/${next.tar}`)
  yield* flush(layout.root)
  yield* failpoint("base-tar-renamed")
  // 3. The pointer to it: content first, then the name, then the folder.
  const beside = `${layout.root}/current.next`
  yield* replaceFile(beside, printRecord(next), layout.owner)
  yield* flush(beside)
  yield* failpoint("base-current-written")
  yield* rename(beside, layout.current)
  yield* flush(layout.root)
  yield* failpoint("base-current-renamed")
})

/**
 * Removes what only earlier bases needed: their tars, and segments before `keepFrom`, which is never after the
 * segment where `base` begins. Segments that an archiver has not had yet stay.
 */
export const removeOld: (layout: Layout, base: Base, keepFrom: bigint) => Effect.Effect<void, FileFailed> = Effect
  .fnUntraced(function*(layout, base, keepFrom) {
    for (const name of yield* namesIn(layout.root)) {
      if (/^base-.*\.tar(\.new)?$/.test(name) && name !== base.current.tar) yield* removeFile(`${layout.root}/${name}`)
    }
    yield* failpoint("base-old-removed")
    const { segmentBytes } = base.current
    const start = segmentNumberOf(base.start, segmentBytes)
    const names = segmentsBefore(yield* namesIn(layout.wal), keepFrom < start ? keepFrom : start, segmentBytes)
    const statuses = new Set(yield* namesIn(`${layout.wal}/archive_status`))
    for (const name of [...names].sort()) {
      if (statuses.has(`${name}.ready`)) continue
      yield* removeFile(`${layout.wal}/${name}`)
      yield* removeFile(`${layout.wal}/archive_status/${name}.done`)
    }
    yield* failpoint("base-wal-pruned")
  })
