/**
 * The spare: a base already laid out near PGDATA. Swapped in by renames, it makes a start of any size take a
 * millisecond.
 *
 * Its files were never flushed, so it counts only within the boot of the kernel that wrote them, and only as a
 * continuation of the base that it names. `spare.id` is written last and removed first. Never needed: without a spare
 * the base is laid out at the start.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { FileFailed, StorageDamaged } from "../../errors/Failure.ts"
import { attempt, hasCode, makeFolder, namesIn, removeFile } from "../../platform/files.ts"
import { readBootId } from "../../platform/processes.ts"
import { layBase } from "./baseFolder.ts"
import { contentRule } from "./basePolicy.ts"
import { Lasting, removeTree, rename, replaceUnflushed, statOrNull } from "./disk.ts"
import { failpoint } from "./failpoint.ts"
import { type Base, freshTrash, type Layout, printRecord, readSpareId, trashes } from "./layout.ts"
import type { Pace } from "./pacing.ts"

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
  // From here on a crash means: lay out the base. Half a swap is overwritten by that like anything else.
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

/** What was a whole PGDATA once, the newest first: the most of it is as the next spare must be. */
const donors = Effect.fnUntraced(function* (layout: Layout) {
  const number = (path: string) => Number(path.slice(path.lastIndexOf("-") + 1))
  const newestFirst = [...(yield* trashes(layout))].sort((a, b) => number(b) - number(a))
  return yield* Effect.filter(newestFirst, (path) => isFolder(`${path}/base`))
})

/** Two copies, the base and the spare, are all that is ever of use. */
const removeTrash = (layout: Layout, except: string | undefined) =>
  Effect.flatMap(trashes(layout), (paths) =>
    Effect.forEach(
      paths.filter((path) => path !== except),
      removeTree,
      { discard: true }
    )
  )

/**
 * Makes the next spare from the files of the base or the PGDATA before, in the background, and throws away the rest.
 * It is read as a whole and compared with the base's manifest, so that nothing damaged is ever swapped in.
 */
export const prepareSpare: (
  layout: Layout,
  base: Base,
  pgdata: string,
  pace?: Pace
) => Effect.Effect<void, FileFailed | StorageDamaged> = Effect.fnUntraced(function* (
  layout,
  base,
  pgdata,
  pace = "background"
) {
  if (!(yield* Lasting)) return
  const bootId = yield* readBootId
  if (bootId !== null && (yield* sameFilesystem(layout, pgdata)) && (yield* usable(layout, base, pgdata)) === null) {
    yield* removeFile(layout.spareId)
    if (!(yield* isFolder(layout.spare))) {
      const [donor] = yield* donors(layout)
      if (donor === undefined) yield* makeFolder(layout.spare, layout.owner)
      else yield* rename(donor, layout.spare)
    }
    yield* failpoint("spare-begun")
    yield* layBase(layout, base, layout.spare, pace)
    yield* failpoint("spare-filled")
    const id = { n: base.current.n, bootId, label: base.current.label }
    yield* replaceUnflushed(layout.spareId, printRecord(id), layout.owner)
  }
  yield* removeTrash(layout, undefined)
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
    yield* replaceUnflushed(layout.spareId, printRecord({ n: base.current.n, bootId, label }), layout.owner)
    // A life that ends before its own spare is ready leaves a copy each time.
    yield* removeTrash(layout, (yield* donors(layout))[0])
    return true
  }).pipe(
    Effect.catchTag("FileFailed", (failure) =>
      hasCode(failure, "EXDEV") ? Effect.succeed(false) : Effect.fail(failure)
    )
  )
})
