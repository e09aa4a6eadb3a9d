/**
 * A new base, from the running cluster with Postgres's backup protocol or from a cleanly stopped one, and how it
 * becomes the one that starts begin from.
 *
 * The order of publishing is what makes a crash at any point leave a storage that starts: everything a start needs is
 * on the disk before `current.json` names it, and nothing a start needs is removed before `current.json`, on the
 * disk, no longer names it.
 *
 * The online copy holds one connection from start to stop, with a deadline; when it breaks Postgres drops the backup
 * by itself. The WAL from the copy's start to its stop makes it whole: that it is still there is what `wal_keep_size`
 * is for. A tablespace outside of PGDATA would not be in the copy, so no base is made while there is one; its data
 * stays safe in the WAL since the last base, which then grows.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import type { Failure, FileFailed } from "../../errors/Failure.ts"
import type { Admin } from "../../pgwire/Admin.ts"
import { attempt, namesIn, removeFile } from "../../platform/files.ts"
import type { Spawn } from "../../platform/Spawn.ts"
import { type ControlFile, parseControlFile } from "../../postgres/controlFile.ts"
import { type Lsn, parseLsn, printLsn } from "../../spec/identifiers.ts"
import { coldBackupLabel, parseBackupLabel } from "./backupLabel.ts"
import { copyBase, type Copied, flushCopy, retireBases, writeManifest } from "./baseFolder.ts"
import type { KnownFiles } from "./copyTree.ts"
import { flush, removeLarge, rename, replaceUnflushed, statOrNull } from "./disk.ts"
import { failpoint } from "./failpoint.ts"
import { type Base, Current, damaged, type Layout, printCurrent, readBase } from "./layout.ts"
import { totalBytes } from "./manifest.ts"
import type { Pace } from "./pacing.ts"
import { flushWal } from "./wal.ts"
import { segmentNumberOf, segmentsBefore } from "./walSegments.ts"

/** `unflushed` are the files of the copy that may be in memory only; `next` lacks only what the copy says of itself. */
export const publish: (
  layout: Layout,
  copied: Copied,
  unflushed: ReadonlyArray<string>,
  next: Omit<Current, "manifest" | "bytes" | "folder" | "format">
) => Effect.Effect<void, Failure, Spawn> = Effect.fnUntraced(function* (layout, copied, unflushed, next) {
  yield* failpoint("base-copied")
  // 1. The copy: its files, then the list of them, which makes it whole.
  yield* flushCopy(copied, unflushed)
  yield* failpoint("base-files-synced")
  const manifest = yield* writeManifest(layout.owner, copied)
  yield* failpoint("base-manifest-written")
  // 2. The WAL that makes the copy whole. Without fsync it may be in memory only.
  const label = Option.getOrNull(parseBackupLabel(next.label))
  if (label === null) return yield* damaged(layout, "the label of a new base cannot be understood", notPublished)
  yield* flushWal(layout, segmentNumberOf(label.start, next.segmentBytes), next.segmentBytes)
  yield* failpoint("base-wal-synced")
  // 3. Its name.
  const folder = `base-${next.n}`
  yield* rename(copied.folder, `${layout.root}/${folder}`)
  yield* flush(layout.root)
  yield* failpoint("base-folder-renamed")
  // 4. The pointer to it: content first, then the name, then the folder.
  const pending = `${layout.root}/current.next`
  const current = Current.make({ format: 2, ...next, folder, manifest, bytes: totalBytes(copied.manifest) })
  yield* replaceUnflushed(pending, printCurrent(current), layout.owner)
  yield* flush(pending)
  yield* failpoint("base-current-written")
  yield* rename(pending, layout.current)
  yield* flush(layout.root)
  yield* failpoint("base-current-renamed")
})

/**
 * Removes what only earlier bases needed: that they are bases, and segments before `keepFrom`, which is never after the
 * segment where `base` begins. Segments that an archiver has not had yet stay.
 */
