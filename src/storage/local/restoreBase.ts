/**
 * Makes PGDATA what Postgres starts from: the base's files, the label that makes it replay, and the link to the WAL.
 *
 * There is never a recovery.signal: with backup_label and all WAL in pg_wal, Postgres replays to the end of WAL and
 * stays on its Postgres timeline. A start that would silently lose WAL is refused before anything is touched.
 * Relies on the settings of `postgres/localConf.ts` from the first second on: `wal_keep_size` at its maximum (the
 * checkpoint at the end of recovery would otherwise remove WAL), `fsync = off` (the files need not survive, the WAL
 * is flushed by `secure`), and `restart_after_crash = off` (every recovery comes through here).
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { Failure } from "../../errors/Failure.ts"
import { attempt, namesIn, removeFile } from "../../platform/files.ts"
import type { Spawn } from "../../platform/Spawn.ts"
import { layBase, requireFolder } from "./baseFolder.ts"
import { replaceUnflushed, statOrNull } from "./disk.ts"
import { failpoint } from "./failpoint.ts"
import { type Base, damaged, type Layout, readBase } from "./layout.ts"
import { removeOld } from "./publishBase.ts"
import { writeReached } from "./reached.ts"
import { type ClusterRequest, makeFirstBase } from "./seedCluster.ts"
import { swapIn } from "./spare.ts"
import { checkWal, noteStart, replayStart } from "./wal.ts"
import { segmentNumberOf } from "./walSegments.ts"
import { ownWal } from "./walSnapshot.ts"

/** An ordinary cluster that somebody pointed us at by mistake has a pg_wal of its own, with WAL in it. */
const refuseForeign = Effect.fnUntraced(function* (layout: Layout, pgdata: string) {
  const wal = `${pgdata}/pg_wal`
  if ((yield* statOrNull(wal))?.isDirectory() !== true) return
  if ((yield* namesIn(wal)).some((name) => /^[0-9A-F]{24}$/.test(name))) {
    return yield* damaged(
      layout,
      `PGDATA (${pgdata}) holds a cluster that local storage did not make`,
      "give another -D; or remove that cluster yourself if nobody needs it"
    )
  }
})

const checkBase = Effect.fnUntraced(function* (layout: Layout, base: Base, major: number) {
  const { current } = base
  if (current.pgMajor !== major) {
    return yield* damaged(
      layout,
      `it was made by Postgres ${current.pgMajor}, and this is Postgres ${major}`,
      `give a Postgres ${current.pgMajor} with -b, or dump and restore into a new timeline`
    )
  }
  if (current.format === 2) return yield* requireFolder(layout, current.folder)
  const tar = yield* statOrNull(`${layout.root}/${current.tar}`)
  if (tar?.size !== current.tarBytes) {
    const found = tar === null ? "missing" : `${tar.size} bytes long instead of ${current.tarBytes}`
    return yield* damaged(layout, `${current.tar} is ${found}`)
  }
})

const linkWal = (layout: Layout, pgdata: string) =>
  attempt("link", `${pgdata}/pg_wal`, () => {
    const link = `${pgdata}/pg_wal`
    const stat = fs.lstatSync(link, { throwIfNoEntry: false })
    // The base has it as an empty folder; rmdir refuses anything else.
    if (stat?.isDirectory() === true) fs.rmdirSync(link)
    else if (stat !== undefined) fs.unlinkSync(link)
    fs.symlinkSync(fs.realpathSync(layout.wal), link)
  })

/** `swapped`: the spare became PGDATA; `laid`: it was made from the base. For measurements. */
export type Restored = "swapped" | "laid"

/** `pgdata` must exist; afterwards it holds the base of the timeline, a new cluster's on its first start. */
export const restoreBase: (
  layout: Layout,
  pgdata: string,
  wanted: ClusterRequest
) => Effect.Effect<Restored, Failure, Spawn> = Effect.fnUntraced(function* (layout, pgdata, wanted) {
  yield* refuseForeign(layout, pgdata)
  const base = (yield* readBase(layout)) ?? (yield* makeFirstBase(layout, wanted))
  yield* removeFile(layout.first)
  yield* checkBase(layout, base, wanted.install.major)
  const from = yield* replayStart(layout, base)
  let reached = yield* checkWal(layout, base, from)
  yield* noteStart(layout, base, reached)
  yield* removeOld(layout, base, segmentNumberOf(base.start, base.current.segmentBytes))
  const swapped = yield* swapIn(layout, base, pgdata)
  if (swapped === null) {
    if (from !== base.start) {
      reached = yield* checkWal(layout, base, base.start)
      yield* writeReached(layout, reached)
    }
    yield* layBase(layout, base, pgdata, "urgent")
    yield* failpoint("base-laid")
  }
  // Behind what was just noted: a branch that is made meanwhile sees either that, or that it has to look again.
  yield* ownWal(layout, base, reached.written)
  yield* linkWal(layout, pgdata)
  yield* failpoint("wal-linked")
  yield* replaceUnflushed(`${pgdata}/backup_label`, swapped ?? base.current.label, layout.owner)
  return swapped === null ? "laid" : "swapped"
})
