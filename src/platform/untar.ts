/**
 * The tar reader: an archive written into one empty folder, and nothing that could lead out of it.
 *
 * node-tar's `Parser` reads the format; which entries are allowed, and writing them, is ours. Its `Unpack` is not
 * used: it leaves out what must be refused, and takes an archive that stops between two entries for whole. Owners,
 * times and modes of the archive do not count. Writes synchronously, so the reader's pace is the disk's pace, nothing
 * piles up in memory, and nothing is under way any more once it has failed. Whoever made a reader closes it.
 */
import { Parser } from "tar/parse"
import type { ReadEntry } from "tar/read-entry"
import * as fs from "node:fs"
import * as path from "node:path"
import { codeOf } from "../errors/errno.ts"
import { FileFailed } from "../errors/Failure.ts"
import type { Owner } from "./files.ts"

/** `escapes`: it would write outside of the folder. `refused`: it holds what is not unpacked here. */
export type TarProblem = "truncated" | "damaged" | "refused" | "escapes"

/** The archive's fault. One that is refused or escapes would be the same the next time. */
export class TarInvalid extends Error {
  override readonly name = "TarInvalid"
  readonly problem: TarProblem
  constructor(problem: TarProblem, detail: string, cause?: unknown) {
    super(detail, cause === undefined ? {} : { cause })
    this.problem = problem
  }
}

export interface UntarOptions {
  /** Empty, and ours. */
  readonly directory: string
  /** `null`: we ourselves. */
  readonly owner: Owner | null
  readonly fileMode: number
  readonly folderMode: number
  /**
   * `sameFolder`: a symbolic link to a name in its own folder, such as `libx.so -> libx.so.1`, which means the same
   * wherever the folder is moved. Other links are refused always.
   */
  readonly links: "refuse" | "sameFolder"
  readonly mostEntries?: number
  /** Of the archive as it comes, headers and padding too. */
  readonly mostBytes?: number
}

export interface Untar {
  /** Set at the first thing that is wrong; what is written after that is ignored. */
  readonly failure: () => TarInvalid | FileFailed | null
  readonly write: (bytes: Uint8Array) => void
  /** No more bytes will come: now it must have been a whole archive. */
  readonly end: () => void
  readonly close: () => void
}

/** A name for messages: entry names are the sender's and may be anything. */
const shown = (name: string): string => JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name)

/** Name parts below the folder; none: the folder itself. */
const partsOf = (name: string): ReadonlyArray<string> => {
  if (name.startsWith("/")) throw new TarInvalid("escapes", `${shown(name)} is an absolute path`)
  const parts = name.split("/").filter((part) => part !== "" && part !== ".")
  if (parts.includes("..")) throw new TarInvalid("escapes", `${shown(name)} leads upwards`)
  if (name.includes("\0")) throw new TarInvalid("refused", `${shown(name)} has a zero byte in its name`)
  return parts
}

const fileTypes: ReadonlySet<string> = new Set(["File", "OldFile", "ContiguousFile"])

const refuse = (entry: ReadEntry): TarInvalid => {
  if (entry.type !== "Link" && entry.type !== "SymbolicLink")
    return new TarInvalid("refused", `${shown(entry.path)} is a ${entry.type}; only files and folders are unpacked`)
  const target = entry.linkpath ?? ""
  const from = entry.type === "Link" ? "." : path.posix.dirname(entry.path)
  const out = target.startsWith("/") || path.posix.normalize(path.posix.join(from, target)).startsWith("..")
  return new TarInvalid(
    out ? "escapes" : "refused",
    `${shown(entry.path)} is a link to ${shown(target)}, which is not unpacked`
  )
}

const isNameInFolder = (target: string): boolean =>
  target !== "" && target !== "." && target !== ".." && !target.includes("/")

/** What the system says when two entries contradict each other, such as a file below a file. */
const contradictions: ReadonlySet<string | null> = new Set([
  "ENOTDIR",
  "EISDIR",
  "ELOOP",
  "ENAMETOOLONG",
  "EEXIST",
  "ENOENT"
])

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = fs.constants

/** Makes what entries ask for. Throws `TarInvalid`, or what `node:fs` throws. */
class TreeWriter {
  readonly #options: UntarOptions
  readonly #folders = new Set<string>()
  #open: number | null = null
  #entries = 0

  constructor(options: UntarOptions) {
    this.#options = options
  }

