/**
 * Looks, while Postgres runs, whether the disk under its data is about to be full, and keeps a reserve there for when
 * it is. A disk that is nearly full is a condition: Postgres ends where it finds no room for WAL.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { ComputeState } from "../../compute/ComputeState.ts"
import type { FileFailed } from "../../errors/Failure.ts"
import { causesOf } from "../../errors/policy.ts"
import { attemptPromise } from "../../platform/files.ts"

/** Postgres makes WAL segments of this size ahead of need; a start that has less may die of it. */
export const wantedBytes = 64 * 1024 * 1024
export const wantedFiles = 200

export interface RoomWatch {
  readonly state: ComputeState["Service"]
  /** The folder that Postgres writes WAL to, or one on the same file system. */
  readonly folder: string
  /** Makes the reserve where it is missing. */
  readonly keepReserve: Effect.Effect<unknown, FileFailed>
}

const lackIn = (folder: string) =>
  Effect.map(
    attemptPromise("look at the room of", folder, () => fs.promises.statfs(folder)),
    ({ bavail, bsize, ffree, files }) => {
      if (bavail * bsize < wantedBytes) return `${Math.floor((bavail * bsize) / 1e6)} MB are left`
      return files !== 0 && ffree < wantedFiles ? `${ffree} inodes are left` : null
    }
  )

/** One look. */
export const watchRoom = Effect.fnUntraced(function* ({ folder, keepReserve, state }: RoomWatch) {
  const found = (yield* lackIn(folder)) ?? (yield* Effect.catch(Effect.as(keepReserve, null), reasonOf))
  if (found === null) return yield* state.clear("disk_nearly_full")
  yield* state.raise({
    code: "disk_nearly_full",
    message:
      `the file system of ${folder} is nearly full (${found}): make room or make it larger; Postgres ends where it ` +
      "finds no room for WAL"
  })
})

/** A quota is seen only by whoever writes. */
const reasonOf = (failure: FileFailed) =>
  Effect.succeed(`no room for the reserve of a recovery: ${causesOf(failure).join(": ")}`)
