/**
 * Files and folders of local storage: small operations at once, flushes off the main thread, and what `durably`
 * means.
 *
 * Nothing here follows a symbolic link that is the last part of a path.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { FileFailed } from "../../errors/Failure.ts"
import type { RunAs } from "../../platform/Spawn.ts"

// ---------------------------------------------------------------------------------------------------------------------
// The places at which a crash would be most inconvenient, named, so that tests can crash there.
//
// Outside of tests the reference holds its default, which does nothing.
// ---------------------------------------------------------------------------------------------------------------------

export type Step =
  /** First start: the marker is written; the WAL is there; the tar is there; nothing is published yet. */
  | "first-marked"
  | "first-wal"
  | "first-tar"
  /** Publishing a base, in this order. */
  | "base-copied"
  | "base-wal-synced"
  | "base-tar-renamed"
  | "base-current-written"
  | "base-current-renamed"
  | "base-old-removed"
  | "base-wal-pruned"
  /** Swapping the spare in: it is no longer valid; half of PGDATA is away; all of it is; half of the spare is in. */
  | "swap-begun"
  | "swap-half-out"
  | "swap-out"
  | "swap-half-in"
  | "lay-linked"
  /** Making a spare: from the files of the last PGDATA; before it is declared valid. */
  | "spare-begun"
  | "spare-filled"

export const Failpoint = Context.Reference<(step: Step) => Effect.Effect<void>>("compute/storage/local/Failpoint", {
  defaultValue: () => () => Effect.void
})

export const failpoint = (step: Step): Effect.Effect<void> => Effect.flatMap(Failpoint, (reach) => reach(step))

// ---------------------------------------------------------------------------------------------------------------------

export const attempt = <A>(operation: string, path: string, run: () => A): Effect.Effect<A, FileFailed> =>
  Effect.try({ try: run, catch: (cause) => new FileFailed({ operation, path, cause }) })

export const attemptPromise = <A>(
  operation: string,
  path: string,
  run: () => Promise<A>
): Effect.Effect<A, FileFailed> =>
  Effect.tryPromise({ try: run, catch: (cause) => new FileFailed({ operation, path, cause }) })

/** The system's name for what went wrong, such as `ENOENT`. */
export const codeOf = (cause: unknown): string | undefined =>
  typeof cause === "object" && cause !== null && "code" in cause && typeof cause.code === "string"
    ? cause.code
    : undefined

export const hasCode = (failure: FileFailed, ...codes: ReadonlyArray<string>): boolean => {
  const code = codeOf(failure.cause)
  return code !== undefined && codes.includes(code)
}

/** Flushes a file or a folder. A folder that cannot be flushLsn (some filesystems) says so with EINVAL and is let be. */
export const flush = (path: string): Effect.Effect<void, FileFailed> =>
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

/** `null` when there is no such entry. Does not follow a link. */
export const statOrNull = (path: string): Effect.Effect<fs.Stats | null, FileFailed> =>
  attempt("look at", path, () => fs.lstatSync(path, { throwIfNoEntry: false }) ?? null)

export const namesIn = (path: string): Effect.Effect<ReadonlyArray<string>, FileFailed> =>
  attempt("list", path, () => {
    try {
      return fs.readdirSync(path)
    } catch (cause) {
      if (codeOf(cause) === "ENOENT") return []
      throw cause
    }
  })

export const textOrNull = (path: string): Effect.Effect<string | null, FileFailed> =>
  attempt("read", path, () => {
    try {
      return fs.readFileSync(path, { encoding: "utf8", flag: fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW })
    } catch (cause) {
      if (codeOf(cause) === "ENOENT") return null
      throw cause
    }
  })

const own = (path: string, owner: RunAs | null): void => {
  if (owner !== null) fs.lchownSync(path, owner.uid, owner.gid)
}

/** Makes the folder and its parents, 0700; only what is made here changes hands. */
export const makeFolder = (path: string, owner: RunAs | null): Effect.Effect<void, FileFailed> =>
  attempt("make", path, () => {
    const first = fs.mkdirSync(path, { recursive: true, mode: 0o700 })
    if (first === undefined) return
    own(first, owner)
    for (let made = first; made !== path;) {
      made = `${made}/${path.slice(made.length + 1).split("/")[0]}`
      own(made, owner)
    }
  })

/** Writes beside and renames: a reader sees the old content or the new, never half. Gone after a power cut, maybe. */
export const replaceFile = (
  path: string,
  content: string | Uint8Array,
  owner: RunAs | null
): Effect.Effect<void, FileFailed> =>
  attempt("write", path, () => {
    const beside = `${path}.tmp`
    fs.rmSync(beside, { force: true })
    fs.writeFileSync(beside, content, { mode: 0o600, flag: "wx" })
    own(beside, owner)
    fs.renameSync(beside, path)
  })

/** Hands a file that was made as ourselves over to the user Postgres runs as. */
export const handOver = (path: string, owner: RunAs | null): Effect.Effect<void, FileFailed> =>
  attempt("hand over", path, () => own(path, owner))

export const rename = (from: string, to: string): Effect.Effect<void, FileFailed> =>
  attempt("rename", `${from} to ${to}`, () => fs.renameSync(from, to))

/** Removes a file or a link, whether or not it is there; never a folder. */
export const removeFile = (path: string): Effect.Effect<void, FileFailed> =>
  attempt("remove", path, () => {
    try {
      fs.unlinkSync(path)
    } catch (cause) {
      if (codeOf(cause) !== "ENOENT") throw cause
    }
  })

/** Removes a folder and what is in it, off the main thread. Links in it are removed, not followed. */
export const removeTree = (path: string): Effect.Effect<void, FileFailed> =>
  attemptPromise("remove", path, () => fs.promises.rm(path, { recursive: true, force: true }))