export const removeOld: (layout: Layout, base: Base, keepFrom: bigint) => Effect.Effect<void, FileFailed> =
  Effect.fnUntraced(function* (layout, base, keepFrom) {
    yield* retireBases(layout, base)
    yield* failpoint("base-old-removed")
    const { segmentBytes } = base.current
    const start = segmentNumberOf(base.start, segmentBytes)
    const names = segmentsBefore(yield* namesIn(layout.wal), keepFrom < start ? keepFrom : start, segmentBytes)
    const statuses = new Set(yield* namesIn(`${layout.wal}/archive_status`))
    for (const name of [...names].sort()) {
      if (statuses.has(`${name}.ready`)) continue
      yield* removeLarge(`${layout.wal}/${name}`)
      yield* removeFile(`${layout.wal}/archive_status/${name}.done`)
    }
    yield* failpoint("base-wal-pruned")
  })

const copyWithin = Duration.minutes(30)
/** A fast checkpoint writes every dirty page. */
const checkpointWithin = Duration.minutes(5)

export const refuseTablespaces = Effect.fnUntraced(function* (layout: Layout, pgdata: string) {
  for (const name of yield* namesIn(`${pgdata}/pg_tblspc`)) {
    if ((yield* statOrNull(`${pgdata}/pg_tblspc/${name}`))?.isSymbolicLink() === true) {
      return yield* damaged(
        layout,
        `tablespace ${name} lies outside of PGDATA, so no new base can be made`,
        "move its tables to pg_default and drop the tablespace; until then starts get slower and WAL is kept"
      )
    }
  }
})

export const countDatabases = (pgdata: string) => Effect.map(namesIn(`${pgdata}/base`), (names) => names.length)

const notPublished = "this base was not published; nothing is lost"

interface Identified {
  readonly current: { readonly systemId: string }
}

/** `systemId` as Postgres prints it, signed. What is of another cluster must leave no trace: no start would bear it. */
export const requireSameCluster = (layout: Layout, base: Identified, systemId: string) =>
  BigInt.asUintN(64, BigInt(systemId)) === BigInt(base.current.systemId)
    ? Effect.void
    : Effect.fail(
        damaged(
          layout,
          `the Postgres that was asked has system identifier ${systemId}, the cluster stored here has ` +
            base.current.systemId,
          "nothing of it was stored; find out which server listens on this compute's port and stop it"
        )
      )

/** A session with the cluster that is stored here. */
export const connectToCluster = Effect.fnUntraced(function* (
  admin: Admin["Service"],
  layout: Layout,
  base: Identified
) {
  const wire = yield* admin.connect("local_storage")
  const [row] = yield* wire.rows("SELECT system_identifier::text FROM pg_catalog.pg_control_system()", "10 seconds")
  yield* requireSameCluster(layout, base, row?.[0] ?? "0")
  return wire
})

interface Facts {
  readonly label: string
  readonly stop: Lsn
  readonly transaction: string
  readonly databases: number
}

/** What both kinds share: copy, check the label, publish, read back, remove what is old. */
const finish = Effect.fnUntraced(function* (
  layout: Layout,
  base: Base,
  copy: Copied,
  facts: Facts,
  keepFrom: Lsn | null
) {
  const label = Option.getOrNull(parseBackupLabel(facts.label))
  if (label === null) return yield* damaged(layout, "the label of a new base cannot be understood", notPublished)
  if (label.pgTimeline !== base.pgTimeline) {
    const detail = `Postgres is on its timeline ${label.pgTimeline}, not ${base.pgTimeline}`
    return yield* damaged(layout, detail, "do not promote or recover by hand; nothing is lost yet")
  }
  const { pgMajor, segmentBytes, systemId } = base.current
  const n = base.current.n + 1
  const next = {
    n,
    label: facts.label,
    stop: printLsn(facts.stop),
    systemId,
    pgMajor,
    segmentBytes,
    transaction: facts.transaction,
    databases: facts.databases
  }
  yield* publish(layout, copy, [...copy.manifest.files.keys()], next)
  const published = yield* readBase(layout)
  if (published?.current.n !== n) return yield* damaged(layout, "the base just published is not there")
  const start = segmentNumberOf(label.start, segmentBytes)
  yield* removeOld(layout, published, keepFrom === null ? start : segmentNumberOf(keepFrom, segmentBytes))
  return published
})

