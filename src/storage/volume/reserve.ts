/**
 * A reserve on a volume: room that Postgres's crash recovery needs and that a full disk would not have. A recovery
 * writes WAL before it can free any, so without it a Postgres that ended for lack of room would never start again.
 *
 * It is made in the background while Postgres runs, as soon as there is room, and given up by the start that recovers,
 * which is proven to be alone. Nothing depends on its content.
 */
import * as Effect from "effect/Effect"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import { FileFailed } from "../../errors/Failure.ts"
import { attemptPromise, makeFolder } from "../../platform/files.ts"
import { handOver, removeTree, rename, statOrNull } from "../local/disk.ts"
import type { VolumeLayout, VolumeRecord } from "./layout.ts"

/** The segment that recovery ends in, and the next one. */
const segments = 2
/** A postmaster's own files, sockets and caches. */
const names = 32
const pieceBytes = 1024 * 1024

const reserveOf = (layout: VolumeLayout): string => `${layout.ours}/reserve`

const reserveBytes = ({ segmentBytes }: VolumeRecord): number => segments * segmentBytes

/** Not zeros, and not the same again within what a file system looks at: compressed it would be no room. */
const fill = async (path: string, bytes: number, signal: AbortSignal): Promise<void> => {
  const piece = randomBytes(pieceBytes)
  const file = await fs.promises.open(path, "wx", 0o600)
  try {
    for (let written = 0; written < bytes; written += pieceBytes) {
      signal.throwIfAborted()
      await file.write(piece, 0, Math.min(pieceBytes, bytes - written))
    }
  } finally {
    await file.close()
  }
}

/** Where it is missing. Fails where there is no room for it. */
export const keepReserve = Effect.fnUntraced(function* (layout: VolumeLayout, record: VolumeRecord) {
  const reserve = reserveOf(layout)
  if ((yield* statOrNull(reserve)) !== null) return
  const made = `${reserve}.new`
  yield* removeTree(made)
  yield* makeFolder(made, layout.owner)
  const files = Array.from({ length: names }, (_, n) => `${made}/name-${n}`)
  yield* attemptPromise("make", made, async () => {
    for (const file of files) await fs.promises.writeFile(file, "")
  }).pipe(
    Effect.andThen(
      Effect.tryPromise({
        try: (signal) => fill(`${made}/room`, reserveBytes(record), signal),
        catch: (cause) => new FileFailed({ operation: "write", path: `${made}/room`, cause })
      })
    ),
    Effect.andThen(Effect.forEach([...files, `${made}/room`], (file) => handOver(file, layout.owner))),
    Effect.andThen(rename(made, reserve)),
    Effect.onError(() => Effect.ignore(removeTree(made)))
  )
})

/** Also a half-made one. True when there was any. */
export const giveUpReserve = Effect.fnUntraced(function* (layout: VolumeLayout) {
  const reserve = reserveOf(layout)
  const isThere = (yield* statOrNull(reserve)) !== null
  yield* removeTree(`${reserve}.new`)
  yield* removeTree(reserve)
  return isThere
})

/** What fills a volume. */
export const partsOf = (layout: VolumeLayout) =>
  Effect.sync(() => [
    { what: "WAL", paths: [layout.wal] },
    { what: "the reserve for a recovery", paths: fs.existsSync(reserveOf(layout)) ? [reserveOf(layout)] : [] },
    { what: "all data files", paths: ["base", "global", "pg_tblspc"].map((name) => `${layout.root}/${name}`) }
  ])
