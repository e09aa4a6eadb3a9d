/**
 * Whether what lies on a volume is a cluster that may be started: whose it is, which Postgres made it, who owns it, and
 * that replay will reach all WAL that was ever flushed. Changes nothing but the note on how far the WAL is.
 *
 * Reads pg_control, the WAL since its checkpoint, and names at the top: never more for a larger database.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import { StorageForeign } from "../../errors/Failure.ts"
import { attempt, namesIn, textOrNull } from "../../platform/files.ts"
import { readBootId } from "../../platform/processes.ts"
import { type ControlFile, parseControlFile } from "../../postgres/controlFile.ts"
import { type Lsn, printLsn } from "../../spec/identifiers.ts"
import type { ParsedSpec } from "../../spec/ParsedSpec.ts"
import { parseBackupLabel } from "../local/backupLabel.ts"
import { statOrNull } from "../local/disk.ts"
import { damaged } from "../local/layout.ts"
import { requireOwner } from "../local/room.ts"
import { controlPath } from "../local/seedCluster.ts"
import { writeReached } from "../local/reached.ts"
import { checkChain, type Replayed } from "../local/wal.ts"
import { ourFolder, type VolumeLayout, type VolumeRecord, type VolumeState } from "./layout.ts"

const fromCopy = "nothing was changed; put it back from a copy of the volume, or restore the whole volume from one"

/** Is the spec's timeline the one whose data this is? */
export const requireSameTimeline = Effect.fnUntraced(function* (
  layout: VolumeLayout,
  record: VolumeRecord,
  { tenant, timeline }: Pick<ParsedSpec, "tenant" | "timeline">
) {
  if (record.tenant === tenant && record.timeline === timeline) return
  return yield* new StorageForeign({
    directory: layout.root,
    detail:
      `it holds tenant ${record.tenant}, timeline ${record.timeline}, and the spec is of tenant ${tenant}, ` +
      `timeline ${timeline}`
  })
})

/** Files that no compute made here are nobody's to overwrite. */
export const refuseUnknown = Effect.fnUntraced(function* (layout: VolumeLayout, state: VolumeState) {
  if (state._tag !== "Unknown") return
  const found = state.names.slice(0, 5).join(", ") + (state.names.length > 5 ? ", …" : "")
  if (state.ours && state.names.includes("PG_VERSION")) {
    const detail = `there is data, but ${ourFolder}/volume.json, which says whose it is, is missing`
    return yield* damaged(layout, detail, fromCopy)
  }
  return yield* new StorageForeign({
    directory: layout.root,
    detail: `there are files that no compute made (${found})`,
    hint:
      "give an empty folder with -D; nothing was touched. A cluster that was made otherwise is taken over by pg_dump " +
      "and a restore into a compute"
  })
})

export const readControl = Effect.fnUntraced(function* (layout: VolumeLayout) {
  const path = `${layout.root}/${controlPath}`
  if ((yield* statOrNull(path))?.isFile() !== true) {
    return yield* damaged(layout, `${controlPath} is missing or is no file`, fromCopy)
  }
  const bytes = yield* attempt("read", path, () => fs.readFileSync(path))
  return yield* Effect.fromResult(
    Result.mapError(parseControlFile(bytes), (detail) => damaged(layout, detail, fromCopy))
  )
})

export const requireSameMajor = Effect.fnUntraced(function* (layout: VolumeLayout, record: VolumeRecord, ours: number) {
  const text = (yield* textOrNull(`${layout.root}/PG_VERSION`))?.trim()
  if (text === undefined) return yield* damaged(layout, "PG_VERSION is missing", fromCopy)
  const major = Number(text)
  if (major !== record.pgMajor) {
    const detail = `PG_VERSION says ${text}, and the cluster that was made here is of Postgres ${record.pgMajor}`
    return yield* damaged(layout, detail, "do not upgrade in place; restore the volume from a copy")
  }
  if (major !== ours) {
    return yield* damaged(
      layout,
      `it was made by Postgres ${major}, and this is Postgres ${ours}`,
      `give a Postgres ${major} with -b, or dump and restore into a new volume; nothing was changed`
    )
  }
})