const number = (text: string | null | undefined): Lsn | null => Option.getOrNull(parseLsn(text ?? ""))

/** While Postgres serves. WAL that a slot or a standby still reads is kept a little longer than the base needs. */
export const copyRunning = Effect.fn("LocalStorage.copyRunning")(function* (
  layout: Layout,
  base: Base,
  pgdata: string,
  admin: Admin["Service"],
  known: KnownFiles,
  pace: Pace = "background"
): Effect.fn.Return<Base, Failure, Spawn> {
  yield* refuseTablespaces(layout, pgdata)
  const old = base.current.pgMajor < 15
  return yield* Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* connectToCluster(admin, layout, base)
      yield* wire.simple(
        old
          ? "SELECT pg_catalog.pg_start_backup('base', true, false)"
          : "SELECT pg_catalog.pg_backup_start('base', fast => true)",
        checkpointWithin
      )
      // Asked before the copy: what is made during it counts towards the next base.
      const [facts] = yield* wire.rows("SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text")
      const databases = yield* countDatabases(pgdata)
      const copy = yield* copyBase(layout, base, pgdata, known, pace)
      const [stopped] = yield* wire.rows(
        old
          ? "SELECT lsn::text, labelfile FROM pg_catalog.pg_stop_backup(false, false)"
          : "SELECT lsn::text, labelfile FROM pg_catalog.pg_backup_stop(wait_for_archive => false)",
        checkpointWithin
      )
      const [readers] = yield* wire.rows(
        `SELECT least((SELECT min(restart_lsn) FROM pg_catalog.pg_replication_slots),
                    (SELECT min(sent_lsn) FROM pg_catalog.pg_stat_replication))::text`
      )
      const stop = number(stopped?.[0])
      if (stop === null) return yield* damaged(layout, "Postgres did not say where the backup ended", notPublished)
      yield* refuseTablespaces(layout, pgdata)
      const label = Option.getOrNull(parseBackupLabel(stopped?.[1] ?? ""))
      const read = number(readers?.[0])
      const keepFrom = label === null || read === null ? null : read < label.start ? read : null
      const said = { label: stopped?.[1] ?? "", stop, transaction: facts?.[0] ?? "0", databases }
      return yield* finish(layout, base, copy, said, keepFrom)
    })
  ).pipe(
    Effect.timeoutOrElse({
      duration: copyWithin,
      orElse: () =>
        Effect.fail(
          damaged(layout, "a new base took too long and was given up", "nothing is lost; look at the disk's speed")
        )
    })
  )
})

/** pg_control of a data directory nobody uses; `null` unless it was stopped cleanly. */
export const readShutDown = Effect.fnUntraced(function* (
  layout: Layout,
  pgdata: string
): Effect.fn.Return<ControlFile | null, Failure> {
  const path = `${pgdata}/global/pg_control`
  const bytes = yield* attempt("read", path, () => fs.readFileSync(path))
  const control = yield* Effect.fromResult(
    Result.mapError(parseControlFile(bytes), (detail) => damaged(layout, detail))
  )
  return control.shutDown ? control : null
})

/** After a clean stop. The shutdown checkpoint is the last record, so WAL through it is all there is. */
export const copyStopped = Effect.fn("LocalStorage.copyStopped")(function* (
  layout: Layout,
  base: Base,
  pgdata: string,
  control: ControlFile,
  known: KnownFiles
): Effect.fn.Return<Base, Failure, Spawn> {
  const databases = yield* countDatabases(pgdata)
  const copy = yield* copyBase(layout, base, pgdata, known, "urgent")
  const { current } = base
  const facts = {
    label: coldBackupLabel(control, current.segmentBytes),
    stop: control.checkpoint + 1n,
    // Not in a place that is the same in every version: the first look of `keep` fills it in.
    transaction: "0",
    databases
  }
  return yield* finish(layout, base, copy, facts, null)
})
