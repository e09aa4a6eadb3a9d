/**
 * What a fake pageserver sends as a basebackup: a file, a data directory, or files of the script. Held in memory, so
 * for small clusters only.
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import { Header } from "tar/header"
import * as FS from "node:fs/promises"
import * as Path from "node:path"
import { gzipSync } from "node:zlib"
import type { FileFailed } from "../../errors/Failure.ts"
import { attemptPromise } from "../../platform/files.ts"
import { basebackupOf } from "../peers/NeonPeers.ts"
import type { PageserverScript } from "./script.ts"

const block = 512

const entry = (path: string, type: "File" | "Directory", bytes: Buffer): Buffer => {
  const head = Buffer.alloc(block)
  const mode = type === "File" ? 0o600 : 0o700
  new Header({
    path,
    type,
    mode,
    uid: 0,
    gid: 0,
    size: bytes.length,
    mtime: DateTime.toDate(DateTime.makeUnsafe(0))
  }).encode(head)
  return Buffer.concat([head, bytes, Buffer.alloc((block - (bytes.length % block)) % block)])
}

/** The folders around a path, outermost first. */
const foldersOf = (path: string): ReadonlyArray<string> =>
  path.split("/").flatMap((_, index, steps) => (index === 0 ? [] : [steps.slice(0, index).join("/")]))

const gzippedTar = (files: Readonly<Record<string, string>>): Uint8Array => {
  const folders = [...new Set(Object.keys(files).flatMap(foldersOf))]
  return gzipSync(
    Buffer.concat([
      ...folders.map((path) => entry(`${path}/`, "Directory", Buffer.alloc(0))),
      ...Object.entries(files).map(([path, content]) => entry(path, "File", Buffer.from(content))),
      Buffer.alloc(2 * block)
    ])
  )
}

/** Paths of the script are meant from `folder`. */
export const archiveOf = (
  { archive, files, pgdata }: PageserverScript,
  folder: string
): Effect.Effect<Uint8Array, FileFailed> => {
  if (archive !== undefined) {
    const path = Path.resolve(folder, archive)
    return attemptPromise("read the archive", path, () => FS.readFile(path))
  }
  return pgdata === undefined ? Effect.sync(() => gzippedTar(files ?? {})) : basebackupOf(Path.resolve(folder, pgdata))
}
