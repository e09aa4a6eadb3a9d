/**
 * Where this Postgres looks for extensions and libraries (what its `pg_config` says, else what its folder shows), and
 * how files are moved there.
 *
 * Postgres derives these folders from where its own program lies, and so do we when there is no `pg_config` beside
 * it. A folder counts when it holds what every Postgres brings: plpgsql.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { codeOf } from "../errors/errno.ts"
import { PostgresUnusable } from "../errors/Failure.ts"
import { runCommand } from "../platform/processes.ts"
import type { Spawn } from "../platform/Spawn.ts"
import type { PostgresInstall } from "../postgres/PostgresInstall.ts"

export interface ExtensionFolders {
  /** Control files and scripts. */
  readonly extension: string
  readonly library: string
  /** Where archives are unpacked before anything is moved into the other two; ours alone. */
  readonly incoming: string
}

const has = (folder: string, ...names: ReadonlyArray<string>): boolean =>
  names.some((name) => fs.existsSync(path.join(folder, name)))

/** Below the installation's own folder, in the layouts of `make install`, of packagers, and of npm's Postgres. */
const byLayout = (postgres: string, major: number): { share: string | undefined; library: string | undefined } => {
  const prefix = path.resolve(fs.realpathSync(postgres), "../..")
  const shares = ["share/postgresql", "share"].map((at) => path.join(prefix, at))
  const libraries = ["lib/postgresql", "lib"].map((at) => path.join(prefix, at))
  return {
    share: [...shares, `/usr/share/postgresql/${major}`].find((at) => has(at, "extension/plpgsql.control")),
    library: libraries.find((at) => has(at, "plpgsql.so", "plpgsql.dylib"))
  }
}

const askPgConfig = Effect.fnUntraced(function* (install: PostgresInstall["Service"]) {
  const program = [install.postgres, fs.realpathSync(install.postgres)]
    .map((at) => path.join(path.dirname(at), "pg_config"))
    .find((at) => fs.existsSync(at))
  if (program === undefined) return null
  const output = yield* Effect.option(
    runCommand({ command: program, args: ["--sharedir", "--pkglibdir"], runAs: install.runAs, cwd: "/" }, "5 seconds")
  )
  if (output._tag === "None") return null
  const [share, library] = output.value.stdout.split("\n").map((line) => line.trim())
  return share !== undefined && library !== undefined && has(share, "extension") && fs.existsSync(library)
    ? { share, library }
    : null
})

export const locateFolders = Effect.fn("RemoteExtensions.locateFolders")(function* (
  install: PostgresInstall["Service"]
): Effect.fn.Return<ExtensionFolders, PostgresUnusable, Spawn> {
  const reported = yield* askPgConfig(install)
  const { library, share } = reported ?? byLayout(install.postgres, install.major)
  if (share === undefined || library === undefined) {
    return yield* new PostgresUnusable({
      binary: install.postgres,
      detail: `it does not show where its ${share === undefined ? "extensions" : "libraries"} are`,
      hint: "put its pg_config beside it"
    })
  }
  return {
    extension: path.join(share, "extension"),
    library,
    incoming: path.join(path.resolve(fs.realpathSync(install.postgres), "../.."), "download_extensions")
  }
})

// -- moving files there

interface Move {
  readonly from: string
  readonly to: string
}

/** Files and links below a folder, as paths relative to it. */
const filesBelow = (folder: string): ReadonlyArray<string> => {
  if (!fs.existsSync(folder)) return []
  return fs
    .readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
}