  begin(entry: ReadEntry): void {
    const { links, mostEntries } = this.#options
    if (mostEntries !== undefined && ++this.#entries > mostEntries)
      throw new TarInvalid("refused", "it has too many entries")
    const linked = links === "sameFolder" && entry.type === "SymbolicLink" && isNameInFolder(entry.linkpath ?? "")
    const isFile = fileTypes.has(entry.type)
    if (!isFile && !linked && entry.type !== "Directory") throw refuse(entry)
    const parts = partsOf(entry.path)
    if (entry.type === "Directory") return void this.#folder(parts)
    const name = parts.at(-1)
    if (name === undefined) throw new TarInvalid("refused", "it has a file without a name")
    const at = path.join(this.#folder(parts.slice(0, -1)), name)
    if (isFile) this.#open = this.#replacing(at, () => this.#file(at))
    else this.#replacing(at, () => fs.symlinkSync(entry.linkpath ?? "", at))
  }

  write(bytes: Buffer): void {
    if (this.#open === null) return
    for (let at = 0; at < bytes.length;) at += fs.writeSync(this.#open, bytes, at)
  }

  close(): void {
    if (this.#open !== null) fs.closeSync(this.#open)
    this.#open = null
  }

  #folder(parts: ReadonlyArray<string>): string {
    const { directory, folderMode, owner } = this.#options
    const at = path.join(directory, ...parts)
    if (parts.length === 0 || this.#folders.has(at)) return at
    this.#folder(parts.slice(0, -1))
    if (fs.lstatSync(at, { throwIfNoEntry: false })?.isDirectory() !== true) {
      fs.mkdirSync(at, { mode: folderMode })
      if (owner !== null) fs.lchownSync(at, owner.uid, owner.gid)
    }
    this.#folders.add(at)
    return at
  }

  #file(at: string): number {
    const { fileMode, owner } = this.#options
    const fd = fs.openSync(at, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, fileMode)
    if (owner !== null) fs.fchownSync(fd, owner.uid, owner.gid)
    return fd
  }

  /** The later of two entries with one name counts, as it does to tar. */
  #replacing<A>(at: string, make: () => A): A {
    try {
      return make()
    } catch (cause) {
      if (codeOf(cause) !== "EEXIST" || fs.lstatSync(at).isDirectory()) throw cause
      fs.unlinkSync(at)
      return make()
    }
  }
}

/** The parser would look for this by itself and decompress once more, all at once. No file name begins with it. */
const gzipMagic = 0x1f

const damaged = (cause: unknown): TarInvalid =>
  new TarInvalid("damaged", "it is not a tar archive, or a part of it is damaged", cause)

export const makeUntar = (options: UntarOptions): Untar => {
  const { directory, mostBytes = Number.POSITIVE_INFINITY } = options
  const parser = new Parser({ strict: true, zstd: false })
  const writer = new TreeWriter(options)
  let failure: TarInvalid | FileFailed | null = null
  let arrived = 0
  let complete = false

  const fail = (reason: TarInvalid | FileFailed): void => {
    failure ??= reason
  }
  const attempt = (name: string, work: () => void): void => {
    if (failure !== null) return
    try {
      work()
    } catch (cause) {
      if (cause instanceof TarInvalid) return fail(cause)
      fail(
        contradictions.has(codeOf(cause))
          ? new TarInvalid("refused", `${shown(name)} cannot be written where it says`, cause)
          : new FileFailed({ operation: "unpack into", path: path.join(directory, name), cause })
      )
    }
  }
  parser.on("entry", (entry: ReadEntry) => {
    attempt(entry.path, () => writer.begin(entry))
    entry.on("data", (bytes: Buffer) => attempt(entry.path, () => writer.write(bytes)))
    entry.on("end", () => attempt(entry.path, () => writer.close()))
  })
  parser.on("ignoredEntry", (entry: ReadEntry) =>
    fail(new TarInvalid("refused", `${shown(entry.path)} is of an unknown kind`))
  )
  parser.on("error", (cause: unknown) => fail(damaged(cause)))
  parser.on("eof", () => {
    complete = true
  })
  return {
    failure: () => failure,
    write: (bytes) => {
      const begins = arrived === 0
      arrived += bytes.length
      if (arrived > mostBytes) fail(new TarInvalid("refused", `it unpacks to more than ${mostBytes} bytes`))
      // What comes after the end marker is padding; the parser would hoard it.
      if (failure !== null || complete || bytes.length === 0) return
      if (begins && bytes[0] === gzipMagic) return fail(new TarInvalid("refused", "it is compressed twice"))
      try {
        parser.write(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length))
      } catch (cause) {
        fail(damaged(cause))
      }
    },
    end: () => {
      if (!complete) fail(new TarInvalid("truncated", "it ends before its end marker"))
    },
    close: () => writer.close()
  }
}
