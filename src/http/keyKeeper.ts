/**
 * Watches the file that the API's keys came from, and hands new ones to the verifier, without a restart.
 *
 * By looking at it now and then: what mounts files into containers replaces links and folders, which no watcher of a
 * single file sees. A file that cannot be read or is no configuration changes nothing, and is told once. The first look
 * reads, too: the file may have changed between the start's own reading and the keeper's beginning.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FS from "node:fs/promises"
import { type Failure, FileFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/explain.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { Verifier } from "./Verifier.ts"

const every = Duration.seconds(1)

/** Changes whenever the file does. */
const markOf = (path: string) =>
  Effect.tryPromise({ try: () => FS.stat(path), catch: (cause) => new FileFailed({ operation: "look at", path, cause }) }).pipe(
    Effect.map(({ ctimeMs, ino, mtimeMs, size }) => `${ino} ${size} ${mtimeMs} ${ctimeMs}`)
  )

export interface WatchedKeys {
  readonly path: string
  /** The keys that the start found in the file. */
  readonly given: ReadonlyArray<unknown>
  /** Reads the keys that are in the file now. */
  readonly read: Effect.Effect<ReadonlyArray<unknown>, Failure>
}

export const keyKeeper = ({ given, path, read }: WatchedKeys, verifier: Verifier): Actor => ({
  name: "key keeper",
  policy: "permanent",
  run: Effect.gen(function*() {
    let told: string | null = null
    let seen: string | null = null
    while (true) {
      yield* Effect.sleep(every)
      yield* Effect.gen(function*() {
        const mark = yield* markOf(path)
        if (mark === seen) return
        const keys = yield* read
        const isFirstLook = seen === null
        // Only what was read whole counts as seen.
        seen = mark
        told = null
        if (isFirstLook && JSON.stringify(keys) === JSON.stringify(given)) return
        if (yield* verifier.rotate(keys)) yield* Effect.logInfo(`the HTTP API takes the ${keys.length} keys of ${path} from now on`)
      }).pipe(Effect.catch((failure) => {
        const why = causesOf(failure).join(": ")
        if (told === why) return Effect.void
        told = why
        return Effect.logWarning(`the HTTP API keeps its keys: ${why}`)
      }))
    }
  })
})
