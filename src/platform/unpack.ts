/**
 * A gzipped tar stream, unpacked into an empty folder as it arrives.
 *
 * Reads the stream to its very end, past the end of the archive: the sender may still report a failure there. On
 * failure the folder holds whatever had been written; the caller wipes it.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as zlib from "node:zlib"
import { ArchiveInvalid, type Failure } from "../errors/Failure.ts"
import { makeUntar, type Owner } from "./untar.ts"

const invalidGzip = (cause: NodeJS.ErrnoException): ArchiveInvalid =>
  cause.code === "Z_BUF_ERROR"
    ? new ArchiveInvalid({ kind: "truncated", detail: "the gzip stream stops early", cause })
    : new ArchiveInvalid({ kind: "corrupt", detail: "it is not a gzip stream, or a part of it is damaged", cause })

/** Answers the number of bytes that came, compressed. Files are 0600, folders 0700, all of them the owner's. */
export const unpack: (
  bytes: Stream.Stream<Uint8Array, Failure>,
  directory: string,
  owner: Owner | null
) => Effect.Effect<number, Failure> = Effect.fn("Pgdata.unpack")(function*(bytes, directory, owner) {
  const untar = yield* Effect.acquireRelease(
    Effect.sync(() => makeUntar(directory, owner)),
    (untar) => Effect.sync(() => untar.close())
  )
  const gunzip = yield* Effect.acquireRelease(
    Effect.sync(() => zlib.createGunzip({ chunkSize: 128 * 1024 })),
    (gunzip) => Effect.sync(() => gunzip.destroy())
  )
  let damage: ArchiveInvalid | undefined
  let ended = false
  let arrived = 0
  // A write that meets damage is never called back, so the error must end the wait too.
  let taken = (): void => {}
  gunzip.on("error", (cause) => {
    damage ??= invalidGzip(cause)
    taken()
  })
  // Not written at once: as soon as this returns, another thread decompresses what is next, while we write.
  const loose: Array<Buffer> = []
  const flush = (): void => {
    for (const piece of loose.splice(0)) untar.write(piece)
  }
  gunzip.on("data", (piece: Buffer) => {
    loose.push(piece)
    queueMicrotask(flush)
  })
  gunzip.on("end", () => {
    ended = true
  })
  const check = Effect.suspend((): Effect.Effect<void, Failure> => {
    const failure = damage ?? untar.failure()
    return failure === undefined ? Effect.void : Effect.fail(failure)
  })

  yield* Stream.runForEach(bytes, (piece) =>
    piece.length === 0 ? Effect.void : Effect.andThen(
      Effect.callback<void, Failure>((resume) => {
        arrived += piece.length
        // Past the end of the gzip stream nothing is decompressed; the count below tells.
        if (ended) return resume(Effect.void)
        taken = () => resume(Effect.void)
        gunzip.write(piece, taken)
      }),
      check
    ))
  yield* Effect.callback<void>((resume) => {
    if (ended || gunzip.destroyed) return resume(Effect.void)
    gunzip.once("close", () => resume(Effect.void))
    gunzip.end()
  })
  flush()
  yield* check
  if (gunzip.bytesWritten < arrived) {
    return yield* new ArchiveInvalid({ kind: "corrupt", detail: "there is more after the end of the gzip stream" })
  }
  untar.end()
  yield* check
  return arrived
}, Effect.scoped)
