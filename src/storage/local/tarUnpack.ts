/**
 * Makes a folder hold exactly what a base holds, reusing the files that are there.
 *
 * Not `platform/untar.ts`, which reads a stream into an empty folder and trusts nobody: here the tar is our own, lies
 * on this disk and is read by position, so a start can be done in slices and over the files of the last one. Creating a
 * thousand files costs ten times as much as overwriting them, and truncating to zero first makes some filesystems flush
 * (docs/reference/local_storage.md#files-that-are-reused): files are written, then cut. No link is followed, neither
 * when writing nor when deleting: pg_wal is a link into durable WAL. Nothing is flushed, because PGDATA is never
 * trusted after a power cut.
 */
import * as fs from "node:fs"
import { codeOf } from "../../errors/errno.ts"
import type { RunAs } from "../../platform/Spawn.ts"
import type { Steps } from "./slices.ts"
import { parseHeader, tarBlock, TarInvalid } from "./tarHeader.ts"

const windowBytes = 2 * 1024 * 1024

class TarReader {
  readonly window = Buffer.allocUnsafe(windowBytes)
  readonly fd: number
  start = 0
  filled = 0
  constructor(fd: number) {
    this.fd = fd
  }
  /** Up to `want` bytes from `position`, at least `least`. Valid until the next call. */
  at(position: number, want: number, least: number): Buffer {
    const inside = position - this.start
    if (inside < 0 || inside + least > this.filled) {
      this.start = position
      this.filled = 0
      while (this.filled < windowBytes) {
        const got = fs.readSync(this.fd, this.window, this.filled, windowBytes - this.filled, position + this.filled)
        if (got === 0) break
        this.filled += got
      }
      if (this.filled < least) throw new TarInvalid("the base ends early")
    }
    const from = position - this.start
    return this.window.subarray(from, Math.min(from + want, this.filled))
  }
}

const safeName = (name: string): string => {
  const plain = name.endsWith("/") ? name.slice(0, -1) : name
  if (plain === "" || plain.split("/").some((part) => part === "" || part === "." || part === "..")) {
    throw new TarInvalid(`the base holds a name that is not ours: ${name}`)
  }
  return plain
}

/** Whatever it is, except that a folder's content goes entry by entry and links are removed as links. */
function* removeEntry(path: string, isFolder: boolean): Steps<void> {
  if (!isFolder) return fs.unlinkSync(path)
  for (const entry of fs.readdirSync(path, { withFileTypes: true })) {
    yield* removeEntry(`${path}/${entry.name}`, entry.isDirectory())
    yield
  }
  fs.rmdirSync(path)
}

const makeFolder = (path: string, owner: RunAs | null): void => {
  const stat = fs.lstatSync(path, { throwIfNoEntry: false })
  if (stat?.isDirectory() !== true) {
    if (stat !== undefined) fs.unlinkSync(path)
    fs.mkdirSync(path, { mode: 0o700 })
  }
  if (owner !== null && (stat?.isDirectory() !== true || stat.uid !== owner.uid))
    fs.lchownSync(path, owner.uid, owner.gid)
}

const flags = fs.constants.O_WRONLY | fs.constants.O_CREAT | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK

/** Opens for writing over; what is in the way (a link, a folder, a file with a second name) is removed first. */
function* openOver(path: string): Steps<number> {
  try {
    const fd = fs.openSync(path, flags, 0o600)
    const stat = fs.fstatSync(fd)
    if (stat.isFile() && stat.nlink === 1) return fd
    fs.closeSync(fd)
    fs.unlinkSync(path)
  } catch (cause) {
    const code = codeOf(cause)
    if (code === "EISDIR") yield* removeEntry(path, true)
    else if (code === "ELOOP" || code === "ENXIO") fs.unlinkSync(path)
    else throw cause
  }
  return fs.openSync(path, flags | fs.constants.O_EXCL, 0o600)
}

function* writeFile(tar: TarReader, position: number, size: number, path: string, owner: RunAs | null): Steps<void> {
  const fd = yield* openOver(path)
  try {
    const stat = fs.fstatSync(fd)
    for (let done = 0; done < size;) {
      const bytes = tar.at(position + done, size - done, 1)
      for (let at = 0; at < bytes.length;) at += fs.writeSync(fd, bytes, at, bytes.length - at)
      done += bytes.length
      if (done < size) yield
    }
    if (stat.size > size) fs.ftruncateSync(fd, size)
    if (owner !== null && stat.uid !== owner.uid) fs.fchownSync(fd, owner.uid, owner.gid)
    if ((stat.mode & 0o777) !== 0o600) fs.fchmodSync(fd, 0o600)
  } finally {
    fs.closeSync(fd)
  }
}

function* sweep(root: string, folder: string, kept: ReadonlySet<string>): Steps<void> {
  for (const entry of fs.readdirSync(folder === "" ? root : `${root}/${folder}`, { withFileTypes: true })) {
    const name = folder === "" ? entry.name : `${folder}/${entry.name}`
    // The file system's own, where PGDATA is a mount point; Postgres does not mind it.
    if (name === "lost+found") continue
    if (!kept.has(name)) yield* removeEntry(`${root}/${name}`, entry.isDirectory())
    else if (entry.isDirectory()) yield* sweep(root, name, kept)
    yield
  }
}

/** `root` must exist. It keeps its inode, which is what Postgres's own interlock goes by. */
export function* unpackTar(tarPath: string, root: string, owner: RunAs | null): Steps<void> {
  const fd = fs.openSync(tarPath, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)
  try {
    const tar = new TarReader(fd)
    const kept = new Set<string>()
    let longName: string | null = null
    for (let position = 0; ;) {
      const entry = parseHeader(tar.at(position, tarBlock, tarBlock))
      if (entry === null) break
      position += tarBlock
      if (entry.kind === "L") {
        if (entry.size > 8192) throw new TarInvalid("a long name is too long")
        longName = Buffer.from(tar.at(position, entry.size, entry.size))
          .toString("utf8")
          .replace(/\0.*$/s, "")
      } else {
        const name = safeName(longName ?? entry.name)
        longName = null
        kept.add(name)
        if (entry.kind === "5") makeFolder(`${root}/${name}`, owner)
        else yield* writeFile(tar, position, entry.size, `${root}/${name}`, owner)
      }
      position += Math.ceil(entry.size / tarBlock) * tarBlock
      yield
    }
    if (!kept.has("global/pg_control") || !kept.has("PG_VERSION"))
      throw new TarInvalid("the base is not a whole cluster")
    yield* sweep(root, "", kept)
  } finally {
    fs.closeSync(fd)
  }
}
