/**
 * Makes a folder hold exactly what a base's manifest says, from the base's files, verifying every byte.
 *
 * What the folder holds already is read, and only what differs is written: for a spare that was the base before, or
 * the data directory of a start that was killed, that is what changed since. A piece is taken from the base only when
 * its digest is right, so whatever this returns from is what was published. Nothing is flushed, because PGDATA is never
 * trusted after a power cut.
 */
import * as fs from "node:fs"
import { codeOf } from "../../errors/errno.ts"
import type { RunAs } from "../../platform/Spawn.ts"
import type { LaidFiles } from "./disk.ts"
import { digestAt, type FileEntry, type Manifest, pieceBytes, pieceDigest } from "./manifest.ts"
import { forEachItem, type Pacer } from "./pacing.ts"
import {
  canClone,
  clone,
  newBuffer,
  openFile,
  type Piece,
  putFolders,
  readPiece,
  readPieceNow,
  sourceFlags,
  sweep,
  writeDifference,
  writeOver
} from "./treeFiles.ts"

/** A file of a base is not what its manifest says. */
export class FileDamaged extends Error {}

interface Laying {
  readonly source: string
  readonly target: string
  readonly owner: RunAs | null
  readonly pacer: Pacer
  readonly cloning: boolean
  readonly laid: LaidFiles | null
  readonly wanted: Piece
  readonly present: Piece
}

/** Opened for each file of which something is needed. */
const openSource = async (pacer: Pacer, source: string, name: string): Promise<number> => {
  try {
    return await openFile(pacer, `${source}/${name}`, sourceFlags)
  } catch (cause) {
    const code = codeOf(cause)
    if (code === "ENOENT" || code === "ENOTDIR") throw new FileDamaged(`${name} is missing`)
    if (code === "ELOOP") throw new FileDamaged(`${name} is a link`)
    if (code === "EACCES") throw new FileDamaged(`${name} may not be read (${code})`)
    throw cause
  }
}

const readVerified = async (
  pacer: Pacer,
  fd: number,
  name: string,
  entry: FileEntry,
  piece: number,
  buffer: Piece
): Promise<Piece> => {
  const at = piece * pieceBytes
  const length = Math.min(pieceBytes, entry.size - at)
  let bytes: Piece
  try {
    bytes = await readPiece(pacer, fd, buffer, at, length)
  } catch (cause) {
    const code = codeOf(cause)
    if (code === "EIO" || code === "EISDIR") throw new FileDamaged(`${name} cannot be read at byte ${at} (${code})`)
    throw cause
  }
  if (bytes.length < length) throw new FileDamaged(`${name} ends at byte ${at + bytes.length} of ${entry.size}`)
  if ((await pieceDigest(bytes)) !== digestAt(entry, piece)) {
    throw new FileDamaged(`${name} was changed between bytes ${at} and ${at + length}`)
  }
  return bytes
}

/** Makes the open file `fd`, of `size` bytes, hold what the manifest says. */
const layPieces = async (laying: Laying, name: string, entry: FileEntry, fd: number, size: number) => {
  const { laid, pacer, source } = laying
  // Where nothing is to last, a look at the source's own bytes costs less than a digest of what is there.
  let from = laid === null ? null : await openSource(pacer, source, name)
  const read = (of: number, into: Piece, at: number, length: number) =>
    laid === null ? readPiece(pacer, of, into, at, length) : readPieceNow(of, into, at, length)
  const isRight = async (present: Piece, piece: number, length: number) => {
    if (present.length !== length) return false
    if (laid === null || from === null) return (await pieceDigest(present)) === digestAt(entry, piece)
    return (await read(from, laying.wanted, piece * pieceBytes, length)).equals(present)
  }
  try {
    for (let piece = 0, at = 0; at < entry.size; piece++, at += pieceBytes) {
      const length = Math.min(pieceBytes, entry.size - at)
      const present = await read(fd, laying.present, at, Math.min(length, Math.max(0, size - at)))
      if (!(await isRight(present, piece, length))) {
        from ??= await openSource(pacer, source, name)
        const wanted = await readVerified(pacer, from, name, entry, piece, laying.wanted)
        await writeDifference(pacer, fd, at, wanted, present)
      }
      const rest = pacer.tick()
      if (rest !== null) await rest
    }
    return entry
  } finally {
    if (from !== null) fs.closeSync(from)
  }
}

