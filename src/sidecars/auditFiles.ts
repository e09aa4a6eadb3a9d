/**
 * Keeps the folder of audit records small, and measures it.
 *
 * It may miss a turn: a folder that cannot be read is told once and looked at again a minute later.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import { FileFailed } from "../errors/Failure.ts"
import { type AuditFile, isStale, logBytes } from "./auditFiles2.ts"
import type { Actor } from "../compute/Supervisor.ts"

const every = Duration.minutes(1)

const list = async (directory: string): Promise<ReadonlyArray<AuditFile>> => {
  const names = await fs.readdir(directory)
  const all = await Promise.all(names.map(async (name) => {
    const stat = await fs.stat(path.join(directory, name)).catch(() => null)
    return stat === null || !stat.isFile() ? [] : [{ name, bytes: stat.size, modifiedAt: stat.mtimeMs }]
  }))
  return all.flat()
}

/** One turn: removes what is old, and answers how many bytes of logs are left. */
export const sweepAuditFiles = Effect.fnUntraced(function*(directory: string): Effect.fn.Return<number, FileFailed> {
  const now = yield* Clock.currentTimeMillis
  return yield* Effect.tryPromise({
    try: async () => {
      const files = await list(directory)
      const [stale, kept] = [files.filter((file) => isStale(file, now)), files.filter((file) => !isStale(file, now))]
      await Promise.all(stale.map(({ name }) => fs.rm(path.join(directory, name), { force: true })))
      return logBytes(kept)
    },
    catch: (cause) => new FileFailed({ operation: "tidy the audit files in", path: directory, cause })
  })
})

/** `measured` gets bytes after each turn. */
export const auditSweeper = (directory: string, measured: (bytes: number) => Effect.Effect<void>): Actor => ({
  name: "audit sweeper",
  policy: "permanent",
  run: Effect.gen(function*() {
    let told = false
    while (true) {
      const turn = yield* Effect.result(sweepAuditFiles(directory))
      if (turn._tag === "Success") yield* measured(turn.success)
      else if (!told) yield* Effect.logWarning(turn.failure.message)
      told = turn._tag === "Failure"
      yield* Effect.sleep(every)
    }
  })
})