export const requireSameSystem = Effect.fnUntraced(function* (
  layout: VolumeLayout,
  record: VolumeRecord,
  { systemId }: ControlFile
) {
  if (systemId.toString() === record.systemId) return
  return yield* new StorageForeign({
    directory: layout.root,
    detail:
      `its cluster has system identifier ${systemId}, and the one that was made here had ${record.systemId}: ` +
      "somebody replaced the data files",
    hint: "put the cluster's own files back, or give an empty folder with -D; nothing was touched"
  })
})

/** At the top; what else lies there is not Postgres's, or is made anew. */
const isPostgres = (name: string): boolean => /^(PG_VERSION|base|global|pg_[a-z_]+)$/.test(name) || name === ourFolder

/** Files at the top and the WAL. A restore as another user gets all of them wrong, or none. */
export const requireOwnFiles = Effect.fnUntraced(function* (layout: VolumeLayout) {
  const top = (yield* namesIn(layout.root)).filter(isPostgres)
  const under = yield* Effect.forEach(["pg_wal", "global", "base", ourFolder], (folder) =>
    Effect.map(namesIn(`${layout.root}/${folder}`), (names) => names.map((name) => `${folder}/${name}`))
  )
  const paths = [...top, ...under.flat()].map((name) => `${layout.root}/${name}`)
  yield* requireOwner(layout, layout.root, paths)
})

/** A tablespace whose folder is not there is a volume that is not mounted. */
export const requireTablespaces = Effect.fnUntraced(function* (layout: VolumeLayout) {
  const folder = `${layout.root}/pg_tblspc`
  for (const name of yield* namesIn(folder)) {
    const target = yield* attempt("look at", `${folder}/${name}`, () => ({
      isThere: fs.existsSync(`${folder}/${name}`),
      link: fs.lstatSync(`${folder}/${name}`).isSymbolicLink() ? fs.readlinkSync(`${folder}/${name}`) : null
    }))
    if (target.isThere || target.link === null) continue
    return yield* damaged(
      layout,
      `the tablespace ${name} is in ${target.link}, which is not there`,
      "mount what it lies on; nothing was changed"
    )
  }
})

/** Where replay begins, and what of the WAL the data files need to be whole. */
export interface Replay extends Replayed {
  readonly from: Lsn
}

/**
 * A backup_label makes Postgres replay from where a backup began. That is what the files of a restored backup need, and
 * does no harm to others as long as all WAL since then is there; without it nothing tells a backup from a cluster in
 * which a label was forgotten, and that is for a person to decide.
 */
export const replayOf = Effect.fnUntraced(function* (
  layout: VolumeLayout,
  { segmentBytes }: VolumeRecord,
  { checkpoint, pgTimeline, redo }: ControlFile
) {
  const text = yield* textOrNull(`${layout.root}/backup_label`)
  if (text === null) {
    return { from: redo, stop: checkpoint + 1n, pgTimeline, current: { segmentBytes } } satisfies Replay
  }
  const hint =
    "nothing was changed: if these are the files of a backup, put the WAL since it began into pg_wal; only if they " +
    "are not, remove backup_label alone, and start again"
  const label = Option.getOrNull(parseBackupLabel(text))
  if (label === null) return yield* damaged(layout, "backup_label cannot be understood", hint)
  if ((yield* statOrNull(`${layout.wal}/${label.startFile}`)) === null) {
    const from = printLsn(label.start)
    const detail = `backup_label says to replay from ${from}, and there is no pg_wal/${label.startFile}`
    return yield* damaged(layout, detail, hint)
  }
  yield* Effect.logWarning(
    `there is a backup_label: Postgres replays from ${printLsn(label.start)}, where that backup began`
  )
  return {
    from: label.start,
    stop: label.checkpoint + 1n,
    pgTimeline: label.pgTimeline,
    current: { segmentBytes }
  } satisfies Replay
})

/** Only what local recovery never leaves: whoever promoted or recovered by hand has to mind the WAL himself. */
export const firstTimeline = 1

/** Refuses when replay would end before WAL that is known to have been flushed. */
export const requireWal = Effect.fnUntraced(function* (layout: VolumeLayout, replay: Replay) {
  if (replay.pgTimeline !== firstTimeline) {
    return yield* Effect.logWarning(
      `the cluster is on Postgres timeline ${replay.pgTimeline}: whether all of its WAL is there is not looked at`
    )
  }
  yield* writeReached(layout, yield* checkChain(layout, replay, replay.from, yield* readBootId))
})
