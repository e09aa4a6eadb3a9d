/**
 * Room on the disk: what of local storage may be given up when there is none left, in the order in which it is missed
 * least. Trash first, then the spare and half-made copies; never a base, WAL, or what was set aside for a person.
 *
 * Only whoever has proven to be alone in the timeline may call what gives something up.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { FileFailed } from "../../errors/Failure.ts"
import { attempt, hasCode, namesIn, removeFile } from "../../platform/files.ts"
import { removeTree, statOrNull } from "./disk.ts"
import { type Layout, trashes } from "./layout.ts"
import { wantedBytes, wantedFiles } from "./roomWatch.ts"

/** No room for data or for names, on the disk or in somebody's quota. */
export const isFull = (failure: unknown): failure is FileFailed =>
  failure instanceof FileFailed && hasCode(failure, "ENOSPC", "EDQUOT")

export const hasFree = (layout: Pick<Layout, "root">, bytes = wantedBytes, files = wantedFiles) =>
  attempt("look at the room of", layout.root, () => {
    const { bavail, bsize, ffree, files: all } = fs.statfsSync(layout.root)
    // Some file systems make names as they go and count none.
    return bavail * bsize >= bytes && (all === 0 || ffree >= files)
  })

/** Bases that were being made. None is ever the one that counts: that has another name. */
const giveUpHalves = Effect.fnUntraced(function* (layout: Layout) {
  const halves = (yield* namesIn(layout.root)).filter((name) => /^base-.*\.new$/.test(name))
  yield* Effect.forEach(halves, (name) => removeTree(`${layout.root}/${name}`), { discard: true })
  return halves.length
})

/** True when anything was there to give up. */
const giveUpTrash = Effect.fnUntraced(function* (layout: Layout) {
  const trash = yield* trashes(layout)
  yield* Effect.forEach(trash, removeTree, { discard: true })
  const halves = yield* giveUpHalves(layout)
  if (trash.length > 0) yield* Effect.logWarning(`the disk is full: emptied the trash in ${layout.root}`)
  return trash.length + halves > 0
})

/** The next start lays out the base instead. A half-made base was the spare before. */
export const giveUpSpare = Effect.fnUntraced(function* (layout: Layout) {
  yield* giveUpHalves(layout)
  if ((yield* statOrNull(layout.spare)) === null) return false
  yield* removeFile(layout.spareId)
  yield* removeTree(layout.spare)
  yield* Effect.logWarning(`the disk is full: gave up the spare in ${layout.root}, so the next start will be slower`)
  return true
})

/** What a person may do, said of the storage as it is. */
export const mayBeDeleted = (layout: Layout): string =>
  `in ${layout.root} the folders trash-* and aside-*, and spare together with spare.id, may be deleted while no ` +
  "compute runs; nothing else may"

const hintOf = (layout: Layout): string => `make room on this file system (bytes or inodes); ${mayBeDeleted(layout)}`

const reserves = [1, 2, 3, 4]
const reserve = (layout: Layout, n: number): string => `${layout.root}/reserve-${n}`

/** A few names and blocks, for what has to be written before it is proven that anything may be given up. */
export const keepReserve = Effect.fnUntraced(function* (layout: Layout) {
  const missing: Array<number> = []
  for (const n of reserves) if ((yield* statOrNull(reserve(layout, n))) === null) missing.push(n)
  for (const n of missing) {
    yield* attempt("write", reserve(layout, n), () => fs.writeFileSync(reserve(layout, n), Buffer.alloc(16_384, 1)))
  }
})

/** Nobody misses it, so it goes before it is proven that nobody else is there. */
const giveUpReserve = (layout: Layout) =>
  Effect.forEach(reserves, (n) => removeFile(reserve(layout, n)), { discard: true })

/** Again after each of these steps, as long as there is no room; then it fails with what a person may do. */
export const givingUp =
  <E2, R2>(hint: string, [step, ...others]: ReadonlyArray<Effect.Effect<unknown, E2, R2>>) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | E2 | FileFailed, R | R2> =>
    Effect.catchIf(
      effect,
      (failure): failure is E & FileFailed => isFull(failure),
      ({ cause, operation, path }): Effect.Effect<A, E | E2 | FileFailed, R | R2> =>
        step === undefined
          ? Effect.fail(new FileFailed({ operation, path, cause, hint }))
          : Effect.andThen(step, givingUp(hint, others)(effect))
    )