/** Changes with whatever anybody writes to the file, and with what it should hold. */
const stateOf = (path: string, entry: FileEntry): string => {
  const stat = fs.lstatSync(path, { bigint: true, throwIfNoEntry: false })
  return stat === undefined ? "" : [stat.ino, stat.size, stat.mtimeNs, stat.ctimeNs, entry.digests].join(" ")
}

const layFile = async (laying: Laying, name: string, entry: FileEntry): Promise<void> => {
  const { laid, target } = laying
  if (laid === null) return writeFile(laying, name, entry)
  const before = laid.before.get(name)
  if (before === undefined || before !== stateOf(`${target}/${name}`, entry)) await writeFile(laying, name, entry)
  laid.now.set(name, stateOf(`${target}/${name}`, entry))
}

const writeFile = async (laying: Laying, name: string, entry: FileEntry): Promise<void> => {
  const { cloning, owner, pacer, source, target } = laying
  const path = `${target}/${name}`
  if (cloning && entry.size >= pieceBytes) {
    if (await holds(laying, name, entry)) return
    // A clone is made by name: what is no plain file must be seen before.
    fs.closeSync(await openSource(pacer, source, name))
    await clone(pacer, `${source}/${name}`, path)
  }
  await writeOver(pacer, path, owner, (fd, size) => layPieces(laying, name, entry, fd, size))
}

/** Has the target this content already? Then it shares its blocks with the base, or is not worth a clone. */
const holds = async ({ pacer, present, target }: Laying, name: string, entry: FileEntry): Promise<boolean> => {
  let fd: number
  try {
    fd = await openFile(pacer, `${target}/${name}`, sourceFlags)
  } catch {
    return false
  }
  try {
    const stat = fs.fstatSync(fd)
    if (!stat.isFile() || stat.nlink !== 1 || stat.size !== entry.size) return false
    for (let piece = 0, at = 0; at < entry.size; piece++, at += pieceBytes) {
      const bytes = await readPiece(pacer, fd, present, at, Math.min(pieceBytes, entry.size - at))
      if ((await pieceDigest(bytes)) !== digestAt(entry, piece)) return false
      const rest = pacer.tick()
      if (rest !== null) await rest
    }
    return true
  } finally {
    fs.closeSync(fd)
  }
}

/** `target` must exist. It keeps its inode, which is what Postgres's own interlock goes by. */
export const layTree = async (
  pacer: Pacer,
  manifest: Manifest,
  source: string,
  target: string,
  owner: RunAs | null,
  laid: LaidFiles | null = null
): Promise<void> => {
  const cloning = await canClone(source, target)
  const folders = new Set(manifest.folders)
  await putFolders(pacer, target, manifest.folders, owner)
  await forEachItem(pacer, manifest.files, () => {
    const laying: Laying = {
      source,
      target,
      owner,
      pacer,
      cloning,
      laid,
      wanted: newBuffer(pacer),
      present: newBuffer(pacer)
    }
    return ([name, entry]) => layFile(laying, name, entry)
  })
  await sweep(pacer, target, (name) => folders.has(name) || manifest.files.has(name))
}

const verifyFile = async (pacer: Pacer, source: string, name: string, entry: FileEntry, buffer: Piece) => {
  const fd = await openSource(pacer, source, name)
  try {
    const { size } = fs.fstatSync(fd)
    if (size > entry.size) throw new FileDamaged(`${name} has ${size} bytes instead of ${entry.size}`)
    for (let piece = 0; piece * pieceBytes < entry.size; piece++) {
      await readVerified(pacer, fd, name, entry, piece, buffer)
      const rest = pacer.tick()
      if (rest !== null) await rest
    }
  } finally {
    fs.closeSync(fd)
  }
}

/** In what the base's files differ from its manifest, one sentence for each. */
export const verifyTree = async (pacer: Pacer, manifest: Manifest, source: string): Promise<ReadonlyArray<string>> => {
  const problems: Array<string> = []
  for (const name of manifest.folders) {
    if (fs.lstatSync(`${source}/${name}`, { throwIfNoEntry: false })?.isDirectory() !== true) {
      problems.push(`${name} is missing`)
    }
  }
  await forEachItem(pacer, manifest.files, () => {
    const buffer = newBuffer(pacer)
    return async ([name, entry]) => {
      try {
        await verifyFile(pacer, source, name, entry, buffer)
      } catch (cause) {
        if (!(cause instanceof FileDamaged)) throw cause
        problems.push(cause.message)
      }
    }
  })
  return problems.sort()
}
