/**
 * Single files and folders of a tree that is made to hold exactly what another one holds, reusing what is there.
 *
 * Creating a thousand files costs ten times as much as overwriting them, and truncating to zero first makes some
 * filesystems flush (docs/reference/local_storage.md#files-that-are-reused): files are written, then cut. No link is
 * followed, neither when writing nor when deleting: pg_wal is a link into durable WAL. A file with a second name is
 * never written to: it is replaced, so that no two trees ever share a file that Postgres writes to.
 */
import * as fs from "node:fs"
import { promisify } from "node:util"
import { codeOf } from "../../errors/errno.ts"
import type { RunAs } from "../../platform/Spawn.ts"
import type { Pacer } from "./pacing.ts"
import { pieceBytes } from "./manifest.ts"

/** What differs is written in units of the kernel's pages, half of Postgres's: often only one half of one changed. */
const unitBytes = 4096

const readAsync = (fd: number, into: Buffer, offset: number, length: number, position: number): Promise<number> =>
  new Promise((resolve, reject) =>
    fs.read(fd, into, offset, length, position, (cause, got) => (cause === null ? resolve(got) : reject(cause)))
  )

const writeAsync = (fd: number, from: Uint8Array, position: number): Promise<number> =>
  new Promise((resolve, reject) =>
    fs.write(fd, from, 0, from.length, position, (cause, put) => (cause === null ? resolve(put) : reject(cause)))
  )

const truncateAsync = promisify<number, number>(fs.ftruncate)

/** Short, unless the disk is busy. */
const onMainThread = {
  open: fs.openSync,
  close: fs.closeSync,
  fchown: fs.fchownSync,
  fchmod: fs.fchmodSync,
  mkdir: fs.mkdirSync,
  lchown: fs.lchownSync
}
const onThreadPool = {
  open: promisify<string, number, number, number>(fs.open),
  close: promisify<number>(fs.close),
  fchown: promisify<number, number, number>(fs.fchown),
  fchmod: promisify<number, number>(fs.fchmod),
  mkdir: fs.promises.mkdir,
  lchown: fs.promises.lchown
}
const calls = (pacer: Pacer) => (pacer.isUrgent ? onMainThread : onThreadPool)

/** From here on a read or a write goes through the thread pool in any case. */
const longBytes = 64 * 1024

export const openFile = async (pacer: Pacer, path: string, flags: number): Promise<number> =>
  calls(pacer).open(path, flags, 0o600)

export const sourceFlags = fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK

/** What is in a folder, a few hundred entries at a time: a database may have a hundred thousand files. */
export async function* entriesIn(path: string): AsyncGenerator<fs.Dirent> {
  yield* await fs.promises.opendir(path, { bufferSize: 256 })
}

/** The piece at `position`, of at most `length` bytes; shorter where the file ends. `buffer` is overwritten. */
export const readPiece = async (
  pacer: Pacer,
  fd: number,
  buffer: Piece,
  position: number,
  length: number
): Promise<Piece> => {
  let filled = 0
  while (filled < length) {
    const want = length - filled
    const got =
      pacer.isUrgent && want < longBytes
        ? fs.readSync(fd, buffer, filled, want, position + filled)
        : await readAsync(fd, buffer, filled, want, position + filled)
    if (got === 0) break
    filled += got
  }
  return buffer.subarray(0, filled)
}

/** The same on the main thread, twice as fast, for what is in memory already. */
export const readPieceNow = (fd: number, buffer: Piece, position: number, length: number): Piece => {
  let filled = 0
  while (filled < length) {
    const got = fs.readSync(fd, buffer, filled, length - filled, position + filled)
    if (got === 0) break
    filled += got
  }
  return buffer.subarray(0, filled)
}

const writeAt = async (pacer: Pacer, fd: number, bytes: Uint8Array, position: number): Promise<void> => {
  for (let at = 0; at < bytes.length;) {
    const rest = bytes.subarray(at)
    at +=
      pacer.isUrgent && rest.length < longBytes
        ? fs.writeSync(fd, rest, 0, rest.length, position + at)
        : await writeAsync(fd, rest, position + at)
  }
}

/** Writes the parts of `wanted` that `present` has otherwise or not at all; how many bytes that were. */
export const writeDifference = async (
  pacer: Pacer,
  fd: number,
  position: number,
  wanted: Buffer,
  present: Buffer
): Promise<number> => {
  const differs = (at: number): boolean => {
    const end = Math.min(at + unitBytes, wanted.length)
    return end > present.length || wanted.compare(present, at, end, at, end) !== 0
  }
  let written = 0
  for (let at = 0; at < wanted.length;) {
    let end = at
    while (end < wanted.length && differs(end)) end += unitBytes
    if (end > at) {
      const bytes = wanted.subarray(at, end)
      await writeAt(pacer, fd, bytes, position + at)
      written += bytes.length
    }
    at = end + unitBytes
  }
  return written
}

export type Piece = Buffer<ArrayBuffer>

export const newBuffer = (pacer: Pacer): Piece => pacer.buffer(pieceBytes)

