/**
 * Follows the WAL of a running Postgres and writes down how far it is, so that the next start can tell whether all of
 * it is still there. A second at most is missing. Ends nothing and repairs nothing.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { Failure } from "../../errors/Failure.ts"
import type { Wire } from "../../pgwire/Wire.ts"
import { namesIn } from "../../platform/files.ts"
import { readBootId } from "../../platform/processes.ts"
import { parseLsn } from "../../spec/identifiers.ts"
import { statOrNull } from "./disk.ts"
import type { Layout } from "./layout.ts"
import { advanceReached } from "./reached.ts"
import { printWalFile, segmentNumberBefore } from "./walSegments.ts"

/** A session with the cluster whose WAL it is. */
export interface FollowedWal {
  readonly wire: Wire
  readonly segmentBytes: number
  readonly pgTimeline: number
  /** What Postgres calls flushed is on the disk. */
  readonly isFlushed: boolean
}

/** Changes whenever WAL is written: the newest change to any segment. */
export const walChangedAt = Effect.fnUntraced(function* (layout: Pick<Layout, "wal">) {
  let newest = 0
  for (const name of yield* namesIn(layout.wal)) {
    if (!/^[0-9A-F]{24}$/.test(name)) continue
    newest = Math.max(newest, (yield* statOrNull(`${layout.wal}/${name}`))?.mtimeMs ?? 0)
  }
  return newest
})

const recordReached = Effect.fnUntraced(function* (
  layout: Layout,
  { isFlushed, pgTimeline, segmentBytes, wire }: FollowedWal
): Effect.fn.Return<void, Failure> {
  const [row] = yield* wire.rows("SELECT pg_catalog.pg_current_wal_flush_lsn()::text", "10 seconds")
  const lsn = Option.getOrNull(parseLsn(row?.[0] ?? ""))
  if (lsn === null) return
  const segment = printWalFile({ pgTimeline, number: segmentNumberBefore(lsn, segmentBytes) }, segmentBytes)
  yield* advanceReached(layout, yield* readBootId, { segment, lsn, flushed: isFlushed })
})

const recordEvery = Duration.seconds(1)

/** Every second while WAL is written, over one session; none while nothing is written. Never ends. */
export const followWal = Effect.fnUntraced(function* (
  layout: Layout,
  connect: Effect.Effect<FollowedWal, Failure, Scope.Scope>
) {
  let changedAt = -1
  /** Was anything written since the last look? */
  const look = Effect.gen(function* () {
    const before = changedAt
    changedAt = yield* walChangedAt(layout)
    return changedAt !== before
  })
  const follow = Effect.gen(function* () {
    const followed = yield* connect
    let isWritten = true
    while (isWritten) {
      yield* recordReached(layout, followed)
      yield* Effect.sleep(recordEvery)
      isWritten = yield* look
    }
  })
  return yield* Effect.forever(
    look.pipe(
      Effect.flatMap((isWritten) => (isWritten ? Effect.scoped(follow) : Effect.void)),
      // Who keeps the storage reports what lasts; this only makes the next start's check sharper.
      Effect.catch((failure) => Effect.logDebug("how far the WAL is was not recorded", failure)),
      Effect.andThen(Effect.sleep(recordEvery))
    )
  )
})
