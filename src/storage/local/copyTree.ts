/**
 * Copies PGDATA into the folder of a base to be, while Postgres may be writing to it, and lists what was copied.
 *
 * The folder usually holds an earlier base, so that only the pages that changed since are written. A file is taken for
 * unchanged without being read only when its inode, size and both times are those of the copy before, and it had come
 * to rest well before that copy read it. Files that vanish are left out and files that change their length meanwhile
 * are copied as they are met: replay puts all of it right. pg_control comes last, as the backup protocol asks. Links
 * are never followed or copied. Nothing is flushed: the caller publishes.
 */
import * as Result from "effect/Result"
import * as fs from "node:fs"
import { codeOf } from "../../errors/errno.ts"
import type { RunAs } from "../../platform/Spawn.ts"
import { controlFileBytes, parseControlFile } from "../../postgres/controlFile.ts"
import { contentRule } from "./basePolicy.ts"
import { digestAt, digestOf, type FileEntry, type Manifest, pieceBytes, pieceDigest, sameFile } from "./manifest.ts"
import { forEachItem, type Pacer } from "./pacing.ts"
import {
  canClone,
  clone,
  entriesIn,
  newBuffer,
  openFile,
  type Piece,
  readPiece,
  sourceFlags,
  sweep,
  writeDifference,
  writeOver
} from "./treeFiles.ts"

const controlPath = "global/pg_control"

/** What a file of PGDATA held when it was last copied, and by what to see that it has not been written to since. */
interface Known {
  readonly stamp: string
  readonly entry: FileEntry
}
export type KnownFiles = Map<string, Known>

/** Clocks of network filesystems and the coarse times of local ones are well within this. */
const restMillis = 2000n

const stampOf = ({ ctimeNs, dev, ino, mtimeNs, size }: fs.BigIntStats): string =>
  `${dev} ${ino} ${size} ${mtimeNs} ${ctimeNs}`

/** Had it not been written to for a while when it was looked at? Otherwise a later write could leave the same times. */
const isAtRest = ({ ctimeNs, mtimeNs }: fs.BigIntStats, now: number): boolean =>
  (mtimeNs > ctimeNs ? mtimeNs : ctimeNs) / 1_000_000n + restMillis < BigInt(now)

export interface SourceTree {
  readonly folders: ReadonlyArray<string>
  /** Without pg_control. */
  readonly files: ReadonlyArray<string>
}

/** All that belongs into a base. */
export const listTree = async (pacer: Pacer, root: string): Promise<SourceTree> => {
  const folders: Array<string> = []
  const files: Array<string> = []
  const listFolder = async (folder: string): Promise<void> => {
    for await (const entry of entriesIn(`${root}/${folder}`)) {
      const name = folder === "" ? entry.name : `${folder}/${entry.name}`
      // pg_wal is a link, and yet belongs into a base as an empty folder, which a start replaces by the link.
      const isFolder = entry.isDirectory() || name === "pg_wal"
      if (name === controlPath || !(isFolder || entry.isFile())) continue
      const rule = contentRule(name, isFolder ? "directory" : "file")
      if (rule === "skip") continue
      if (isFolder) {
        folders.push(name)
        if (rule === "copy") await listFolder(name).catch(unlessGone)
      } else files.push(name)
      const rest = pacer.tick()
      if (rest !== null) await rest
    }
  }
  await listFolder("")
  return { folders, files }
}

/** Postgres may remove a database meanwhile. */
const unlessGone = (cause: unknown): void => {
  if (codeOf(cause) !== "ENOENT") throw cause
}

export interface Copy {
  readonly source: string
  readonly target: string
  readonly owner: RunAs | null
  /** What the target is known to hold; `null` when nobody knows. */
  readonly before: Manifest | null
  /** Of the source, from one copy to the next. */
  readonly known: KnownFiles
  /** The time of day in milliseconds, to compare with that of files. */
  readonly now: () => number
}

interface Buffers {
  readonly wanted: Piece
  readonly present: Piece
}

