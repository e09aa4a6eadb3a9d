/**
 * A tar stream written into one empty folder: plain files and folders, and nothing that could lead out of it.
 *
 * node-tar's `Parser` reads the format; which entries are allowed, and writing them, is ours. Its `Unpack` is not
 * used: it leaves out what must be refused, and takes an archive that stops between two entries for whole. Writes
 * synchronously, so the reader's pace is the disk's pace and nothing piles up in memory.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { Parser } from "tar/parse"
import type { ReadEntry } from "tar/read-entry"
import * as fs from "node:fs"
import * as path from "node:path"
import * as zlib from "node:zlib"
import { codeOf } from "../errors/errno.ts"
import { ArchiveInvalid, type Failure, FileFailed } from "../errors/Failure.ts"
import type { Owner } from "./files.ts"

export interface Untar {
  /** Set at the first thing that is wrong; what is written after that is ignored. */
  readonly failure: () => ArchiveInvalid | FileFailed | undefined
  readonly write: (bytes: Buffer) => void
  /** No more bytes will come: now it must have been a whole archive. */
  readonly end: () => void
  readonly close: () => void
}

type Kind = ArchiveInvalid["kind"]

const invalid = (kind: Kind, detail: string, cause?: unknown): ArchiveInvalid =>
  new ArchiveInvalid({ kind, detail, ...(cause === undefined ? {} : { cause }) })

/** A name for messages: entry names are the sender's and may be anything. */
const shown = (name: string): string => JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name)

/** Name parts below PGDATA (none: PGDATA itself), or why not. */
const partsOf = (name: string): Result.Result<ReadonlyArray<string>, ArchiveInvalid> => {
  if (name.startsWith("/")) return Result.fail(invalid("escapes", `${shown(name)} is an absolute path`))
  const parts = name.split("/").filter((part) => part !== "" && part !== ".")
  if (parts.includes("..")) return Result.fail(invalid("escapes", `${shown(name)} leads upwards`))
  return name.includes("\0")
    ? Result.fail(invalid("corrupt", `${shown(name)} has a zero byte in its name`))
    : Result.succeed(parts)
}

const isFile = (entry: ReadEntry): boolean =>
  entry.type === "File" || entry.type === "OldFile" || entry.type === "ContiguousFile"

/** Why an entry is refused; `undefined`: it is not. */
const refusal = (entry: ReadEntry): ArchiveInvalid | undefined => {
  if (isFile(entry) || entry.type === "Directory") return undefined
  if (entry.type === "Link" || entry.type === "SymbolicLink") {
    const target = entry.linkpath ?? ""
    const from = entry.type === "Link" ? "." : path.posix.dirname(entry.path)
    const out = target.startsWith("/") || path.posix.normalize(path.posix.join(from, target)).startsWith("..")
    return invalid(
      out ? "escapes" : "corrupt",
      `${shown(entry.path)} is a link to ${shown(target)}; a basebackup has no links`
    )
  }
  return invalid("corrupt", `${shown(entry.path)} is a ${entry.type}; a basebackup has only files and folders`)
}

/** What the system says when two entries contradict each other, such as a file below a file. */
const contradictions = new Set(["ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG", "EEXIST", "ENOENT"])

/** The parser would look for this by itself and decompress once more, all at once. No file name begins with it. */
const gzipMagic = 0x1f

