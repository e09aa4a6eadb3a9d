/**
 * The folder of a base: its manifest read and verified, the base laid out somewhere, a copy of PGDATA made into a new
 * one. `publishBase.ts` decides when which of them becomes the one that starts begin from.
 *
 * There are never more than two copies of the cluster beside PGDATA, the base and the spare, and they take turns: a new
 * base is made from the spare by writing what changed into it, and the base before then becomes the next spare in the
 * same way (docs/adr/0014-bases-that-share-files.md).
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as fs from "node:fs"
import { codeOf } from "../../errors/errno.ts"
import type { FileFailed, StorageDamaged } from "../../errors/Failure.ts"
import { attemptPromise, makeFolder, namesIn, removeFile } from "../../platform/files.ts"
import { runCommand } from "../../platform/processes.ts"
import type { RunAs, Spawn } from "../../platform/Spawn.ts"
import { type Copy, copyFiles, finishCopy, type KnownFiles, listTree } from "./copyTree.ts"
import { LaidFiles, Lasting, flush, handOver, removeTree, rename, statOrNull } from "./disk.ts"
import { failpoint } from "./failpoint.ts"
import { FileDamaged, layTree } from "./layTree.ts"
import { type Base, damaged, freshTrash, type Layout, readSpareId, trashes } from "./layout.ts"
import { type Manifest, parseManifest, printManifest, textDigest } from "./manifest.ts"
import { type Pace, paced, type Pacer, runSteps } from "./pacing.ts"
import { unpackTar } from "./tarUnpack.ts"
import { putFolders } from "./treeFiles.ts"

/** What a start would be given is not what was published. */
const asDamage = (layout: Layout, folder: string) => (failure: FileFailed) =>
  Effect.fail(
    failure.cause instanceof FileDamaged ? damaged(layout, `${folder}/pgdata/${failure.cause.message}`) : failure
  )

const readBytes = (path: string) =>
  attemptPromise("read", path, async () => {
    const handle = await fs.promises.open(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)
    try {
      return await handle.readFile()
    } finally {
      await handle.close()
    }
  })

/** The manifest in a folder, which must be the one of this digest. Fails with the end of a sentence about it. */
export const readManifest = Effect.fnUntraced(function* (
  folder: string,
  digest: string,
  pace: Pace
): Effect.fn.Return<Manifest, string> {
  const path = `${folder}/manifest`
  const bytes = yield* Effect.mapError(readBytes(path), ({ cause }) => `cannot be read (${codeOf(cause) ?? "?"})`)
  const manifest = yield* paced("read", path, pace, async (pacer) =>
    (await runSteps(pacer, textDigest(bytes))) === digest ? runSteps(pacer, parseManifest(bytes)) : Option.none()
  ).pipe(Effect.orElseSucceed(() => Option.none()))
  return Option.isSome(manifest) ? manifest.value : yield* Effect.fail("is not the one that was written")
})

/** Makes `target` hold what the base holds. Fails naming the first file of the base that is damaged. */
export const layBase = Effect.fnUntraced(function* (
  layout: Layout,
  base: Base,
  target: string,
  pace: Pace
): Effect.fn.Return<void, FileFailed | StorageDamaged> {
  const { current } = base
  if (current.format === 1) {
    const tar = `${layout.root}/${current.tar}`
    return yield* paced("unpack", target, pace, (pacer) => unpackTar(pacer, tar, target, layout.owner))
  }
  const manifest = yield* Effect.mapError(
    readManifest(`${layout.root}/${current.folder}`, current.manifest, pace),
    (how) => damaged(layout, `${current.folder}/manifest ${how}`)
  )
  const source = `${layout.root}/${current.folder}/pgdata`
  const laid = yield* LaidFiles
  yield* paced("write", target, pace, (pacer) => layTree(pacer, manifest, source, target, layout.owner, laid)).pipe(
    Effect.catchTag("FileFailed", asDamage(layout, current.folder))
  )
})

