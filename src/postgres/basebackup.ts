/**
 * A basebackup, which is a gzipped tar stream, unpacked into an empty folder as it arrives.
 *
 * Reads the stream to its very end, past the end of the archive: the sender may still report a failure there. On
 * failure the folder holds whatever had been written; the caller wipes it.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as zlib from "node:zlib"
import { ArchiveInvalid, type Failure, type FileFailed } from "../errors/Failure.ts"
import type { Owner } from "../platform/files.ts"
import { makeUntar, TarInvalid } from "../platform/untar.ts"

const invalidGzip = (cause: NodeJS.ErrnoException): ArchiveInvalid =>
  cause.code === "Z_BUF_ERROR"
    ? new ArchiveInvalid({ kind: "truncated", detail: "the gzip stream stops early", cause })
    : new ArchiveInvalid({ kind: "corrupt", detail: "it is not a gzip stream, or a part of it is damaged", cause })

const invalidTar = ({ cause, message, problem }: TarInvalid): ArchiveInvalid =>
  new ArchiveInvalid({
    kind: problem === "truncated" || problem === "escapes" ? problem : "corrupt",
    detail: message,
    ...(cause === undefined ? {} : { cause })
  })

interface Pipeline {
  readonly gunzip: zlib.Gunzip
  /** What is decompressed so far is on disk when this returns. */
  readonly flush: () => void
  /** No more bytes will come. */
  readonly end: () => void
  /** The first thing that went wrong. */
  readonly failure: () => ArchiveInvalid | FileFailed | null
  /** The gzip stream has ended, by itself. */
  readonly isOver: () => boolean
  /** Hands a piece to the decompressor; `taken` is called when it wants the next one, or has failed. */
  readonly feed: (piece: Uint8Array, taken: () => void) => void
}

const makePipeline = (directory: string, owner: Owner | null): Effect.Effect<Pipeline, never, Scope.Scope> =>
  Effect.gen(function* () {
    const untar = yield* Effect.acquireRelease(
      Effect.sync(() => makeUntar({ directory, owner, fileMode: 0o600, folderMode: 0o700, links: "refuse" })),
      (untar) => Effect.sync(() => untar.close())
    )
    const gunzip = yield* Effect.acquireRelease(
      Effect.sync(() => zlib.createGunzip({ chunkSize: 128 * 1024 })),
      (gunzip) => Effect.sync(() => gunzip.destroy())
    )
    let damage: ArchiveInvalid | null = null
    let over = false
    // A write that meets damage is never called back, so the error must end the wait too.
    let onTaken = (): void => {}
    gunzip.on("error", (cause) => {
      damage ??= invalidGzip(cause)
      onTaken()
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
      over = true
    })
    const failure = () => {
      const found = damage ?? untar.failure()
      return found instanceof TarInvalid ? invalidTar(found) : found
    }
    return {
      gunzip,
      flush,
      failure,
      end: untar.end,
      isOver: () => over,
      feed: (piece, taken) => {
        onTaken = taken
        gunzip.write(piece, taken)
      }
    }
  })

/** Answers the number of bytes that came, compressed. Files are 0600, folders 0700, all of them the owner's. */
export const unpack: (
  bytes: Stream.Stream<Uint8Array, Failure>,
  directory: string,
  owner: Owner | null
) => Effect.Effect<number, Failure> = Effect.fn("Pgdata.unpack")(function* (bytes, directory, owner) {
  const { end, failure, feed, flush, gunzip, isOver } = yield* makePipeline(directory, owner)
  const check = Effect.suspend((): Effect.Effect<void, Failure> => {
    const found = failure()
    return found === null ? Effect.void : Effect.fail(found)
  })
  let arrived = 0
  yield* Stream.runForEach(bytes, (piece) =>
    piece.length === 0
      ? Effect.void
      : Effect.andThen(
          Effect.callback<void, Failure>((resume) => {
            arrived += piece.length
            // Past the end of the gzip stream nothing is decompressed; the count below finds it.
            if (isOver()) return resume(Effect.void)
            feed(piece, () => resume(Effect.void))
          }),
          check
        )
  )
  yield* Effect.callback<void>((resume) => {
    if (isOver() || gunzip.destroyed) return resume(Effect.void)
    gunzip.once("close", () => resume(Effect.void))
    gunzip.end()
  })
  flush()
  yield* check
  if (gunzip.bytesWritten < arrived) {
    return yield* new ArchiveInvalid({ kind: "corrupt", detail: "there is more after the end of the gzip stream" })
  }
  end()
  yield* check
  return arrived
}, Effect.scoped)