/** Again without trash, and again without the spare, when there was no room. */
export const withRoom = (layout: Layout) => givingUp(hintOf(layout), [giveUpTrash(layout), giveUpSpare(layout)])

/**
 * A claim, which needs room before it is proven that anything but the reserve may be given up. `alone` proves that
 * without a file, and does nothing where it cannot.
 */
export const withRoomToClaim = <E, R>(
  layout: Layout,
  alone: (work: Effect.Effect<unknown, FileFailed>) => Effect.Effect<unknown, E, R>
) =>
  givingUp<E | FileFailed, R>(hintOf(layout), [
    giveUpReserve(layout),
    alone(giveUpTrash(layout)),
    alone(giveUpSpare(layout))
  ])

/** When Postgres found no room: all that it can have. */
export const giveUpAll = (layout: Layout) =>
  Effect.all([giveUpReserve(layout), giveUpTrash(layout), giveUpSpare(layout)], { discard: true })

/** Before and after a start's own work: where little is left, what the start does not need goes. */
export const keepLittle = Effect.fnUntraced(function* (layout: Layout, of: "trash" | "trash and spare") {
  if (yield* hasFree(layout)) return
  yield* giveUpTrash(layout)
  if (of === "trash and spare" && !(yield* hasFree(layout))) yield* giveUpSpare(layout)
})

/** For something as large as this: by giving up trash, then the spare. Fails where that is not enough. */
export const makeRoom = Effect.fnUntraced(function* (layout: Layout, what: string, bytes: number) {
  for (const giveUp of [giveUpTrash(layout), giveUpSpare(layout)]) {
    if (yield* hasFree(layout, bytes, wantedFiles)) return
    yield* giveUp
  }
  if (yield* hasFree(layout, bytes, wantedFiles)) return
  const cause = new Error(`it needs about ${Math.ceil(bytes / 1e6)} MB, and there is less, or there are too few inodes`)
  return yield* new FileFailed({ operation: "make", path: what, cause, hint: hintOf(layout) })
})

/** One may stay, because its files are used again for the next spare. */
const keptTrash = 1

/** Lives that are shorter than a spare takes to make leave a data directory's worth of trash each. */
export const boundTrash = (layout: Layout) =>
  Effect.flatMap(trashes(layout), (present) =>
    Effect.forEach(present.slice(keptTrash), removeTree, { discard: true, concurrency: 2 })
  )

/** Who restores a copy as another user leaves files that Postgres may not write. */
export const requireOwned = Effect.fnUntraced(function* (layout: Layout, directory: string) {
  const inWal = (yield* namesIn(layout.wal)).map((name) => `${layout.wal}/${name}`)
  yield* requireOwner(layout, directory, [layout.root, layout.current, layout.wal, ...inWal])
})

/** `directory` is what the hint names. Fails naming the first of the paths that is another user's. */
export const requireOwner = Effect.fnUntraced(function* (
  layout: Pick<Layout, "owner" | "root">,
  directory: string,
  paths: ReadonlyArray<string>
) {
  const uid = layout.owner?.uid ?? process.geteuid?.()
  const user = layout.owner?.name ?? String(uid)
  for (const path of paths) {
    const stat = yield* statOrNull(path)
    if (uid === undefined || stat === null || stat.uid === uid || (stat.uid === 0 && path === layout.root)) continue
    return yield* new FileFailed({
      operation: "use",
      path,
      cause: new Error(`it belongs to the user with id ${stat.uid}, and Postgres runs as ${user} (${uid})`),
      hint: `give it to that user: chown -R ${user} ${directory}`
    })
  }
})

/** Where we are forbidden something: whose the first of these paths is that is another user's. */
export const orNameOwner =
  (layout: Pick<Layout, "owner" | "root">, directory: string, paths: ReadonlyArray<string>) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | FileFailed, R> =>
    Effect.catchIf(
      effect,
      (failure): failure is E & FileFailed => failure instanceof FileFailed && hasCode(failure, "EACCES", "EPERM"),
      (failure) =>
        requireOwner(layout, directory, paths).pipe(
          Effect.mapError((owner) => (owner.hint === undefined ? failure : owner)),
          Effect.andThen(Effect.fail(failure))
        )
    )