/** The content of `from`, piece by piece, into the open file `to`; both may be the same, to list what it holds. */
const copyPieces = async (
  pacer: Pacer,
  from: number,
  to: number,
  before: FileEntry | undefined,
  buffers: Buffers
): Promise<FileEntry> => {
  const { size } = fs.fstatSync(from)
  const there = from === to ? 0 : fs.fstatSync(to).size
  const digests: Array<string> = []
  let at = 0
  while (at < size) {
    const wanted = await readPiece(pacer, from, buffers.wanted, at, Math.min(pieceBytes, size - at))
    if (wanted.length === 0) break
    const digest = await pieceDigest(wanted)
    const same = before !== undefined && at + wanted.length <= there && digestAt(before, digests.length) === digest
    if (from !== to && !same) {
      const present = await readPiece(pacer, to, buffers.present, at, Math.max(0, Math.min(wanted.length, there - at)))
      await writeDifference(pacer, to, at, wanted, present)
    }
    digests.push(digest)
    at += wanted.length
    // Shrunk meanwhile.
    if (wanted.length < pieceBytes) break
    const rest = pacer.tick()
    if (rest !== null) await rest
  }
  return { size: at, digests: digests.join("") }
}

const openOrNull = (pacer: Pacer, path: string): Promise<number | null> =>
  openFile(pacer, path, sourceFlags).catch((cause: unknown) => {
    if (codeOf(cause) === "ENOENT") return null
    throw cause
  })

const unchanged = (copy: Copy, name: string): FileEntry | null => {
  const known = copy.known.get(name)
  if (known === undefined || !sameFile(known.entry, copy.before?.files.get(name))) return null
  const stat = fs.lstatSync(`${copy.source}/${name}`, { bigint: true, throwIfNoEntry: false })
  return stat !== undefined && stampOf(stat) === known.stamp ? known.entry : null
}

const copyFile = async (
  pacer: Pacer,
  copy: Copy,
  name: string,
  cloning: boolean,
  buffers: Buffers
): Promise<FileEntry | null> => {
  const same = unchanged(copy, name)
  if (same !== null) return same
  copy.known.delete(name)
  const from = await openOrNull(pacer, `${copy.source}/${name}`)
  if (from === null) return null
  try {
    const stat = fs.fstatSync(from, { bigint: true })
    if (!stat.isFile()) return null
    const atRest = isAtRest(stat, copy.now())
    // A clone is of one moment; what it holds is read from itself.
    const cloned =
      cloning &&
      stat.size >= BigInt(pieceBytes) &&
      (await clone(pacer, `${copy.source}/${name}`, `${copy.target}/${name}`))
    const entry = await writeOver(pacer, `${copy.target}/${name}`, copy.owner, (to) =>
      copyPieces(pacer, cloned ? to : from, to, copy.before?.files.get(name), buffers)
    )
    if (atRest) copy.known.set(name, { stamp: stampOf(stat), entry })
    return entry
  } finally {
    fs.closeSync(from)
  }
}

/** Those of `names` that are there, as they were copied, are added to `files`. */
export const copyFiles = async (
  pacer: Pacer,
  copy: Copy,
  names: ReadonlyArray<string>,
  files: Map<string, FileEntry>
): Promise<void> => {
  const cloning = await canClone(copy.source, copy.target)
  await forEachItem(pacer, names, () => {
    const buffers = { wanted: newBuffer(pacer), present: newBuffer(pacer) }
    return async (name) => {
      const entry = await copyFile(pacer, copy, name, cloning, buffers)
      if (entry !== null) files.set(name, entry)
    }
  })
}

/** A read can meet a write in the middle; the checksum shows it, and the write is over by the next look. */
const readControl = (root: string): Buffer => {
  let problem = ""
  for (let look = 0; look < 20; look++) {
    const bytes = fs.readFileSync(`${root}/${controlPath}`)
    const parsed = parseControlFile(bytes)
    if (Result.isSuccess(parsed) && bytes.length === controlFileBytes) return bytes
    problem = Result.isFailure(parsed) ? parsed.failure : `pg_control has ${bytes.length} bytes`
  }
  throw new Error(problem)
}

export const putFile = (
  pacer: Pacer,
  target: string,
  name: string,
  bytes: Buffer,
  owner: RunAs | null
): Promise<FileEntry> =>
  writeOver(pacer, `${target}/${name}`, owner, async (fd) => {
    await writeDifference(pacer, fd, 0, bytes, Buffer.alloc(0))
    return { size: bytes.length, digests: digestOf(bytes) }
  })

/** The last step: pg_control, and away with what does not belong into the base. */
export const finishCopy = async (
  pacer: Pacer,
  { owner, source, target }: Copy,
  folders: ReadonlyArray<string>,
  files: Map<string, FileEntry>
): Promise<Manifest> => {
  files.set(controlPath, await putFile(pacer, target, controlPath, readControl(source), owner))
  const kept = new Set(folders)
  await sweep(pacer, target, (name) => kept.has(name) || files.has(name))
  return { folders, files }
}
