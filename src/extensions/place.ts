/**
 * Moves what was unpacked to where Postgres looks for it: all of it, or nothing.
 *
 * Libraries come first and control files last, because a control file is what makes an extension visible. What a
 * file replaces is kept aside until everything is in its place, and put back when something fails.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import type { Folders } from "./folders.ts"

interface Move {
  readonly from: string
  readonly to: string
}

/** Files and links below a folder, as paths relative to it. */
const filesBelow = (folder: string): ReadonlyArray<string> => {
  if (!fs.existsSync(folder)) return []
  return fs.readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => !entry.isDirectory())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
}

const moves = (unpacked: string, folders: Folders): ReadonlyArray<Move> => {
  const from = (at: string, to: string) =>
    filesBelow(path.join(unpacked, at)).map((name) => ({ from: path.join(unpacked, at, name), to: path.join(to, name) }))
  const scripts = from("share/extension", folders.extension)
  const isControl = ({ to }: Move) => to.endsWith(".control")
  return [...from("lib", folders.library), ...scripts.filter((move) => !isControl(move)), ...scripts.filter(isControl)]
}

/** Folders that are missing are made open to the Postgres user, whatever our umask is. */
const makeFolder = (folder: string, made: Array<string>): void => {
  if (fs.existsSync(folder)) return
  makeFolder(path.dirname(folder), made)
  fs.mkdirSync(folder)
  fs.chmodSync(folder, 0o755)
  made.push(folder)
}

/** By a rename, so that nobody sees half a file; by a copy beside it and a rename where the disk is another one. */
const put = ({ from, to }: Move): void => {
  try {
    fs.renameSync(from, to)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EXDEV") throw cause
    const half = `${to}.incoming`
    try {
      fs.rmSync(half, { force: true })
      fs.cpSync(from, half, { verbatimSymlinks: true })
      fs.renameSync(half, to)
    } finally {
      fs.rmSync(half, { force: true })
    }
  }
}

/** `unpacked` and `aside` are ours, and are thrown away afterwards. Answers how many files there were. */
export const place = (unpacked: string, aside: string, folders: Folders): number => {
  const todo = moves(unpacked, folders)
  const made: Array<string> = []
  const undo: Array<() => void> = []
  try {
    for (const [index, move] of todo.entries()) {
      makeFolder(path.dirname(move.to), made)
      if (!fs.lstatSync(move.from).isSymbolicLink()) fs.chmodSync(move.from, 0o644)
      const before = path.join(aside, String(index))
      const old = fs.lstatSync(move.to, { throwIfNoEntry: false })
      if (old?.isDirectory() === true) throw new Error(`${move.to} is a folder`)
      if (old !== undefined) fs.cpSync(move.to, before, { verbatimSymlinks: true, preserveTimestamps: true })
      undo.push(() => old === undefined ? fs.rmSync(move.to, { force: true }) : put({ from: before, to: move.to }))
      put(move)
    }
  } catch (cause) {
    for (const step of undo.reverse()) step()
    for (const folder of made.reverse()) fs.rmdirSync(folder)
    throw cause
  }
  return todo.length
}
