/**
 * What computes of tests share from one to the next, also between processes: seed clusters, so that only the first one
 * of a Postgres version runs initdb, and a copy of an embedded Postgres that its user could not reach otherwise.
 *
 * One per user, in the folder of temporary files: there the first base of a compute is a second name of the seed's
 * files, where elsewhere it would have to be copied. Everybody may make folders there, so one that is not ours, or that
 * others can write to, is not used.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { attempt, makeFolder } from "../platform/files.ts"
import type { RunAs } from "../platform/Spawn.ts"

interface CacheFolder {
  readonly folder: string
  readonly seeds: string
}

const onlyOursToWrite = (folder: string, uid: number | undefined): boolean => {
  const stat = fs.lstatSync(folder)
  return stat.isDirectory() && stat.uid === uid && (stat.mode & 0o022) === 0
}

/** `instead` is a folder of the compute's own, used where there is no cache for us; then nothing is kept. */
export const cacheFolder = Effect.fnUntraced(function* (runAs: RunAs | null, instead: string) {
  const own = process.geteuid?.()
  const shared = path.join(os.tmpdir(), `compute-ctl-cache-${own ?? "user"}`)
  const usable = yield* attempt("make", shared, () => {
    // Whatever our umask is: who Postgres runs as has to reach what is in it.
    if (fs.mkdirSync(shared, { recursive: true }) !== undefined) fs.chmodSync(shared, 0o755)
    return onlyOursToWrite(shared, own)
  }).pipe(Effect.orElseSucceed(() => false))
  if (!usable)
    yield* Effect.logWarning(
      `${shared} is not a folder that only this user can write to, so each start runs initdb; remove it`
    )
  const folder = usable ? shared : instead
  const seeds = path.join(folder, `seeds-of-${runAs?.uid ?? own ?? "user"}`)
  yield* makeFolder(seeds, runAs)
  return { folder, seeds } satisfies CacheFolder
})