const newFolder = (layout: Layout, n: number): string => `${layout.root}/base-${n}.new`

const isFolder = (path: string) => Effect.map(statOrNull(path), (stat) => stat?.isDirectory() === true)

/**
 * The folder that the next base is made in, made from the spare if there is one, and what it is known to hold. After
 * this there is no spare; a crash leaves one to be made again from whatever lies there.
 */
const takeTarget = Effect.fnUntraced(function* (
  layout: Layout,
  base: Base
): Effect.fn.Return<Manifest | null, FileFailed> {
  const id = yield* readSpareId(layout)
  yield* removeFile(layout.spareId)
  const folder = newFolder(layout, base.current.n + 1)
  const target = `${folder}/pgdata`
  // Of an attempt that failed after it had its name: current.json does not name it.
  const unnamed = `${layout.root}/base-${base.current.n + 1}`
  if (yield* isFolder(unnamed)) {
    yield* removeTree(folder)
    yield* removeFile(`${unnamed}/manifest`)
    yield* rename(unnamed, folder)
  }
  yield* makeFolder(folder, layout.owner)
  if (yield* isFolder(target)) return null
  if (!(yield* isFolder(layout.spare))) {
    const [trash] = yield* trashes(layout)
    yield* trash === undefined ? makeFolder(target, layout.owner) : rename(trash, target)
    return null
  }
  yield* rename(layout.spare, target)
  const { current } = base
  // The spare of a clean stop holds more than the base.
  const prepared = id !== null && id.n === current.n && id.label === current.label
  if (!prepared || current.format === 1) return null
  return yield* Effect.orElseSucceed(
    readManifest(`${layout.root}/${current.folder}`, current.manifest, "background"),
    () => null
  )
})

/** A copy that is whole and not yet published: nothing of it is flushed. */
export interface Copied {
  readonly folder: string
  readonly manifest: Manifest
}

/** Into a folder that may hold something already; nothing of it is flushed. */
export const copyOver = Effect.fnUntraced(function* (
  request: Omit<Copy, "now">,
  pace: Pace = "background"
): Effect.fn.Return<Manifest, FileFailed> {
  const clock = yield* Clock.Clock
  const copy = { ...request, now: () => clock.currentTimeMillisUnsafe() }
  const pgdata = copy.source
  const work = <A>(step: (pacer: Pacer) => Promise<A>) => paced("copy", pgdata, pace, step)
  const tree = yield* work((pacer) => listTree(pacer, pgdata))
  yield* work((pacer) => putFolders(pacer, copy.target, tree.folders, copy.owner))
  const files: Parameters<typeof copyFiles>[3] = new Map()
  const half = Math.ceil(tree.files.length / 2)
  yield* work((pacer) => copyFiles(pacer, copy, tree.files.slice(0, half), files))
  yield* failpoint("copy-half")
  yield* work((pacer) => copyFiles(pacer, copy, tree.files.slice(half), files))
  return yield* work((pacer) => finishCopy(pacer, copy, tree.folders, files))
})

/** The next base, made from the spare. */
export const copyBase = Effect.fnUntraced(function* (
  layout: Layout,
  base: Base,
  pgdata: string,
  known: KnownFiles,
  pace: Pace
): Effect.fn.Return<Copied, FileFailed> {
  const before = yield* takeTarget(layout, base)
  yield* failpoint("copy-begun")
  const folder = newFolder(layout, base.current.n + 1)
  const copy = { source: pgdata, target: `${folder}/pgdata`, owner: layout.owner, before, known }
  return { folder, manifest: yield* copyOver(copy, pace) }
})

/** A copy in a folder that has none yet. */
export const copyNew = Effect.fnUntraced(function* (
  pgdata: string,
  folder: string,
  owner: RunAs | null
): Effect.fn.Return<Copied, FileFailed> {
  const target = `${folder}/pgdata`
  yield* makeFolder(target, owner)
  return {
    folder,
    manifest: yield* copyOver({ source: pgdata, target, owner, before: null, known: new Map() }, "urgent")
  }
})

