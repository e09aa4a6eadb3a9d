/**
 * Makes PGDATA what Postgres starts from: the base's files, the label that makes it replay, and the link to the WAL.
 *
 * There is never a recovery.signal: with backup_label and all WAL in pg_wal, Postgres replays to the end of WAL and
 * stays on its Postgres timeline. A start that would silently lose WAL is refused before anything is touched.
 * Relies on the settings of the local plan from the first second on: `wal_keep_size` at its maximum (the checkpoint
 * at the end of recovery would otherwise remove WAL), `fsync = off` (the files need not survive, the WAL is flushLsn
 * by `secure`), and `restart_after_crash = off` (every recovery comes through here).
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { Failure, FileFailed } from "../../errors/Failure.ts"
import type { Spawn } from "../../platform/Spawn.ts"
import {
  attempt,
  failpoint,
  hasCode,
  makeFolder,
  namesIn,
  removeFile,
  removeTree,
  rename,
  replaceFile,
  statOrNull
} from "./disk.ts"
import {
  type Base,
  damaged,
  freshTrash,
  type Layout,
  printRecord,
  readBase,
  readBootId,
  readSpareId,
  trashes
} from "./layout.ts"
import { removeOld } from "./publishBase.ts"
import { makeFirstBase, type TemplateFor } from "./seedCluster.ts"
import { inSlices } from "./tarPack.ts"
import { unpackTar } from "./tarUnpack.ts"
import { checkWal, noteUnflushed, segmentNumberOf } from "./wal.ts"
import { contentRule } from "./walArchiver.ts"

// ---------------------------------------------------------------------------------------------------------------------
// A base already unpacked beside PGDATA: swapped in by renames, it makes a start of any size take a millisecond.
//
// Its files were never flushLsn, so it counts only within the boot of the kernel that wrote them, and only as a
// continuation of the base that it names. `spare.id` is written last and removed first.
// ---------------------------------------------------------------------------------------------------------------------

const sameFilesystem = Effect.fnUntraced(function* (layout: Layout, pgdata: string) {
  const [here, there] = [yield* statOrNull(layout.root), yield* statOrNull(pgdata)]
  return here !== null && there !== null && here.dev === there.dev
})

const isFolder = (path: string) => Effect.map(statOrNull(path), (stat) => stat?.isDirectory() === true)

/** The spare's label when it may be used for this start; `null` otherwise. */
const usable = Effect.fnUntraced(function* (layout: Layout, base: Base, pgdata: string) {
  const id = yield* readSpareId(layout)
  if (id === null || id.n !== base.current.n || id.bootId !== (yield* readBootId)) return null
  return (yield* isFolder(layout.spare)) && (yield* sameFilesystem(layout, pgdata)) ? id.label : null
})

const moveAll = Effect.fnUntraced(function* (from: string, to: string, half: "swap-half-out" | "swap-half-in") {
  const names = yield* namesIn(from)
  for (const [index, name] of names.entries()) {
    if (index === Math.floor(names.length / 2)) yield* failpoint(half)
    // The link to durable WAL is never carried along: in the trash it would be deleted around.
    if (name === "pg_wal" && (yield* statOrNull(`${from}/${name}`))?.isSymbolicLink() === true) {
      yield* removeFile(`${from}/${name}`)
    } else {
      yield* rename(`${from}/${name}`, `${to}/${name}`)
    }
  }
})

/** Puts the spare in PGDATA's place, keeping PGDATA's inode; the label to start with, or `null` when it cannot. */
export const swapIn = Effect.fnUntraced(function* (
  layout: Layout,
  base: Base,
  pgdata: string
): Effect.fn.Return<string | null, FileFailed> {
  const label = yield* usable(layout, base, pgdata)
  if (label === null) return null
  // From here on a crash means: unpack the base. Half a swap is overwritten by that like anything else.
  yield* removeFile(layout.spareId)
  yield* failpoint("swap-begun")
  const trash = yield* freshTrash(layout)
  yield* makeFolder(trash, layout.owner)
  return yield* Effect.gen(function* () {
    yield* moveAll(pgdata, trash, "swap-half-out")
    yield* failpoint("swap-out")
    yield* moveAll(layout.spare, pgdata, "swap-half-in")
    yield* attempt("remove", layout.spare, () => fs.rmdirSync(layout.spare))
    return label
  }).pipe(
    // One device number, and yet two mounts.
    Effect.catchTag("FileFailed", (failure) =>
      hasCode(failure, "EXDEV") ? Effect.succeed(null) : Effect.fail(failure)
    )
  )
})

