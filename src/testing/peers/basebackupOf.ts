/**
 * The gzipped tar a pageserver would send, made from a real PGDATA whose Postgres was shut down in order.
 *
 * Like the pageserver's it has no postgresql.conf and nothing of a running postmaster. Unlike it, it holds the
 * relation files, so that a stock Postgres can start from it. Held in memory: for small test clusters only.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import { create } from "tar/create"
import { FileFailed } from "../../errors/Failure.ts"

const leftOut = new Set(["postgresql.conf", "postmaster.pid", "postmaster.opts"])

export const basebackupOf = (pgdata: string): Effect.Effect<Uint8Array, FileFailed> =>
  Effect.tryPromise({
    try: async () => {
      const names = (await fs.readdir(pgdata)).filter((name) => !leftOut.has(name)).sort()
      const pieces: Array<Uint8Array> = []
      // A link to a folder, as pg_wal may be one, is sent as what it leads to.
      for await (const piece of create({ cwd: pgdata, gzip: { level: 1 }, portable: true, follow: true }, names)) pieces.push(piece)
      return Buffer.concat(pieces)
    },
    catch: (cause) => new FileFailed({ operation: "archive", path: pgdata, cause })
  })