const putFolder = async (pacer: Pacer, path: string, owner: RunAs | null): Promise<void> => {
  const stat = fs.lstatSync(path, { throwIfNoEntry: false })
  const isThere = stat?.isDirectory() === true
  if (!isThere) {
    if (stat !== undefined) await fs.promises.unlink(path)
    await calls(pacer).mkdir(path, { mode: 0o700 })
  }
  if (owner !== null && (!isThere || stat.uid !== owner.uid)) await calls(pacer).lchown(path, owner.uid, owner.gid)
}

/** `names` are relative to `root`, parents first. */
export const putFolders = async (
  pacer: Pacer,
  root: string,
  names: ReadonlyArray<string>,
  owner: RunAs | null
): Promise<void> => {
  for (const name of names) {
    await putFolder(pacer, `${root}/${name}`, owner)
    const rest = pacer.tick()
    if (rest !== null) await rest
  }
}

const flags = fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK

const removeAll = (path: string): Promise<void> => fs.promises.rm(path, { recursive: true, force: true })

/** Opens to read and write over; what is in the way (a link, a folder, a file with a second name) is removed first. */
const openOver = async (pacer: Pacer, path: string): Promise<number> => {
  try {
    const fd = await openFile(pacer, path, flags)
    const stat = fs.fstatSync(fd)
    if (stat.isFile() && stat.nlink === 1) return fd
    fs.closeSync(fd)
  } catch (cause) {
    if (!["EISDIR", "ELOOP", "ENXIO", "EACCES"].includes(codeOf(cause) ?? "")) throw cause
  }
  await removeAll(path)
  return openFile(pacer, path, flags | fs.constants.O_EXCL)
}

/** What every file of a tree ends with: its length, owner and mode. */
const finishFile = async (pacer: Pacer, fd: number, size: number, owner: RunAs | null): Promise<void> => {
  const stat = fs.fstatSync(fd)
  if (stat.size > size) await truncateAsync(fd, size)
  if (owner !== null && stat.uid !== owner.uid) await calls(pacer).fchown(fd, owner.uid, owner.gid)
  if ((stat.mode & 0o777) !== 0o600) await calls(pacer).fchmod(fd, 0o600)
}

/** `write` is given the file, open to read and write over, and how long it is; and answers what it made of it. */
export const writeOver = async <A extends { readonly size: number }>(
  pacer: Pacer,
  path: string,
  owner: RunAs | null,
  write: (fd: number, size: number) => Promise<A>
): Promise<A> => {
  const fd = await openOver(pacer, path)
  try {
    const made = await write(fd, fs.fstatSync(fd).size)
    await finishFile(pacer, fd, made.size, owner)
    return made
  } finally {
    // May have to wait for what was written.
    await calls(pacer).close(fd)
  }
}

const sweepFolder = async (
  pacer: Pacer,
  root: string,
  folder: string,
  kept: (name: string) => boolean
): Promise<void> => {
  for await (const entry of entriesIn(folder === "" ? root : `${root}/${folder}`)) {
    const name = folder === "" ? entry.name : `${folder}/${entry.name}`
    // The file system's own, where PGDATA is a mount point; Postgres does not mind it.
    if (name === "lost+found") continue
    if (!kept(name)) await removeAll(`${root}/${name}`)
    else if (entry.isDirectory()) await sweepFolder(pacer, root, name, kept)
    const rest = pacer.tick()
    if (rest !== null) await rest
  }
}

/** Removes whatever is not to be kept; links as links. `root` itself stays, with its inode. */
export const sweep = (pacer: Pacer, root: string, kept: (name: string) => boolean): Promise<void> =>
  sweepFolder(pacer, root, "", kept)

const cloneRefusals: ReadonlySet<string | null> = new Set([
  "ENOTSUP",
  "EOPNOTSUPP",
  "EXDEV",
  "EINVAL",
  "ENOTTY",
  "ENOSYS",
  "EPERM",
  "EACCES"
])

/** Can files of `from` be cloned into `to`, so that both share their blocks until one of them is written to? */
export const canClone = async (from: string, to: string): Promise<boolean> => {
  const probe = `${to}/.clone`
  try {
    await fs.promises.copyFile(`${from}/PG_VERSION`, probe, fs.constants.COPYFILE_FICLONE_FORCE)
    return true
  } catch (cause) {
    if (cloneRefusals.has(codeOf(cause)) || codeOf(cause) === "ENOENT") return false
    throw cause
  } finally {
    fs.rmSync(probe, { force: true })
  }
}

/** Replaces `to` by a clone of `from`; false when `from` has gone meanwhile. */
export const clone = async (pacer: Pacer, from: string, to: string): Promise<boolean> => {
  const rest = pacer.tick()
  if (rest !== null) await rest
  await removeAll(to)
  try {
    await fs.promises.copyFile(from, to, fs.constants.COPYFILE_FICLONE_FORCE)
    return true
  } catch (cause) {
    if (codeOf(cause) === "ENOENT") return false
    throw cause
  }
}