/** Makes the next spare from the files of the last PGDATA, in the background, and throws away the rest. */
export const prepareSpare: (layout: Layout, base: Base, pgdata: string) => Effect.Effect<void, FileFailed> =
  Effect.fnUntraced(function* (layout, base, pgdata) {
    const bootId = yield* readBootId
    if (bootId !== null && (yield* sameFilesystem(layout, pgdata)) && (yield* usable(layout, base, pgdata)) === null) {
      yield* removeFile(layout.spareId)
      const [trash] = yield* trashes(layout)
      if (!(yield* isFolder(layout.spare))) {
        if (trash === undefined) yield* makeFolder(layout.spare, layout.owner)
        else yield* rename(trash, layout.spare)
      }
      yield* failpoint("spare-begun")
      const tar = `${layout.root}/${base.current.tar}`
      yield* inSlices("unpack", layout.spare, "quiet", () => unpackTar(tar, layout.spare, layout.owner))
      yield* failpoint("spare-filled")
      const id = { n: base.current.n, bootId, label: base.current.label }
      yield* replaceFile(layout.spareId, printRecord(id), layout.owner)
    }
    yield* Effect.forEach(yield* trashes(layout), removeTree, { discard: true })
  })

/**
 * A cleanly stopped PGDATA becomes the spare: nothing to copy and nothing to replay, however large. `label` is its
 * cold label. Only what belongs in a base goes along, so that settings and slots are lost on every way alike.
 */
export const becomeSpare: (
  layout: Layout,
  base: Base,
  pgdata: string,
  label: string
) => Effect.Effect<boolean, FileFailed> = Effect.fnUntraced(function* (layout, base, pgdata, label) {
  const bootId = yield* readBootId
  if (bootId === null || !(yield* sameFilesystem(layout, pgdata))) return false
  yield* removeFile(layout.spareId)
  if (yield* isFolder(layout.spare)) yield* rename(layout.spare, yield* freshTrash(layout))
  yield* makeFolder(layout.spare, layout.owner)
  return yield* Effect.gen(function* () {
    for (const name of yield* namesIn(pgdata)) {
      const folder = name === "pg_wal" || (yield* isFolder(`${pgdata}/${name}`))
      const rule = contentRule(name, folder ? "directory" : "file")
      if (rule === "empty") yield* makeFolder(`${layout.spare}/${name}`, layout.owner)
      if (rule === "copy") yield* rename(`${pgdata}/${name}`, `${layout.spare}/${name}`)
    }
    yield* replaceFile(layout.spareId, printRecord({ n: base.current.n, bootId, label }), layout.owner)
    return true
  }).pipe(
    Effect.catchTag("FileFailed", (failure) =>
      hasCode(failure, "EXDEV") ? Effect.succeed(false) : Effect.fail(failure)
    )
  )
})

// ---------------------------------------------------------------------------------------------------------------------

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

/** How PGDATA came about, for the log and for measurements. */
export type Laid = "swapped" | "unpacked"

export const lay: (layout: Layout, pgdata: string, wanted: TemplateFor) => Effect.Effect<Laid, Failure, Spawn> =
  Effect.fnUntraced(function* (layout, pgdata, wanted) {
    yield* refuseForeign(layout, pgdata)
    const base = (yield* readBase(layout)) ?? (yield* makeFirstBase(layout, wanted))
    yield* removeFile(layout.first)
    yield* checkBase(layout, base, wanted.install.major)
    yield* checkWal(layout, base)
    yield* noteUnflushed(layout, base)
    yield* removeOld(layout, base, segmentNumberOf(base.start, base.current.segmentBytes))
    const swapped = yield* swapIn(layout, base, pgdata)
    if (swapped === null) {
      const tar = `${layout.root}/${base.current.tar}`
      yield* inSlices("unpack", pgdata, "urgent", () => unpackTar(tar, pgdata, layout.owner))
    }
    yield* linkWal(layout, pgdata)
    yield* failpoint("lay-linked")
    yield* replaceFile(`${pgdata}/backup_label`, swapped ?? base.current.label, layout.owner)
    return swapped === null ? "unpacked" : "swapped"
  })
