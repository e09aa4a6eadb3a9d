/**
 * Where everything of local storage is, and what its small files say. Reads and writes those files; decides nothing.
 *
 * `<directory>/<tenant>/<timeline>/`: `current.json` names the base; `base-<n>.tar` is it; `wal/` is what pg_wal
 * links to; `spare/` is a base already unpacked, valid only while `spare.id` says so; `trash-<n>/` is what PGDATA
 * held before a swap; `starts` lists data directories that may have processes; `reached` is the newest segment
 * seen written; `unflushed` exists while WAL may be in memory only; `aside-<n>/` holds WAL that a power cut made
 * useless; `first` exists while the first base is being made; `lock/` keeps a second compute out.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { type FileFailed, StorageDamaged } from "../../errors/Failure.ts"
import { namesIn, textOrNull } from "../../platform/files.ts"
import type { RunAs } from "../../platform/Spawn.ts"
import { type Lsn, parseLsn } from "../../spec/identifiers.ts"
import { parseBackupLabel } from "./backupLabel.ts"

export interface Layout {
  readonly root: string
  readonly owner: RunAs | null
  readonly wal: string
  readonly current: string
  readonly spare: string
  readonly spareId: string
  readonly starts: string
  readonly reached: string
  readonly unflushed: string
  readonly first: string
  readonly lock: string
}

export const layoutOf = (root: string, owner: RunAs | null): Layout => ({
  root,
  owner,
  wal: `${root}/wal`,
  current: `${root}/current.json`,
  spare: `${root}/spare`,
  spareId: `${root}/spare.id`,
  starts: `${root}/starts`,
  reached: `${root}/reached`,
  unflushed: `${root}/unflushed`,
  first: `${root}/first`,
  lock: `${root}/lock`
})

/** The published base. LSNs are text; where replay starts is in the label. */
export const Current = Schema.Struct({
  format: Schema.Literal(1),
  n: Schema.Int,
  tar: Schema.String,
  tarBytes: Schema.Number,
  label: Schema.String,
  /** WAL up to here must be present for the base to be whole. */
  stop: Schema.String,
  systemId: Schema.String,
  pgMajor: Schema.Int,
  segmentBytes: Schema.Int,
  /** The next transaction, and the number of databases, when the base was made. */
  transaction: Schema.String,
  databases: Schema.Int
})
export type Current = typeof Current.Type

/** Which base the spare continues from, in which boot its files were written, and where replay from it begins. */
export const SpareId = Schema.Struct({ n: Schema.Int, bootId: Schema.String, label: Schema.String })
export type SpareId = typeof SpareId.Type

/** WAL after the segment number `through` may never have reached the disk: `bootId` says since when. */
export const Unflushed = Schema.Struct({ through: Schema.String, bootId: Schema.NullOr(Schema.String) })
export type Unflushed = typeof Unflushed.Type

const decodeUnflushed = Schema.decodeUnknownOption(Schema.fromJsonString(Unflushed))
const decodeCurrent = Schema.decodeUnknownOption(Schema.fromJsonString(Current))
const decodeSpareId = Schema.decodeUnknownOption(Schema.fromJsonString(SpareId))

export const printRecord = (record: Current | SpareId | Unflushed): string => `${JSON.stringify(record, null, 2)}\n`

/** A base with its LSNs read. */
export interface Base {
  readonly current: Current
  readonly start: Lsn
  readonly stop: Lsn
  readonly pgTimeline: number
}

const neverDelete = "do not delete anything; restore this folder as a whole from a copy, or use another timeline_id"

export const damaged = (layout: Layout, detail: string, hint: string = neverDelete): StorageDamaged =>
  new StorageDamaged({ directory: layout.root, detail, hint })

export const readBase: (layout: Layout) => Effect.Effect<Base | null, FileFailed | StorageDamaged> = Effect.fnUntraced(
  function* (layout) {
    const text = yield* textOrNull(layout.current)
    if (text === null) return null
    const current = Option.getOrNull(decodeCurrent(text))
    const label = current === null ? null : Option.getOrNull(parseBackupLabel(current.label))
    const stop = current === null ? null : Option.getOrNull(parseLsn(current.stop))
    if (current === null || label === null || stop === null) {
      return yield* damaged(layout, "current.json cannot be understood")
    }
    return { current, start: label.start, stop, pgTimeline: label.pgTimeline }
  }
)

export const readSpareId = (layout: Layout): Effect.Effect<SpareId | null, FileFailed> =>
  Effect.map(textOrNull(layout.spareId), (text) => (text === null ? null : Option.getOrNull(decodeSpareId(text))))

/** A note that is there and cannot be read is from a power cut while it was being made: it notes nothing yet. */
export const readUnflushed = (layout: Layout): Effect.Effect<Unflushed | null, FileFailed> =>
  Effect.map(textOrNull(layout.unflushed), (text) => (text === null ? null : Option.getOrNull(decodeUnflushed(text))))

/** One more than any that is there. */
export const freshTrash = (layout: Layout): Effect.Effect<string, FileFailed> =>
  Effect.map(trashes(layout), (present) => {
    const last = present
      .map((name) => Number(name.slice(name.lastIndexOf("-") + 1)))
      .reduce((a, b) => Math.max(a, b), 0)
    return `${layout.root}/trash-${last + 1}`
  })

export const trashes = (layout: Layout): Effect.Effect<ReadonlyArray<string>, FileFailed> =>
  Effect.map(namesIn(layout.root), (names) =>
    names.filter((name) => /^trash-\d+$/.test(name)).map((name) => `${layout.root}/${name}`)
  )
