/**
 * Files, touched in one step each: a call that fails becomes `FileFailed`, and a file gets new content at once or
 * not at all.
 *
 * `attempt` works on the calling thread: a handful of small files takes a millisecond that way, and five times as
 * long through the thread pool. What may take long (many files, flushes) goes through `attemptPromise`.
 */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as fs from "node:fs"
import * as path from "node:path"
import { codeOf } from "../errors/errno.ts"
import { FileFailed } from "../errors/Failure.ts"

export interface Owner {
  readonly uid: number
  readonly gid: number
}

/** `operation` and `path` complete the sentence "cannot …". */
export const attempt = <A>(operation: string, path: string, work: () => A): Effect.Effect<A, FileFailed> =>
  Effect.try({ try: work, catch: (cause) => new FileFailed({ operation, path, cause }) })

export const attemptPromise = <A>(
  operation: string,
  path: string,
  work: () => Promise<A>
): Effect.Effect<A, FileFailed> =>
  Effect.tryPromise({ try: work, catch: (cause) => new FileFailed({ operation, path, cause }) })

/** A name that nobody else has taken, and no secret: it needs nothing of `node:crypto`, which is slow to load. */
export const uniqueName: Effect.Effect<string> = Effect.map(Random.next, (value) => value.toString(36).slice(2))

export interface Replacement {
  readonly path: string
  readonly content: string | Uint8Array
  /** Of a file that is new (0600 by default); also of one that is replaced, when `owner` is given. */
  readonly mode?: number
  /** `null`: whoever had it, or we ourselves. */
  readonly owner: Owner | null
  /** Is the content on disk before it takes the old one's place? By default it is. */
  readonly flush?: boolean
}

/** Folders that we may not write to, or that cannot be written to at all. */
const locked: ReadonlySet<string | null> = new Set(["EACCES", "EPERM", "EROFS", "EBUSY"])

const readOrNull = (path: string): Buffer | null => {
  try {
    return fs.readFileSync(path)
  } catch {
    return null
  }
}

/** Also false for a link, whatever it leads to, and for a file with a second name: both are replaced. */
const holds = (path: string, content: Buffer): boolean => {
  const stat = fs.lstatSync(path, { throwIfNoEntry: false })
  return stat?.isFile() === true && stat.nlink === 1 && readOrNull(path)?.equals(content) === true
}

const writeNew = (path: string, content: Buffer, { mode = 0o600, owner, path: old }: Replacement): void => {
  fs.rmSync(path, { force: true })
  const before = fs.statSync(old, { throwIfNoEntry: false })
  const keeps = owner ?? before
  const file = fs.openSync(path, "wx", 0o600)
  try {
    fs.writeFileSync(file, content)
    if (keeps !== undefined && process.geteuid?.() === 0) fs.fchownSync(file, keeps.uid, keeps.gid)
    fs.fchmodSync(file, owner === null && before !== undefined ? before.mode & 0o7777 : mode)
  } finally {
    fs.closeSync(file)
  }
}

const flushContent = async (path: string): Promise<void> => {
  const file = await fs.promises.open(path, "r+")
  try {
    await file.datasync()
  } finally {
    await file.close()
  }
}

/**
 * Was there anything to change? The new content is written to `PATH.new` and renamed over the old one: a reader sees
 * the one or the other, never half. A file that keeps its owner is written in place when its folder is locked.
 */
export const replaceFile = (wanted: Replacement): Effect.Effect<boolean, FileFailed> => {
  const { flush = true, path } = wanted
  const content = Buffer.from(wanted.content)
  const temporary = `${path}.new`
  // Behind a flush a rename may have to wait for the disk, too; left alone it might meet the file of the next call.
  const putInPlace = flush
    ? attemptPromise("write", path, () => flushContent(temporary)).pipe(
        Effect.andThen(Effect.uninterruptible(attemptPromise("write", path, () => fs.promises.rename(temporary, path))))
      )
    : attempt("write", path, () => fs.renameSync(temporary, path))
  const replace = attempt("write", path, () => writeNew(temporary, content, wanted)).pipe(
    Effect.andThen(putInPlace),
    Effect.onError(() => Effect.ignore(attempt("remove", temporary, () => fs.rmSync(temporary, { force: true })))),
    Effect.as(true)
  )
  const inPlace = (failure: FileFailed) =>
    attempt("write", path, () => {
      const before = readOrNull(path)
      if (before === null || wanted.owner !== null || !locked.has(codeOf(failure.cause))) throw failure.cause
      if (before.equals(content)) return false
      fs.writeFileSync(path, content)
      return true
    })
  return Effect.flatMap(
    attempt("write", path, () => holds(path, content)),
    (same) => (same ? Effect.succeed(false) : Effect.catch(replace, inPlace))
  )
}

// Small operations, none of which follows a link that is the last part of its path.

export const hasCode = (failure: FileFailed, ...codes: ReadonlyArray<string>): boolean => {
  const code = codeOf(failure.cause)
  return code !== null && codes.includes(code)
}

/** Nothing where there is no folder. */
export const namesIn = (path: string): Effect.Effect<ReadonlyArray<string>, FileFailed> =>
  attempt("list", path, () => {
    try {
      return fs.readdirSync(path)
    } catch (cause) {
      if (codeOf(cause) === "ENOENT") return []
      throw cause
    }
  })

/** `null` where there is no file. */
export const textOrNull = (path: string): Effect.Effect<string | null, FileFailed> =>
  attempt("read", path, () => {
    try {
      return fs.readFileSync(path, { encoding: "utf8", flag: fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW })
    } catch (cause) {
      if (codeOf(cause) === "ENOENT") return null
      throw cause
    }
  })

const giveTo = (path: string, owner: Owner | null): void => {
  if (owner !== null) fs.lchownSync(path, owner.uid, owner.gid)
}

/** Makes the folder and its parents, 0700; only what is made here changes hands. */
export const makeFolder = (path: string, owner: Owner | null): Effect.Effect<void, FileFailed> =>
  attempt("make", path, () => {
    const first = fs.mkdirSync(path, { recursive: true, mode: 0o700 })
    if (first === undefined) return
    giveTo(first, owner)
    for (let made = first; made !== path;) {
      made = `${made}/${path.slice(made.length + 1).split("/")[0]}`
      giveTo(made, owner)
    }
  })

/** Removes a file or a link, whether or not it is there; never a folder. */
export const removeFile = (path: string): Effect.Effect<void, FileFailed> =>
  attempt("remove", path, () => {
    try {
      fs.unlinkSync(path)
    } catch (cause) {
      if (codeOf(cause) !== "ENOENT") throw cause
    }
  })

/** Where a folder really is, also before it exists: that is what /proc will say. */
export const realPath = (target: string): string => {
  const full = path.resolve(target)
  for (let parent = full, rest = ""; ; rest = path.join(path.basename(parent), rest), parent = path.dirname(parent)) {
    try {
      return path.join(fs.realpathSync(parent), rest).replace(/(.)\/$/, "$1")
    } catch {
      if (parent === path.dirname(parent)) return full
    }
  }
}
