/**
 * A tar stream, unpacked into an empty folder; an entry that could lead out of it is refused, not skipped.
 *
 * node-tar's `Parser` reads the format; which entries are allowed, and writing them, is ours. Takes nothing for
 * whole that has no end marker; owners, times and modes of the archive do not count. Writes synchronously, piece by
 * piece, so that nothing piles up in memory and nothing is under way any more once it has failed.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { Parser } from "tar/parse"
import type { ReadEntry } from "tar/read-entry"

/** The archive is not one that we unpack, and it would be the same archive the next time. */
export class ArchiveRefused extends Error {
  override readonly name = "ArchiveRefused"
}

/** Entries of one archive; the largest extensions have some thousands. */
const mostEntries = 200_000

const fileTypes = new Set(["File", "OldFile", "ContiguousFile"])

const shown = (name: string): string => JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name)

/** Name parts below the folder; none: the folder itself. */
const partsOf = (name: string): ReadonlyArray<string> => {
  const parts = name.split("/").filter((part) => part !== "" && part !== ".")
  if (name.startsWith("/") || parts.includes("..")) throw new ArchiveRefused(`${shown(name)} is outside of its folder`)
  if (name.includes("\0")) throw new ArchiveRefused(`${shown(name)} has a zero byte in its name`)
  return parts
}

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = fs.constants

/** Makes the folder and those above it, down from `directory`; throws where a file or a link is in the way. */
const folder = (directory: string, parts: ReadonlyArray<string>): string => {
  let at = directory
  for (const part of parts) {
    at = path.join(at, part)
    const there = fs.lstatSync(at, { throwIfNoEntry: false })
    if (there === undefined) fs.mkdirSync(at, { mode: 0o755 })
    else if (!there.isDirectory()) throw new ArchiveRefused(`${shown(parts.join("/"))} leads through what is no folder`)
  }
  return at
}

const begin = (directory: string, entry: ReadEntry): number | undefined => {
  const parts = partsOf(entry.path)
  if (entry.type === "Directory") return void folder(directory, parts)
  const name = parts.at(-1)
  if (name === undefined) throw new ArchiveRefused("it has a file without a name")
  const at = path.join(folder(directory, parts.slice(0, -1)), name)
  // The later of two entries with the same name counts, as it does to tar.
  if (fs.lstatSync(at, { throwIfNoEntry: false })?.isDirectory() === false) fs.unlinkSync(at)
  if (fileTypes.has(entry.type)) return fs.openSync(at, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o644)
  const target = entry.linkpath ?? ""
  // `libx.so -> libx.so.1`: within one folder, so that it means the same wherever the folder's content is moved.
  if (entry.type === "SymbolicLink" && target !== "" && target !== "." && target !== ".." && !target.includes("/")) {
    return void fs.symlinkSync(target, at)
  }
  throw new ArchiveRefused(`${shown(entry.path)} is a ${entry.type}${target === "" ? "" : ` to ${shown(target)}`}`)
}

/** Writes below `directory`, which is empty and ours. Rejects at the first thing that is wrong. */
export const untar = async (pieces: AsyncIterable<Uint8Array>, directory: string, mostBytes: number): Promise<void> => {
  const parser = new Parser({ strict: true, zstd: false })
  let wrong: unknown
  let whole = false
  let entries = 0
  let open: number | undefined
  const attempt = (work: () => void): void => {
    if (wrong !== undefined) return
    try {
      work()
    } catch (cause) {
      wrong ??= cause
    }
  }
  const close = (): void => {
    if (open !== undefined) fs.closeSync(open)
    open = undefined
  }
  parser.on("entry", (entry: ReadEntry) => {
    attempt(() => {
      if (++entries > mostEntries) throw new ArchiveRefused("it has too many entries")
      open = begin(directory, entry)
    })
    entry.on("data", (bytes: Buffer) =>
      attempt(() => {
        for (let at = 0; open !== undefined && at < bytes.length;) at += fs.writeSync(open, bytes, at)
      })
    )
    entry.on("end", () => attempt(close))
  })
  parser.on("ignoredEntry", (entry: ReadEntry) =>
    attempt(() => {
      throw new ArchiveRefused(`${shown(entry.path)} is of an unknown kind`)
    })
  )
  parser.on("error", (cause: unknown) => void (wrong ??= cause))
  parser.on("eof", () => {
    whole = true
  })
  try {
    let bytes = 0
    for await (const piece of pieces) {
      bytes += piece.length
      if (bytes > mostBytes) throw new ArchiveRefused(`it unpacks to more than ${mostBytes} bytes`)
      // What comes after the end marker is padding; the parser would hoard it.
      if (!whole && piece.length > 0)
        attempt(() => void parser.write(Buffer.from(piece.buffer, piece.byteOffset, piece.length)))
      if (wrong !== undefined) throw wrong
    }
    if (!whole) throw new Error("the archive ends before its end marker")
  } finally {
    close()
  }
}
