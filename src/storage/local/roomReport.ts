/**
 * What fills a disk, as a sentence for the person who has to make room: how much is free on each file system that the
 * timeline is on, and how much of it is the timeline's own. Looks only, for a bounded time.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { namesIn } from "../../platform/files.ts"
import { entriesIn } from "./treeFiles.ts"

/** What somebody would call these, all below one folder. */
interface Part {
  readonly what: string
  readonly paths: ReadonlyArray<string>
}

const lookWithin = "2 seconds"

const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6)} MB`

/** Blocks that a tree has; links are not followed. */
const bytesOf = async (path: string, signal: AbortSignal): Promise<number> => {
  signal.throwIfAborted()
  const stat = await fs.promises.lstat(path)
  if (!stat.isDirectory()) return stat.blocks * 512
  let bytes = 0
  for await (const { name } of entriesIn(path)) bytes += await bytesOf(`${path}/${name}`, signal).catch(ignoreGone)
  return bytes
}

const ignoreGone = (cause: unknown): number => {
  if (cause instanceof Error && cause.name === "AbortError") throw cause
  return 0
}

/** `null`: it takes too long, or may not be read. */
const sizeOf = (part: Part): Effect.Effect<number | null> =>
  Effect.tryPromise(async (signal) => {
    let bytes = 0
    for (const path of part.paths) bytes += await bytesOf(path, signal)
    return bytes
  }).pipe(
    Effect.timeout(lookWithin),
    Effect.orElseSucceed(() => null)
  )

/** The file systems of these paths, each once. */
const freeOn = (paths: ReadonlyArray<string>): ReadonlyArray<string> => {
  const seen = new Set<number>()
  return paths.flatMap((path) => {
    const dev = fs.statSync(path, { throwIfNoEntry: false })?.dev
    if (dev === undefined || seen.has(dev)) return []
    seen.add(dev)
    const { bavail, blocks, bsize, ffree, files } = fs.statfsSync(path)
    const inodes = files === 0 ? "" : ` and ${ffree} of ${files} inodes`
    return [`${megabytes(bavail * bsize)} of ${megabytes(blocks * bsize)}${inodes} are free on that of ${path}`]
  })
}

/** `advice`: what of it may be deleted. */
export const describeRoom = (
  places: ReadonlyArray<string>,
  parts: Effect.Effect<ReadonlyArray<Part>, unknown>,
  advice: string
): Effect.Effect<string> =>
  Effect.gen(function* () {
    const free = freeOn(places)
    const found = (yield* parts).filter(({ paths }) => paths.length > 0)
    const sizes = yield* Effect.forEach(
      found,
      (part) => Effect.map(sizeOf(part), (bytes) => `${part.what} ${bytes === null ? "(large)" : megabytes(bytes)}`),
      { concurrency: "unbounded" }
    )
    return (
      `make room on the file system (${free.join("; ")}; a quota may leave less); of this compute are ` +
      `${sizes.join(", ")}; ${advice}`
    )
  }).pipe(Effect.orElseSucceed(() => `make room on the file system of ${places.join(" or ")}; ${advice}`))

/** The parts of local storage. */
export const partsIn = (root: string, pgdata: string) =>
  Effect.map(namesIn(root), (names): ReadonlyArray<Part> => {
    const named = (pattern: RegExp) => names.filter((name) => pattern.test(name)).map((name) => `${root}/${name}`)
    return [
      { what: "WAL", paths: named(/^wal$/) },
      { what: "base", paths: named(/^base-/) },
      { what: "spare", paths: named(/^spare$/) },
      { what: "trash", paths: named(/^trash-/) },
      { what: "WAL set aside", paths: named(/^aside-/) },
      { what: "PGDATA", paths: [pgdata] }
    ]
  })
