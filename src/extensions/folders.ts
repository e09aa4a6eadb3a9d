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

/**
 * Moves what was unpacked to where Postgres looks for it: all of it, or nothing. Libraries come first and control files
 * last, because a control file is what makes an extension visible. What a file replaces is kept in `aside` until
 * everything is in place, and put back when something fails. Answers how many files there were.
 */
export const placeFiles = (unpacked: string, aside: string, folders: ExtensionFolders): number => {
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
      undo.push(() =>
        old === undefined ? fs.rmSync(move.to, { force: true }) : moveFile({ from: before, to: move.to })
      )
      moveFile(move)
    }
  } catch (cause) {
    for (const step of undo.reverse()) step()
    for (const folder of made.reverse()) fs.rmdirSync(folder)
    throw cause
  }
  return todo.length
}