const moves = (unpacked: string, folders: ExtensionFolders): ReadonlyArray<Move> => {
  const from = (at: string, to: string) =>
    filesBelow(path.join(unpacked, at)).map((name) => ({
      from: path.join(unpacked, at, name),
      to: path.join(to, name)
    }))
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

/** By a rename, so that half a file is never visible; across disks by a copy next to it and a rename. */
const moveFile = ({ from, to }: Move): void => {
  try {
    fs.renameSync(from, to)
  } catch (cause) {
    if (codeOf(cause) !== "EXDEV") throw cause
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

// -- whose files are there: what is in no record came with the image

/** Survives a restart of the program, as the files do. */
const recordOf = ({ incoming }: ExtensionFolders, extension: string): string =>
  path.join(incoming, "placed", encodeURIComponent(extension))

const filesOf = (folders: ExtensionFolders, extension: string): ReadonlySet<string> => {
  try {
    return new Set(fs.readFileSync(recordOf(folders, extension), "utf8").split("\n"))
  } catch (cause) {
    if (codeOf(cause) === "ENOENT") return new Set()
    throw cause
  }
}

const writeRecord = (folders: ExtensionFolders, extension: string, files: ReadonlySet<string>): void => {
  const record = recordOf(folders, extension)
  fs.mkdirSync(path.dirname(record), { recursive: true })
  const half = `${record}.${process.pid}`
  fs.writeFileSync(half, [...files].join("\n"))
  fs.renameSync(half, record)
}

/** Before they are placed, so that none is there without a record. Answers how to forget them again. */
export const recordFiles = (folders: ExtensionFolders, extension: string, files: ReadonlyArray<string>) => {
  const known = filesOf(folders, extension)
  const all = new Set([...known, ...files])
  if (all.size === known.size) return () => {}
  writeRecord(folders, extension, all)
  return () => writeRecord(folders, extension, known)
}

const chunk = 1024 * 1024

/** Also two links that lead to the same name. */
const isSameFile = (one: string, other: string): boolean => {
  const [a, b] = [fs.lstatSync(one), fs.lstatSync(other)]
  if (a.isSymbolicLink() && b.isSymbolicLink()) return fs.readlinkSync(one) === fs.readlinkSync(other)
  if (!a.isFile() || !b.isFile() || a.size !== b.size) return false
  const [from, to] = [fs.openSync(one, "r"), fs.openSync(other, "r")]
  try {
    const [left, right] = [Buffer.alloc(chunk), Buffer.alloc(chunk)]
    for (let at = 0; at < a.size; at += chunk) {
      const size = fs.readSync(from, left, 0, chunk, at)
      if (fs.readSync(to, right, 0, chunk, at) !== size || !left.subarray(0, size).equals(right.subarray(0, size)))
        return false
    }
    return true
  } finally {
    fs.closeSync(from)
    fs.closeSync(to)
  }
}

const named = 5

/** Without those that are there already, as they are. Fails when others are there that are not the extension's own. */
const replaceable = (all: ReadonlyArray<Move>, own: ReadonlySet<string>): ReadonlyArray<Move> => {
  const foreign = new Set(
    all.filter(({ to }) => {
      const old = own.has(to) ? undefined : fs.lstatSync(to, { throwIfNoEntry: false })
      return old !== undefined && !old.isDirectory()
    })
  )
  const others = [...foreign].filter(({ from, to }) => !isSameFile(from, to)).map(({ to }) => to)
  if (others.length > 0) {
    const more = others.length > named ? ` and ${others.length - named} more` : ""
    throw new Error(
      `it may not overwrite ${others.slice(0, named).join(", ")}${more}: not placed by this extension before, but by ` +
        "the image or by another one"
    )
  }
  return all.filter((move) => !foreign.has(move))
}

/**
 * Moves what was unpacked to where Postgres looks for it: all of it, or nothing. Libraries come first and control files
 * last, because a control file is what makes an extension visible. What a file replaces is kept in `aside` until
 * everything is in place, and put back when something fails. A file of the image or of another extension is not
 * replaced: the archive is refused. Answers how many files there were.
 */
export const placeFiles = (unpacked: string, aside: string, folders: ExtensionFolders, extension: string): number => {
  const all = moves(unpacked, folders)
  const todo = replaceable(all, filesOf(folders, extension))
  if (all.length === 0) {
    const others = filesBelow(unpacked).length
    throw new Error(`it places nothing: it has no file below lib or share/extension, and ${others} elsewhere`)
  }
  const targets = todo.map(({ to }) => to)
  const forget = recordFiles(folders, extension, targets)
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
      undo.push(() =>
        old === undefined ? fs.rmSync(move.to, { force: true }) : moveFile({ from: before, to: move.to })
      )
      moveFile(move)
    }
  } catch (cause) {
    for (const step of undo.reverse()) step()
    forget()
    for (const folder of made.reverse()) fs.rmdirSync(folder)
    throw cause
  }
  return all.length
}