/**
 * From here on one flush for everything is faster. It flushes what others wrote to the filesystem, too, so not for
 * less: of what the journal has taken already, a flush costs next to nothing.
 */
const manyFiles = 64

const flushWithin = Duration.minutes(10)

/**
 * Flushes files and then folders of a copy; returns when all of it would survive a power cut but its own name. With
 * many files that is one flush of their filesystem, which a thousand single ones would be as well, one after the other;
 * where there is no such command they are.
 */
export const flushCopy = Effect.fnUntraced(function* (
  { folder, manifest }: Copied,
  files: ReadonlyArray<string>
): Effect.fn.Return<void, FileFailed, Spawn> {
  if (!(yield* Lasting)) return
  const flushAll = (names: ReadonlyArray<string>) =>
    Effect.forEach(names, (name) => flush(`${folder}/pgdata/${name}`), { concurrency: 4, discard: true })
  const oneByOne = Effect.andThen(flushAll(files), flushAll(["", ...manifest.folders]))
  if (files.length + manifest.folders.length <= manyFiles) return yield* oneByOne
  yield* Effect.catch(flushFileSystem(["-f", folder]), () => oneByOne)
})

/** `-f` and a path: its file system; nothing: all of them. */
export const flushFileSystem = (args: ReadonlyArray<string>) =>
  runCommand({ command: "sync", args, env: {}, cwd: "/", runAs: null }, flushWithin)

/** Writes and flushes the manifest; its digest. */
export const writeManifest = Effect.fnUntraced(function* (
  owner: RunAs | null,
  { folder, manifest }: Copied
): Effect.fn.Return<string, FileFailed> {
  const path = `${folder}/manifest`
  const [bytes, digest] = yield* paced("write", path, "background", (pacer) =>
    runSteps(
      pacer,
      (function* () {
        const text = yield* printManifest(manifest)
        return [text, yield* textDigest(text)] as const
      })()
    )
  )
  yield* attemptPromise("write", path, () => fs.promises.writeFile(path, bytes, { mode: 0o600 }))
  yield* handOver(path, owner)
  yield* flush(path)
  yield* flush(folder)
  return digest
})

/** Bases other than the published one: their files become the next spare, or trash that it is made from. */
export const retireBases = Effect.fnUntraced(function* (
  layout: Layout,
  base: Base
): Effect.fn.Return<void, FileFailed> {
  const { current } = base
  const kept = current.format === 1 ? current.tar : current.folder
  for (const name of yield* namesIn(layout.root)) {
    const path = `${layout.root}/${name}`
    if (!/^base-\d+(\.new|\.tar|\.tar\.new)?$/.test(name) || name === kept) continue
    if (!(yield* isFolder(path))) {
      yield* removeFile(path)
      continue
    }
    yield* removeFile(`${path}/manifest`)
    yield* failpoint("base-old-retired")
    if (yield* isFolder(`${path}/pgdata`)) {
      const spareIsThere = yield* isFolder(layout.spare)
      yield* rename(`${path}/pgdata`, spareIsThere ? yield* freshTrash(layout) : layout.spare)
    }
    yield* removeTree(path)
  }
})

/** Does the folder have the form of a base? What is in it is verified when it is laid out. */
export const requireFolder = Effect.fnUntraced(function* (layout: Layout, folder: string) {
  if (!(yield* isFolder(`${layout.root}/${folder}/pgdata`))) {
    return yield* damaged(layout, `${folder}/pgdata, the files of the base, is missing`)
  }
  if ((yield* statOrNull(`${layout.root}/${folder}/manifest`))?.isFile() !== true) {
    return yield* damaged(layout, `${folder}/manifest, the list of the base's files, is missing or is no file`)
  }
})
