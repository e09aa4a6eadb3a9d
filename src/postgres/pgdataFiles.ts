/**
 * What is done to PGDATA's files one by one: made, emptied, replaced, appended to, linked.
 *
 * Never follows a link that lies in PGDATA (`pg_wal` may lead to durable WAL), and never replaces PGDATA itself:
 * its inode may be a mount, or somebody's watch.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { codeOf } from "../errors/errno.ts"
import { FileFailed } from "../errors/Failure.ts"
import { attempt, attemptPromise, type Owner, replaceFile as replace } from "../platform/files.ts"

const readOrNull = (at: string): Buffer | null => {
  try {
    return fs.readFileSync(at)
  } catch (cause) {
    if (codeOf(cause) === "ENOENT") return null
    throw cause
  }
}

/** Makes the folder with its parents; it is 0700 and the owner's, also when it was there. */
export const ensureFolder = (directory: string, owner: Owner | null): Effect.Effect<void, FileFailed> =>
  attempt("make the folder", directory, () => {
    makeParents(path.dirname(directory))
    try {
      fs.mkdirSync(directory, { mode: 0o700 })
    } catch (cause) {
      if (codeOf(cause) !== "EEXIST") throw cause
    }
    if (owner !== null) fs.chownSync(directory, owner.uid, owner.gid)
    fs.chmodSync(directory, 0o700)
  }).pipe(Effect.mapError((failure) => (codeOf(failure.cause) === "EPERM" ? withOwner(failure, directory) : failure)))

/** An emptied volume belongs to root and may be written to by anybody; Postgres insists on a folder of its own. */
const withOwner = ({ cause, operation, path: at }: FileFailed, directory: string): FileFailed => {
  const uid = fs.statSync(directory, { throwIfNoEntry: false })?.uid ?? "?"
  const ours = process.geteuid?.() ?? "?"
  return new FileFailed({
    operation,
    path: at,
    cause,
    hint:
      `it belongs to the user with id ${uid}, and we are ${ours}: give a folder below it, such as ` +
      `-D ${directory}/pgdata, or run chown ${ours} ${directory}`
  })
}

/** For what is put beside a folder before the folder itself is made. */
export const ensureParents = (directory: string): Effect.Effect<void, FileFailed> =>
  attempt("make the folder", path.dirname(directory), () => makeParents(path.dirname(directory)))

/** Folders that we make on the way must let the run-as user through, whatever our umask is. */
const makeParents = (directory: string): void => {
  const first = fs.mkdirSync(directory, { recursive: true })
  if (first === undefined) return
  for (let at = directory; at.length >= first.length; at = path.dirname(at)) fs.chmodSync(at, 0o755)
}

/**
 * Empties the folder and keeps it. Links are unlinked before anything else is touched. Off the main thread: there
 * may be thousands of files.
 */
export const wipe = (directory: string): Effect.Effect<void, FileFailed> =>
  attemptPromise("empty the folder", directory, async () => {
    if (path.dirname(path.resolve(directory)) === path.resolve(directory))
      throw new Error("the root of a file system is no PGDATA")
    const all = await fs.promises.readdir(directory, { withFileTypes: true })
    // The file system's own, where PGDATA is a mount point; Postgres does not mind it.
    const entries = all.filter(({ name }) => name !== "lost+found")
    const links = entries.filter((entry) => entry.isSymbolicLink())
    for (const { name } of links) await fs.promises.unlink(path.join(directory, name))
    for (const entry of entries) {
      if (!entry.isSymbolicLink())
        await fs.promises.rm(path.join(directory, entry.name), { recursive: true, force: true })
    }
  })

/** Answers whether the content is new. PGDATA does not outlive the machine, so nothing is flushed to disk. */
export const replaceFile = (
  directory: string,
  name: string,
  content: string | Uint8Array,
  owner: Owner | null
): Effect.Effect<boolean, FileFailed> => replace({ path: path.join(directory, name), content, owner, flush: false })

/** Content of a plain file; as if empty for anything else, and where there is nothing. */
export const readText = (directory: string, name: string): Effect.Effect<string, FileFailed> => {
  const at = path.join(directory, name)
  return attempt("read", at, () =>
    fs.lstatSync(at, { throwIfNoEntry: false })?.isFile() === true ? fs.readFileSync(at, "utf8") : ""
  )
}

/**
 * docs/reference/compute_ctl.md#pg_hbaconf: after a line break if the file has any line, without one at its end; once.
 */
export const appendLine = (
  directory: string,
  name: string,
  line: string,
  owner: Owner | null
): Effect.Effect<void, FileFailed> =>
  Effect.gen(function* () {
    const at = path.join(directory, name)
    const old = yield* attempt("read", at, () => readOrNull(at) ?? Buffer.alloc(0))
    if (old.toString("utf8").split("\n").includes(line)) return
    yield* replaceFile(directory, name, Buffer.concat([old, Buffer.from(old.length === 0 ? line : `\n${line}`)]), owner)
  })

/** Replaces whatever is there, an empty folder as a rule, by a link. */
export const link = (
  directory: string,
  name: string,
  target: string,
  owner: Owner | null
): Effect.Effect<void, FileFailed> => {
  const at = path.join(directory, name)
  return attempt("link", at, () => {
    fs.rmSync(at, { recursive: true, force: true })
    fs.symlinkSync(target, at)
    if (owner !== null) fs.lchownSync(at, owner.uid, owner.gid)
  })
}

/** Copies a file under another name, unless that name is taken or there is nothing to copy. */
export const copyUnlessThere = (
  directory: string,
  from: string,
  to: string,
  owner: Owner | null
): Effect.Effect<void, FileFailed> =>
  Effect.gen(function* () {
    const [source, target] = yield* attempt(
      "read",
      path.join(directory, from),
      () => [readOrNull(path.join(directory, from)), readOrNull(path.join(directory, to))] as const
    )
    if (source !== null && target === null) yield* replaceFile(directory, to, source, owner)
  })
