/**
 * Files and folders of local storage: small operations at once, flushes and large removals off the main thread.
 *
 * Nothing here follows a symbolic link that is the last part of a path: pg_wal is one, into WAL that must survive.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { codeOf } from "../../errors/errno.ts"
import type { FileFailed } from "../../errors/Failure.ts"
import { attempt, attemptPromise, replaceFile } from "../../platform/files.ts"
import type { RunAs } from "../../platform/Spawn.ts"

/**
 * False for a storage that is to live no longer than this process: nothing is flushed, and nothing is prepared for a
 * next start, so it is faster and smaller.
 */
export const Lasting = Context.Reference<boolean>("compute/storage/local/Lasting", { defaultValue: () => true })

/**
 * What each file of a tree was when it was laid out and not yet used, as the file system tells it: one that is still so
 * need not be read to know what it holds. Null where every byte is looked at, as for all that is to last.
 */
export interface LaidFiles {
  readonly before: ReadonlyMap<string, string>
  readonly now: Map<string, string>
}
export const LaidFiles = Context.Reference<LaidFiles | null>("compute/storage/local/LaidFiles", {
  defaultValue: () => null
})

/** Flushes a file or a folder. A folder that cannot be flushed (some filesystems) answers EINVAL, which is ignored. */
export const flush = (path: string): Effect.Effect<void, FileFailed> =>
  Effect.flatMap(Lasting, (lasting) => (lasting ? flushNow(path) : Effect.void))

const flushNow = (path: string): Effect.Effect<void, FileFailed> =>
  attemptPromise("flush", path, async () => {
    const handle = await fs.promises.open(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)
    try {
      await handle.sync()
    } catch (cause) {
      if (codeOf(cause) !== "EINVAL" || !(await handle.stat()).isDirectory()) throw cause
    } finally {
      await handle.close()
    }
  })

/** At most so many bytes. */
export const readStart = (path: string, length: number): Effect.Effect<Buffer, FileFailed> =>
  attempt("read", path, () => {
    const fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)
    try {
      const bytes = Buffer.alloc(length)
      return bytes.subarray(0, fs.readSync(fd, bytes, 0, length, 0))
    } finally {
      fs.closeSync(fd)
    }
  })

/** `null` when there is no such entry. Does not follow a link. */
export const statOrNull = (path: string): Effect.Effect<fs.Stats | null, FileFailed> =>
  attempt("look at", path, () => fs.lstatSync(path, { throwIfNoEntry: false }) ?? null)

const changeOwner = (path: string, owner: RunAs | null): void => {
  if (owner !== null) fs.lchownSync(path, owner.uid, owner.gid)
}

/**
 * A reader sees the old content or the new, never half. It may be gone after a power cut: who needs it then flushes
 * it, and its folder, in the order that the publishing of a base asks for.
 */
export const replaceUnflushed = (
  path: string,
  content: string | Uint8Array,
  owner: RunAs | null
): Effect.Effect<void, FileFailed> => Effect.asVoid(replaceFile({ path, content, owner, flush: false }))

/** Hands a file that was made as ourselves over to the user Postgres runs as. */
export const handOver = (path: string, owner: RunAs | null): Effect.Effect<void, FileFailed> =>
  attempt("hand over", path, () => changeOwner(path, owner))

export const rename = (from: string, to: string): Effect.Effect<void, FileFailed> =>
  attempt("rename", `${from} to ${to}`, () => fs.renameSync(from, to))

/** A file whose blocks it may take a while to give back, off the main thread. */
export const removeLarge = (path: string): Effect.Effect<void, FileFailed> =>
  attemptPromise("remove", path, () => fs.promises.rm(path, { force: true }))

/** Removes a folder and what is in it, off the main thread. Links in it are removed, not followed. */
export const removeTree = (path: string): Effect.Effect<void, FileFailed> =>
  attemptPromise("remove", path, () => fs.promises.rm(path, { recursive: true, force: true }))
