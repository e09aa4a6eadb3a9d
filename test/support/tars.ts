/**
 * Archives for the tests of PGDATA: well-formed ones, hostile ones, and what became of them on disk.
 */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Header, type HeaderData } from "tar/header"
import * as fs from "node:fs"
import * as path from "node:path"
import { gzipSync } from "node:zlib"
import type { Failure } from "../../src/errors/Failure.ts"
import { unpack } from "../../src/postgres/basebackup.ts"
import { temporaryFolder } from "./postgres.ts"

export type Entry = HeaderData & { readonly path: string; readonly body?: string | Buffer }

const header = (entry: HeaderData): Buffer => {
  const block = Buffer.alloc(512)
  new Header({ mode: 0o777, uid: 0, gid: 0, mtime: new Date(0), ...entry }).encode(block)
  return block
}

export const endOfArchive = Buffer.alloc(1024)

/** Blocks of the entries, one after another, without the end marker. */
export const blocksOf = (entries: ReadonlyArray<Entry>): Buffer =>
  Buffer.concat(
    entries.flatMap(({ body = "", ...entry }) => {
      const bytes = Buffer.from(body)
      return [
        header({ type: "File", size: bytes.length, ...entry }),
        bytes,
        Buffer.alloc((512 - (bytes.length % 512)) % 512)
      ]
    })
  )

export const tarOf = (entries: ReadonlyArray<Entry>): Buffer => Buffer.concat([blocksOf(entries), endOfArchive])

/** The same bytes, cut after each of `sizes` in turn, over and over. */
const chunked = (bytes: Uint8Array, sizes: ReadonlyArray<number>): ReadonlyArray<Uint8Array> => {
  const chunks: Array<Uint8Array> = []
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const size = sizes[turn % sizes.length] ?? bytes.length
    chunks.push(bytes.subarray(at, at + size))
    at += size
  }
  return chunks
}

/** Every file with its content, every folder as null, every link as where it leads, by path. Follows no link. */
export const contentOf = (folder: string, below = ""): Readonly<Record<string, string | null>> =>
  Object.assign(
    {},
    ...fs.readdirSync(path.join(folder, below), { withFileTypes: true }).map((entry) => {
      const name = path.join(below, entry.name)
      const at = path.join(folder, name)
      if (entry.isDirectory()) return { [name]: null, ...contentOf(folder, name) }
      return { [name]: entry.isSymbolicLink() ? `-> ${fs.readlinkSync(at)}` : fs.readFileSync(at, "latin1") }
    })
  )

/** Unpacks into `pgdata` in a folder of its own, whose other content must stay as it is. */
export const unpacked = (
  gzip: Uint8Array,
  sizes: ReadonlyArray<number> = [gzip.length]
): Effect.Effect<
  { readonly exit: Exit.Exit<number, Failure>; readonly pgdata: string; readonly around: string },
  never,
  Scope.Scope
> =>
  Effect.gen(function* () {
    const around = yield* temporaryFolder
    const pgdata = path.join(around, "pgdata")
    fs.mkdirSync(pgdata)
    fs.writeFileSync(path.join(around, "neighbour"), "untouched")
    const exit = yield* Effect.exit(unpack(Stream.fromIterable(chunked(gzip, sizes)), pgdata, null))
    return { exit, pgdata, around }
  })

export const gzipped = (tar: Uint8Array): Buffer => gzipSync(tar)
