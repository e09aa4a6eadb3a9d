/**
 * What is done to PGDATA's files one by one: made, emptied, replaced, appended to, linked.
 *
 * Never follows a link that lies in PGDATA (`pg_wal` may lead to durable WAL), and never replaces PGDATA itself:
 * its inode may be a mount, or somebody's watch.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import { FileFailed } from "../domain/Failure.ts"
import type { Owner } from "./untar.ts"

const attempt = <A>(operation: string, at: string, work: () => Promise<A>): Effect.Effect<A, FileFailed> =>
  Effect.tryPromise({ try: work, catch: (cause) => new FileFailed({ operation, path: at, cause }) })

const missing = (cause: unknown): null => {
  if (typeof cause === "object" && cause !== null && "code" in cause && cause.code === "ENOENT") return null
  throw cause
}

const readOrNull = (at: string): Promise<Buffer | null> => fs.readFile(at).catch(missing)

/** Makes the folder with its parents; it is 0700 and the owner's, also when it was there. */
export const ensureFolder = (directory: string, owner: Owner | null): Effect.Effect<void, FileFailed> =>
  attempt("make the folder", directory, async () => {
    await makeParents(path.dirname(directory))
    await fs.mkdir(directory, { mode: 0o700 }).catch((cause: unknown) => {
      if (typeof cause === "object" && cause !== null && "code" in cause && cause.code === "EEXIST") return
      throw cause
    })
    if (owner !== null) await fs.chown(directory, owner.uid, owner.gid)
    await fs.chmod(directory, 0o700)
  })

/** Folders that we make on the way must let the run-as user through, whatever our umask is. */
const makeParents = async (directory: string): Promise<void> => {
  const first = await fs.mkdir(directory, { recursive: true })
  if (first === undefined) return
  for (let at = directory; at.length >= first.length; at = path.dirname(at)) await fs.chmod(at, 0o755)
}

/** Empties the folder and keeps it. Links are unlinked before anything else is touched. */
export const wipe = (directory: string): Effect.Effect<void, FileFailed> =>
  attempt("empty the folder", directory, async () => {
    if (path.dirname(path.resolve(directory)) === path.resolve(directory)) throw new Error("the root of a file system is no PGDATA")
    const entries = await fs.readdir(directory, { withFileTypes: true })
    const links = entries.filter((entry) => entry.isSymbolicLink())
    for (const { name } of links) await fs.unlink(path.join(directory, name))
    for (const entry of entries) {
      if (!entry.isSymbolicLink()) await fs.rm(path.join(directory, entry.name), { recursive: true, force: true })
    }
  })

/**
 * The file has this content afterwards, or is untouched: written beside and renamed over. Tells whether the content
 * is new. PGDATA does not outlive the machine, so nothing is synced to disk.
 */
export const replaceFile = (
  directory: string,
  name: string,
  content: string | Uint8Array,
  owner: Owner | null
): Effect.Effect<boolean, FileFailed> => {
  const at = path.join(directory, name)
  const beside = `${at}.new`
  return attempt("write", at, async () => {
    const bytes = Buffer.from(content)
    const old = await fs.lstat(at).catch(missing)
    if (old?.isFile() === true && bytes.equals(await fs.readFile(at))) return false
    await fs.rm(beside, { force: true })
    try {
      const file = await fs.open(beside, "wx", 0o600)
      try {
        if (owner !== null) await file.chown(owner.uid, owner.gid)
        await file.writeFile(bytes)
      } finally {
        await file.close()
      }
      await fs.rename(beside, at)
    } catch (cause) {
      await fs.rm(beside, { force: true })
      throw cause
    }
    return true
  })
}

/** Reference section 4.7 step 5: after a line break if the file has any line, without one at its end; once. */
export const appendLine = (
  directory: string,
  name: string,
  line: string,
  owner: Owner | null
): Effect.Effect<void, FileFailed> =>
  Effect.gen(function*() {
    const at = path.join(directory, name)
    const old = yield* attempt("read", at, async () => await readOrNull(at) ?? Buffer.alloc(0))
    if (old.toString("utf8").split("\n").includes(line)) return
    yield* replaceFile(directory, name, Buffer.concat([old, Buffer.from(old.length === 0 ? line : `\n${line}`)]), owner)
  })

/** Replaces whatever is there, an empty folder as a rule, by a link. */
export const link = (directory: string, name: string, target: string, owner: Owner | null): Effect.Effect<void, FileFailed> => {
  const at = path.join(directory, name)
  return attempt("link", at, async () => {
    await fs.rm(at, { recursive: true, force: true })
    await fs.symlink(target, at)
    if (owner !== null) await fs.lchown(at, owner.uid, owner.gid)
  })
}

/** Copies a file under another name, unless that name is taken or there is nothing to copy. */
export const copyUnlessThere = (directory: string, from: string, to: string, owner: Owner | null): Effect.Effect<void, FileFailed> =>
  Effect.gen(function*() {
    const [source, target] = yield* attempt("read", path.join(directory, from), () =>
      Promise.all([readOrNull(path.join(directory, from)), readOrNull(path.join(directory, to))]))
    if (source !== null && target === null) yield* replaceFile(directory, to, source, owner)
  })
