/**
 * The steps of a storage of this machine at which a crash would do most harm, by name, so that tests can crash there.
 *
 * Outside of tests the reference keeps its default, which does nothing; nothing else may be made to depend on it.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"

export type Step =
  /** First start: the marker is written; the WAL is there; the files are there; nothing is published yet. */
  | "first-marked"
  | "first-wal"
  | "first-copied"
  /** On a volume, after these: half of the files are in PGDATA; all are; it is recorded whose they are. */
  | "first-moved-half"
  | "first-moved"
  | "first-recorded"
  /** On a volume: what is not data is removed, and nothing is written in its place yet. */
  | "volume-cleaned"
  /** Copying into what was the spare: it is no longer one; half of the files are copied. */
  | "copy-begun"
  | "copy-half"
  /** Publishing a base, in this order. */
  | "base-copied"
  | "base-files-synced"
  | "base-manifest-written"
  | "base-wal-synced"
  | "base-folder-renamed"
  | "base-current-written"
  | "base-current-renamed"
  /** The files of the base before are on their way to become the next spare: its manifest is gone, they are not. */
  | "base-old-retired"
  | "base-old-removed"
  | "base-wal-pruned"
  /** Swapping the spare in: it is no longer valid; half of PGDATA is away; all of it is; half of the spare is in. */
  | "swap-begun"
  | "swap-half-out"
  | "swap-out"
  | "swap-half-in"
  /** PGDATA was laid out from the base, without a spare. */
  | "base-laid"
  /** PGDATA's files are there and pg_wal is linked; the label that makes Postgres replay is not written yet. */
  | "wal-linked"
  /** Making a spare: from files that were a base or PGDATA before; before it is declared valid. */
  | "spare-begun"
  | "spare-filled"
  /** Making a branch: what it shares is known; the base's files are there; all WAL is; it is flushed; it is named. */
  | "branch-begun"
  | "branch-base-shared"
  | "branch-wal-taken"
  | "branch-flushed"
  | "branch-named"
  /** At a start: a segment that a branch shares is about to be replaced by one of our own. */
  | "wal-own"
  /** Removing a timeline: it has lost its name; its files are there. */
  | "timeline-unnamed"

export const Failpoint = Context.Reference<(step: Step) => Effect.Effect<void>>("compute/storage/local/Failpoint", {
  defaultValue: () => () => Effect.void
})

export const failpoint = (step: Step): Effect.Effect<void> => Effect.flatMap(Failpoint, (at) => at(step))
