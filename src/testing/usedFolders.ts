/**
 * Data directories of computes that have ended, kept for the next ones, which write over them what differs.
 *
 * A start makes a thousand files and an end removes them; ext4 takes half a second for a thousand new files where as
 * many were removed a moment ago. What belonged to users' tables is removed first, and what is left is taken for
 * nothing but free room: whoever starts from it compares every byte (`storage/local/layTree.ts`).
 */
import * as Effect from "effect/Effect"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { codeOf } from "../errors/errno.ts"
import { attempt, makeFolder, namesIn } from "../platform/files.ts"
import type { RunAs } from "../platform/Spawn.ts"

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

/** Makes one that is kept the data directory `pgdata`, which is not there yet. */
export const takeUsed = Effect.fnUntraced(function* (seeds: string, pgdata: string) {
  const place = placeIn(seeds)
  for (const name of yield* namesIn(place)) {
    const taken = yield* attempt("take", name, () => {
      try {
        fs.renameSync(path.join(place, name), pgdata)
        return true
      } catch (cause) {
        // Another start was faster.
        if (codeOf(cause) === "ENOENT") return false
        throw cause
      }
    })
    if (taken) return
  }
})

/** Keeps a data directory, unless there are enough, or its Postgres did not end in order. */
export const keepUsed = Effect.fnUntraced(function* (seeds: string, pgdata: string, owner: RunAs | null) {
  const place = placeIn(seeds)
  yield* makeFolder(place, owner)
  if ((yield* namesIn(place)).length >= kept || fs.existsSync(path.join(pgdata, "postmaster.pid"))) return
  yield* attempt("keep", pgdata, () => {
    shrink(pgdata)
    fs.renameSync(pgdata, path.join(place, randomBytes(6).toString("hex")))
  })
})
