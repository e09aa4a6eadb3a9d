/**
 * What computes of tests share from one to the next, also between processes: seed clusters, so that only the first one
 * of a Postgres version runs initdb, and a copy of an embedded Postgres that its user could not reach otherwise.
 *
 * One per user, in the folder of temporary files: there the first base of a compute is a second name of the seed's
 * files, where elsewhere it would have to be copied.
 */
import * as Effect from "effect/Effect"
import * as path from "node:path"
import { makeFolder } from "../platform/files.ts"
import type { RunAs } from "../platform/Spawn.ts"
import { sharedCache } from "./sharedCache.ts"

interface CacheFolder {
  readonly folder: string
  readonly seeds: string
}

/** `instead` is a folder of the compute's own, used where there is no cache for us; then nothing is kept. */
export const cacheFolder = Effect.fnUntraced(function* (runAs: RunAs | null, instead: string) {
  const shared = sharedCache()
  if (!shared.usable)
    yield* Effect.logWarning(
      `${shared.folder} is not a folder that only this user can write to, so each start runs initdb; remove it`
    )
  const folder = shared.usable ? shared.folder : instead
  const seeds = path.join(folder, `seeds-of-${runAs?.uid ?? process.geteuid?.() ?? "user"}`)
  yield* makeFolder(seeds, runAs)
  return { folder, seeds } satisfies CacheFolder
})
