/**
 * Data directories of computes that have ended, kept for the next ones, which write over them what differs.
 *
 * A start makes a thousand files and an end removes them; ext4 takes half a second for a thousand new files where as
 * many were removed a moment ago. What belonged to users' tables is removed first. Of the rest, files that nobody has
 * written to since they were laid out, as their inodes say, are taken for what they were then; of the others every byte
 * is compared (`storage/local/layTree.ts`).
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { codeOf } from "../errors/errno.ts"
import { attempt, makeFolder, namesIn } from "../platform/files.ts"
import type { RunAs } from "../platform/Spawn.ts"
import type { LaidFiles } from "../storage/local/disk.ts"

/** How many are kept, 25 MB each. */
const kept = 4
/** Postgres numbers what users make from here on; smaller numbers are the catalog's. */
const firstOfUsers = 16_384
/** Of a catalog that is larger than a new one is nothing worth keeping. */
const mostBytes = 4 * 1024 ** 2

const placeIn = (seeds: string) => path.join(seeds, "used")

const isOfUsers = (name: string): boolean => Number.parseInt(name, 10) >= firstOfUsers

/** What a start could not take for a folder of its own, and what was never in a new cluster. */
const shrink = (pgdata: string): void => {
  fs.rmSync(path.join(pgdata, "pg_wal"), { force: true })
  for (const entry of fs.readdirSync(pgdata, { recursive: true, withFileTypes: true })) {
    const at = path.join(entry.parentPath, entry.name)
    if (isOfUsers(entry.name)) fs.rmSync(at, { recursive: true, force: true })
    else if (entry.isFile() && (fs.lstatSync(at, { throwIfNoEntry: false })?.size ?? 0) > mostBytes) fs.rmSync(at)
  }
}

/** Beside `pgdata` in the folder of one that is kept: what its files were when they were laid out. */
const recordName = "laid.json"
const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Record(Schema.String, Schema.String)))

const readRecord = (folder: string): ReadonlyMap<string, string> => {
  const text = fs.readFileSync(path.join(folder, recordName), "utf8")
  return new Map(Object.entries(Option.getOrElse(decode(text), () => ({}))))
}

/** False when another start was faster, or was killed over it. */
const take = (folder: string, pgdata: string): boolean => {
  try {
    fs.renameSync(path.join(folder, "pgdata"), pgdata)
    return true
  } catch (cause) {
    if (codeOf(cause) !== "ENOENT") throw cause
    fs.rmSync(folder, { recursive: true, force: true })
    return false
  }
}

/** Makes one that is kept the data directory `pgdata`, which is not there yet. */
export const takeUsed = Effect.fnUntraced(function* (seeds: string, pgdata: string): Effect.fn.Return<LaidFiles> {
  const none = new Map<string, string>()
  for (const name of yield* Effect.orElseSucceed(namesIn(placeIn(seeds)), () => [])) {
    const folder = path.join(placeIn(seeds), name)
    const before = yield* attempt("take", folder, () => {
      if (!take(folder, pgdata)) return null
      const record = readRecord(folder)
      fs.rmSync(folder, { recursive: true })
      return record
    }).pipe(Effect.orElseSucceed(() => none))
    if (before !== null) return { before, now: new Map() }
  }
  return { before: none, now: new Map() }
})

/**
 * Keeps a data directory, unless there are enough, or its Postgres did not end in order. `withUsers`: with users'
 * tables, where the next one has them, too.
 */
export const keepUsed = Effect.fnUntraced(function* (
  seeds: string,
  pgdata: string,
  owner: RunAs | null,
  laid: LaidFiles,
  withUsers: boolean
) {
  const place = placeIn(seeds)
  yield* makeFolder(place, owner)
  if ((yield* namesIn(place)).length >= kept || fs.existsSync(path.join(pgdata, "postmaster.pid"))) return
  const folder = path.join(place, randomBytes(6).toString("hex"))
  yield* attempt("keep", pgdata, () => {
    if (withUsers) fs.rmSync(path.join(pgdata, "pg_wal"), { force: true })
    else shrink(pgdata)
    fs.mkdirSync(folder)
    fs.writeFileSync(path.join(folder, recordName), JSON.stringify(Object.fromEntries(laid.now)))
    fs.renameSync(pgdata, path.join(folder, "pgdata"))
  })
})