export const makeUntar = (directory: string, owner: Owner | null): Untar => {
  const parser = new Parser({ strict: true, zstd: false })
  const made = new Set<string>()
  let failure: ArchiveInvalid | FileFailed | undefined
  let begun = false
  let complete = false
  let open: number | undefined

  const fail = (reason: ArchiveInvalid | FileFailed): void => {
    failure ??= reason
  }
  const attempt = (name: string, work: () => void): void => {
    if (failure !== undefined) return
    try {
      work()
    } catch (cause) {
      fail(
        contradictions.has(codeOf(cause) ?? "")
          ? invalid("corrupt", `${shown(name)} cannot be written where it says`, cause)
          : new FileFailed({ operation: "unpack into", path: path.join(directory, name), cause })
      )
    }
  }
  const folder = (parts: ReadonlyArray<string>): string => {
    const at = path.join(directory, ...parts)
    if (parts.length === 0 || made.has(at)) return at
    folder(parts.slice(0, -1))
    if (!fs.existsSync(at)) {
      fs.mkdirSync(at, { mode: 0o700 })
      if (owner !== null) fs.lchownSync(at, owner.uid, owner.gid)
    }
    made.add(at)
    return at
  }
  const { O_CREAT, O_NOFOLLOW, O_TRUNC, O_WRONLY } = fs.constants
  const file = (parts: ReadonlyArray<string>): number => {
    const at = path.join(folder(parts.slice(0, -1)), parts.at(-1) ?? "")
    const fd = fs.openSync(at, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o600)
    if (owner !== null) fs.fchownSync(fd, owner.uid, owner.gid)
    return fd
  }
  const close = (): void => {
    if (open !== undefined) fs.closeSync(open)
    open = undefined
  }
  const writeAll = (fd: number, bytes: Buffer): void => {
    for (let at = 0; at < bytes.length;) at += fs.writeSync(fd, bytes, at)
  }

  parser.on("entry", (entry: ReadEntry) => {
    const parts = partsOf(entry.path)
    const refused = refusal(entry)
    if (refused !== undefined) fail(refused)
    else if (Result.isFailure(parts)) fail(parts.failure)
    else attempt(entry.path, () => void (isFile(entry) ? (open = file(parts.success)) : folder(parts.success)))
    entry.on("data", (bytes: Buffer) =>
      attempt(entry.path, () => {
        if (open !== undefined) writeAll(open, bytes)
      })
    )
    entry.on("end", () => attempt(entry.path, close))
  })
  parser.on("ignoredEntry", (entry: ReadEntry) =>
    fail(invalid("corrupt", `${shown(entry.path)} is of an unknown kind`))
  )
  parser.on("error", (cause: unknown) =>
    fail(invalid("corrupt", "it is not a tar archive, or a part of it is damaged", cause))
  )
  parser.on("eof", () => {
    complete = true
  })

  return {
    failure: () => failure,
    // What comes after the end marker is padding; the parser would hoard it.
    write: (bytes) => {
      if (failure !== undefined || complete || bytes.length === 0) return
      if (!begun && bytes[0] === gzipMagic) return fail(invalid("corrupt", "it is compressed twice"))
      begun = true
      try {
        parser.write(bytes)
      } catch (cause) {
        fail(invalid("corrupt", "it is not a tar archive, or a part of it is damaged", cause))
      }
    },
    end: () => {
      if (failure === undefined && !complete) fail(invalid("truncated", "it ends before its end marker"))
    },
    close
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// A gzipped tar stream, unpacked into an empty folder as it arrives.
//
// Reads the stream to its very end, past the end of the archive: the sender may still report a failure there. On
// failure the folder holds whatever had been written; the caller wipes it.
// ---------------------------------------------------------------------------------------------------------------------

const invalidGzip = (cause: NodeJS.ErrnoException): ArchiveInvalid =>
  cause.code === "Z_BUF_ERROR"
    ? new ArchiveInvalid({ kind: "truncated", detail: "the gzip stream stops early", cause })
    : new ArchiveInvalid({ kind: "corrupt", detail: "it is not a gzip stream, or a part of it is damaged", cause })

/** Answers the number of bytes that came, compressed. Files are 0600, folders 0700, all of them the owner's. */
export const unpack: (
  bytes: Stream.Stream<Uint8Array, Failure>,
  directory: string,
  owner: Owner | null
) => Effect.Effect<number, Failure> = Effect.fn("Pgdata.unpack")(function* (bytes, directory, owner) {
  const untar = yield* Effect.acquireRelease(
    Effect.sync(() => makeUntar(directory, owner)),
    (untar) => Effect.sync(() => untar.close())
  )
  const gunzip = yield* Effect.acquireRelease(
    Effect.sync(() => zlib.createGunzip({ chunkSize: 128 * 1024 })),
    (gunzip) => Effect.sync(() => gunzip.destroy())
  )
  let damage: ArchiveInvalid | undefined
  let ended = false
  let arrived = 0
  // A write that meets damage is never called back, so the error must end the wait too.
  let taken = (): void => {}
  gunzip.on("error", (cause) => {
    damage ??= invalidGzip(cause)
    taken()
  })
  // Not written at once: as soon as this returns, another thread decompresses what is next, while we write.
  const loose: Array<Buffer> = []
  const flush = (): void => {
    for (const piece of loose.splice(0)) untar.write(piece)
  }
  gunzip.on("data", (piece: Buffer) => {
    loose.push(piece)
    queueMicrotask(flush)
  })
  gunzip.on("end", () => {
    ended = true
  })
  const check = Effect.suspend((): Effect.Effect<void, Failure> => {
    const failure = damage ?? untar.failure()
    return failure === undefined ? Effect.void : Effect.fail(failure)
  })

  yield* Stream.runForEach(bytes, (piece) =>
    piece.length === 0
      ? Effect.void
      : Effect.andThen(
          Effect.callback<void, Failure>((resume) => {
            arrived += piece.length
            // Past the end of the gzip stream nothing is decompressed; the count below tells.
            if (ended) return resume(Effect.void)
            taken = () => resume(Effect.void)
            gunzip.write(piece, taken)
          }),
          check
        )
  )
  yield* Effect.callback<void>((resume) => {
    if (ended || gunzip.destroyed) return resume(Effect.void)
    gunzip.once("close", () => resume(Effect.void))
    gunzip.end()
  })
  flush()
  yield* check
  if (gunzip.bytesWritten < arrived) {
    return yield* new ArchiveInvalid({ kind: "corrupt", detail: "there is more after the end of the gzip stream" })
  }
  untar.end()
  yield* check
  return arrived
}, Effect.scoped)
