/**
 * Where our own things lie on a volume, and what they say. Reads and writes those files; decides nothing.
 *
 * The volume is PGDATA itself, and whoever mounts it elsewhere must find everything there: so ours is one folder in it,
 * `compute_ctl/`, which Postgres ignores. `volume.json` says whose data this is and exists from the moment there is a
 * whole cluster; `first` exists while the first one is being made; `postmaster` says which postmaster.pid is that of a
 * compute; `reached` is how far WAL was seen flushed; `lock/` keeps a second compute out.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { FileFailed, StorageDamaged } from "../../errors/Failure.ts"
import { namesIn, textOrNull } from "../../platform/files.ts"
import type { RunAs } from "../../platform/Spawn.ts"
import { flush, rename, replaceUnflushed, statOrNull } from "../local/disk.ts"
import { damaged, type Layout, layoutOf } from "../local/layout.ts"
import { digestOf } from "../local/manifest.ts"

export const ourFolder = "compute_ctl"

export interface VolumeLayout extends Layout {
  /** `root` is PGDATA; this is our folder in it. */
  readonly ours: string
  readonly record: string
  readonly postmaster: string
}

/** `pgdata` is a real path. */
export const volumeLayout = (pgdata: string, owner: RunAs | null): VolumeLayout => {
  const ours = `${pgdata}/${ourFolder}`
  return {
    ...layoutOf(ours, owner),
    root: pgdata,
    wal: `${pgdata}/pg_wal`,
    ours,
    record: `${ours}/volume.json`,
    postmaster: `${ours}/postmaster`
  }
}

const Record = Schema.Struct({
  format: Schema.Literal(1),
  tenant: Schema.String,
  timeline: Schema.String,
  systemId: Schema.String,
  pgMajor: Schema.Int,
  segmentBytes: Schema.Int
})
export type VolumeRecord = typeof Record.Type

const decode = Schema.decodeUnknownOption(Record)

/** The digest is the last field, so that no damage can make it say something else. */
const parseRecord = (text: string): VolumeRecord | null => {
  try {
    const { digest, ...rest } = JSON.parse(text) as { readonly digest?: unknown }
    return digest === digestOf(Buffer.from(JSON.stringify(rest))) ? Option.getOrNull(decode(rest)) : null
  } catch {
    return null
  }
}

const restoreRecord =
  "put this file back from a copy of the volume; nothing was touched, and the data files may be whole all the same"

/** `null`: there is no whole cluster yet. */
export const readRecord = Effect.fnUntraced(function* (
  layout: VolumeLayout
): Effect.fn.Return<VolumeRecord | null, FileFailed | StorageDamaged> {
  const text = yield* textOrNull(layout.record)
  if (text === null) return null
  return (
    parseRecord(text) ??
    (yield* damaged(
      layout,
      `${ourFolder}/volume.json, which says whose data this is, cannot be understood`,
      restoreRecord
    ))
  )
})

/** On the disk when it returns. */
export const writeRecord = Effect.fnUntraced(function* (layout: VolumeLayout, record: VolumeRecord) {
  const digest = digestOf(Buffer.from(JSON.stringify(record)))
  const pending = `${layout.record}.next`
  yield* replaceUnflushed(pending, `${JSON.stringify({ ...record, digest }, null, 2)}\n`, layout.owner)
  yield* flush(pending)
  yield* rename(pending, layout.record)
  yield* flush(layout.ours)
})

/** What may lie on a volume that nobody has used yet: the file system's own, and what a start puts there first. */
const belongsToNobody = new Set(["lost+found", ourFolder])

export type VolumeState =
  | { readonly _tag: "Used" }
  /** `began`: a first start was cut short. */
  | { readonly _tag: "New"; readonly began: boolean; readonly exists: boolean }
  /** Files that no compute made, or that have lost what says whose they are. */
  | { readonly _tag: "Unknown"; readonly names: ReadonlyArray<string>; readonly ours: boolean }

/** Only looks. */
export const stateOf = Effect.fnUntraced(function* (layout: VolumeLayout): Effect.fn.Return<VolumeState, FileFailed> {
  if ((yield* statOrNull(layout.record)) !== null) return { _tag: "Used" }
  const exists = (yield* statOrNull(layout.root)) !== null
  if ((yield* statOrNull(layout.first)) !== null) return { _tag: "New", began: true, exists }
  const names = (yield* namesIn(layout.root)).filter((name) => !belongsToNobody.has(name)).sort()
  if (names.length === 0) return { _tag: "New", began: false, exists }
  return { _tag: "Unknown", names, ours: (yield* statOrNull(layout.ours)) !== null }
})
