/**
 * Where everything of local storage is, and what its small files say. Reads and writes those files; decides nothing.
 *
 * `<directory>/<tenant>/<timeline>/`: `current.json` names the base; `base-<n>/` is it, its files in `pgdata/` and the
 * list of them in `manifest` (`base-<n>.tar` is one of an older version); `base-<n>.new/` is one being made; `wal/` is
 * what pg_wal links to; `spare/` is a base already laid out, valid only while `spare.id` says so; `trash-<n>/` is what
 * PGDATA held before a swap, and what the next spare is made from; `starts` lists data directories that may have
 * processes; `reached` is how far WAL was seen written; `unflushed` exists while WAL may be in memory only;
 * `aside-<n>/` holds WAL that a power cut made useless; `first` exists while the first base is being made;
 * `past-starts.json` says how long the last starts took; `ancestor.json` of what it is a branch; `lock/` keeps a second
 * compute out.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { type FileFailed, StorageDamaged } from "../../errors/Failure.ts"
import { namesIn, textOrNull } from "../../platform/files.ts"
import type { RunAs } from "../../platform/Spawn.ts"
import { type Lsn, parseLsn } from "../../spec/identifiers.ts"
import { parseBackupLabel } from "./backupLabel.ts"
import { digestOf } from "./manifest.ts"

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

const facts = {
  n: Schema.Int,
  /** LSNs are text; where replay starts is in the label. */
  label: Schema.String,
  /** WAL up to here must be present for the base to be whole. */
  stop: Schema.String,
  systemId: Schema.String,
  pgMajor: Schema.Int,
  segmentBytes: Schema.Int,
  /** The next transaction, and the number of databases, when the base was made. */
  transaction: Schema.String,
  databases: Schema.Int
}

/** A base of an older version of this program, which is read once: the next one is a folder. */
const TarCurrent = Schema.Struct({ format: Schema.Literal(1), ...facts, tar: Schema.String, tarBytes: Schema.Number })

/** The published base. */
export const Current = Schema.Struct({
  format: Schema.Literal(2),
  ...facts,
  folder: Schema.String,
  /** The digest of its manifest, and what its files hold together. */
  manifest: Schema.String,
  bytes: Schema.Number
})
export type Current = typeof Current.Type

/** Which base the spare continues from, in which boot its files were written, and where replay from it begins. */
export const SpareId = Schema.Struct({ n: Schema.Int, bootId: Schema.String, label: Schema.String })
export type SpareId = typeof SpareId.Type

/** WAL after the segment number `through` may never have reached the disk: `bootId` says since when. */
export const Unflushed = Schema.Struct({ through: Schema.String, bootId: Schema.NullOr(Schema.String) })
export type Unflushed = typeof Unflushed.Type

const decodeUnflushed = Schema.decodeUnknownOption(Schema.fromJsonString(Unflushed))
const decodeCurrent = Schema.decodeUnknownOption(Schema.Union([Current, TarCurrent]))
const decodeSpareId = Schema.decodeUnknownOption(Schema.fromJsonString(SpareId))

export const printRecord = (record: SpareId | Unflushed): string => `${JSON.stringify(record, null, 2)}\n`

/** With a digest of the rest as the last field, so that no damage can make it say something else. */
export const printCurrent = (current: Current): string =>
  `${JSON.stringify({ ...current, digest: digestOf(Buffer.from(JSON.stringify(current))) }, null, 2)}\n`

const parseCurrent = (text: string): Current | typeof TarCurrent.Type | null => {
  try {
    const read: unknown = JSON.parse(text)
    if (typeof read !== "object" || read === null) return null
    const { digest, ...rest } = read as { readonly digest?: unknown; readonly format?: unknown }
    if (rest.format !== 1 && digest !== digestOf(Buffer.from(JSON.stringify(rest)))) return null
    return Option.getOrNull(decodeCurrent(rest))
  } catch {
    return null
  }
}

/** A base with its LSNs read. */
export interface Base {
  readonly current: Current | typeof TarCurrent.Type
  readonly start: Lsn
  readonly stop: Lsn
  readonly pgTimeline: number
}

/** What the base's files hold together. */
export const baseBytes = ({ current }: Base): number => (current.format === 1 ? current.tarBytes : current.bytes)

const neverDelete =
  "do not delete anything; restore this folder as a whole from a copy, or use another timeline_id; " +
  "compute_ctl check --storage local:DIR names all that is damaged"

export const damaged = (layout: Layout, detail: string, hint: string = neverDelete): StorageDamaged =>
  new StorageDamaged({ directory: layout.root, detail, hint })

export const readBase: (layout: Layout) => Effect.Effect<Base | null, FileFailed | StorageDamaged> = Effect.fnUntraced(
  function* (layout) {
    const text = yield* textOrNull(layout.current)
    if (text === null) return null
    const current = parseCurrent(text)
    const label = current === null ? null : Option.getOrNull(parseBackupLabel(current.label))
    const stop = current === null ? null : Option.getOrNull(parseLsn(current.stop))
    if (current === null || label === null || stop === null) {
      return yield* damaged(layout, "current.json cannot be understood")
    }
    return { current, start: label.start, stop, pgTimeline: label.pgTimeline }
  }
)

/** One that cannot be read is as good as none: nothing depends on a spare. */
export const readSpareId = (layout: Layout): Effect.Effect<SpareId | null, FileFailed> =>
  Effect.map(textOrNull(layout.spareId), (text) => (text === null ? null : Option.getOrNull(decodeSpareId(text))))

/** What a power cut leaves of a file that was never flushed: nothing, or zeros in its place. */
const isUnwritten = (text: string): boolean => /^[\0\s]*$/.test(text)

/** A note of ours; `null` when there is none, or only what a power cut left of it. */
export const readNote = <A>(layout: Layout, path: string, decode: (text: string) => Option.Option<A>, what: string) =>
  Effect.flatMap(textOrNull(path), (text): Effect.Effect<A | null, StorageDamaged> =>
    text === null || isUnwritten(text)
      ? Effect.succeed(null)
      : Option.match(decode(text), {
          onNone: () =>
            Effect.fail(damaged(layout, `${path}, which says ${what}, cannot be understood`, restoreNote(path))),
          onSome: (note) => Effect.succeed(note)
        })
  )

const restoreNote = (path: string) =>
  `restore this file from a copy; or, when you know that all WAL is there, remove ${path} alone and start again`

export const readUnflushed = (layout: Layout): Effect.Effect<Unflushed | null, FileFailed | StorageDamaged> =>
  readNote(layout, layout.unflushed, decodeUnflushed, "which WAL may not have reached the disk")

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

/** `TENANT/TIMELINE`, in order. */
export const timelinesOf = Effect.fnUntraced(function* (directory: string) {
  const roots: Array<string> = []
  for (const tenant of [...(yield* namesIn(directory))].sort()) {
    if (!/^[0-9a-f]{32}$/.test(tenant)) continue
    const timelines = (yield* namesIn(`${directory}/${tenant}`)).filter((name) => /^[0-9a-f]{32}$/.test(name))
    roots.push(...timelines.sort().map((name) => `${tenant}/${name}`))
  }
  return roots
})
