/**
 * One attempt at an archive: requested over HTTP, decompressed and unpacked as it arrives, checked, put in place.
 *
 * Never holds more than a few pieces in memory. Whatever happens, its private folder is gone afterwards, and
 * Postgres's folders hold all of the archive or nothing of it.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import { createHash, randomUUID } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { type Duplex, pipeline as pipe, Readable, Transform } from "node:stream"
import { pipeline } from "node:stream/promises"
import * as zlib from "node:zlib"
import { counters } from "../compute/counters.ts"
import { isAlive } from "../platform/processes.ts"
import { makeUntar, TarInvalid } from "../platform/untar.ts"
import { type ExtensionFolders, placeFiles } from "./folders.ts"
import { archiveName } from "./plan.ts"

export interface AttemptLimits {
  /** Until the answer begins. */
  readonly answerWithin: Duration.Duration
  /** Between two pieces. */
  readonly pieceWithin: Duration.Duration
  /** One attempt as a whole. */
  readonly attemptWithin: Duration.Duration
  readonly mostCompressedBytes: number
  readonly mostBytes: number
}

export interface ArchiveRequest {
  readonly extension: string
  readonly sha256: string | null
  readonly url: string
}

/** Why an attempt failed, and whether another one makes sense. */
export interface FetchFailure {
  readonly detail: string
  readonly retryable: boolean
  readonly cause?: unknown
}

const countRequest = (extension: string, httpStatus: string) =>
  Metric.update(
    Metric.withAttributes(counters.extensionRequests, { http_status: httpStatus, filename: archiveName(extension) }),
    1
  )

const lateAfter = (detail: string, duration: Duration.Duration) => ({
  duration,
  orElse: () =>
    Effect.fail<FetchFailure>({ detail: `${detail} within ${Duration.toMillis(duration)} ms`, retryable: true })
})

const isTemporary = (status: number): boolean => status >= 500 || status === 408 || status === 429

const ask = (
  request: ArchiveRequest,
  limits: AttemptLimits,
  stop: AbortSignal
): Effect.Effect<Response, FetchFailure> =>
  Effect.tryPromise({
    try: () => fetch(request.url, { signal: stop, redirect: "follow", headers: { "accept-encoding": "identity" } }),
    catch: (cause): FetchFailure => ({ detail: "it could not be reached", retryable: true, cause })
  }).pipe(
    Effect.timeoutOrElse(lateAfter("it did not answer", limits.answerWithin)),
    Effect.tapError(() => countRequest(request.extension, "unknown")),
    Effect.tap((response) => countRequest(request.extension, `${response.status} ${response.statusText}`.trim())),
    Effect.flatMap((response) =>
      response.status === 200
        ? Effect.succeed(response)
        : Effect.fail<FetchFailure>({
            detail:
              response.status === 503
                ? "it is temporarily unavailable (503)"
                : `it answered ${response.status} ${response.statusText}`.trim(),
            retryable: isTemporary(response.status)
          })
    )
  )

/** For the watchdog. A piece that is unpacked counts too: then we are slow, and not the store. */
interface Progress {
  /** That came. */
  bytes: number
  /** That came or were unpacked. */
  pieces: number
}

const counting = async function* (pieces: AsyncIterable<Uint8Array>, progress: Progress) {
  for await (const piece of pieces) {
    progress.pieces += 1
    yield piece
  }
}

/** Entries of one archive; the largest extensions have some thousands. */
const mostEntries = 200_000

const untar = async (pieces: AsyncIterable<Uint8Array>, directory: string, mostBytes: number): Promise<void> => {
  const archive = makeUntar({
    directory,
    owner: null,
    fileMode: 0o644,
    folderMode: 0o755,
    links: "sameFolder",
    mostEntries,
    mostBytes
  })
  const check = () => {
    const failure = archive.failure()
    if (failure !== null) throw failure
  }
  try {
    for await (const piece of pieces) {
      archive.write(piece)
      check()
    }
    archive.end()
    check()
  } finally {
    archive.close()
  }
}

const magics = {
  zstd: [0x28, 0xb5, 0x2f, 0xfd],
  gzip: [0x1f, 0x8b],
  xz: [0xfd, 0x37, 0x7a, 0x58],
  bzip2: [0x42, 0x5a, 0x68]
}

/** By its first bytes: the name says zstd, whatever packed it. What begins like none of them is a tar, or nothing. */
const decompressorFor = (head: Buffer): Duplex | null => {
  const is = (name: keyof typeof magics) => head.subarray(0, magics[name].length).equals(Buffer.from(magics[name]))
  if (is("zstd")) return zlib.createZstdDecompress()
  if (is("gzip")) return zlib.createGunzip()
  const other = (["xz", "bzip2"] as const).find(is)
  if (other === undefined) return null
  throw new TarInvalid("refused", `it is packed by ${other}; pack it by zstd or gzip, or not at all`)
}

const decompress = async function* (pieces: AsyncIterable<Buffer>): AsyncGenerator<Uint8Array> {
  const iterator = pieces[Symbol.asyncIterator]()
  let head: Buffer = Buffer.alloc(0)
  while (head.length < 4) {
    const next = await iterator.next()
    if (next.done === true) break
    head = Buffer.concat([head, next.value])
  }
  const all = async function* () {
    yield head
    yield* { [Symbol.asyncIterator]: () => iterator }
  }
  const decompressor = decompressorFor(head)
  yield* decompressor === null ? all() : pipe(Readable.from(all()), decompressor, () => {})
}

/** The archive itself is wrong, and not how it came. */
const wouldBeTheSame = (cause: unknown): boolean =>
  cause instanceof TarInvalid && (cause.problem === "refused" || cause.problem === "escapes")

const readAll = async (
  response: Response,
  request: ArchiveRequest,
  limits: AttemptLimits,
  into: string,
  progress: Progress,
  signal: AbortSignal
): Promise<void> => {
  const hash = createHash("sha256")
  const watch = new Transform({
    transform: (piece: Buffer, _, done) => {
      progress.bytes += piece.length
      progress.pieces += 1
      hash.update(piece)
      const { mostCompressedBytes } = limits
      done(
        progress.bytes > mostCompressedBytes
          ? new TarInvalid("refused", `it is larger than ${mostCompressedBytes} bytes`)
          : null,
        piece
      )
    }
  })
  const body = response.body === null ? Readable.from([]) : Readable.fromWeb(response.body)
  const unpack = (pieces: AsyncIterable<Uint8Array>) => untar(counting(pieces, progress), into, limits.mostBytes)
  await pipeline(body, watch, decompress, unpack, { signal })
  const digest = hash.digest("hex")
  if (request.sha256 !== null && digest !== request.sha256)
    throw new Error(`its digest is ${digest} and not ${request.sha256}`)
}

/** Fails when no piece has come within `pieceWithin` of the one before. */
const watchdog = (progress: Progress, pieceWithin: Duration.Duration): Effect.Effect<never, FetchFailure> =>
  Effect.suspend(() => {
    const before = progress.pieces
    return Effect.andThen(
      Effect.sleep(pieceWithin),
      Effect.suspend(() =>
        progress.pieces > before
          ? watchdog(progress, pieceWithin)
          : Effect.fail<FetchFailure>({
              detail:
                `its archive stopped coming after ${progress.bytes} bytes, ` +
                `for ${Duration.toMillis(pieceWithin)} ms`,
              retryable: true
            })
      )
    )
  })

/** Removes what a process that was killed has left: our folders are named after our pid. */
const removeStale = (incoming: string): void => {
  for (const name of fs.existsSync(incoming) ? fs.readdirSync(incoming) : []) {
    const pid = /^(\d+)\./.exec(name)?.[1]
    if (pid !== undefined && !isAlive(Number(pid)))
      fs.rmSync(path.join(incoming, name), { recursive: true, force: true })
  }
}

const privateFolder = (folders: ExtensionFolders): Effect.Effect<string, FetchFailure> =>
  Effect.try({
    try: () => {
      removeStale(folders.incoming)
      const at = path.join(folders.incoming, `${process.pid}.${randomUUID()}`)
      fs.mkdirSync(path.join(at, "unpacked"), { recursive: true, mode: 0o700 })
      fs.mkdirSync(path.join(at, "aside"))
      return at
    },
    catch: (cause): FetchFailure => ({
      detail: `no folder could be made in ${folders.incoming}`,
      retryable: false,
      cause
    })
  })

/** The folder around it goes too, when no other archive is being unpacked. */
const removeFolder = (at: string) =>
  Effect.promise(() =>
    fs.promises
      .rm(at, { recursive: true, force: true, maxRetries: 3 })
      .then(() => fs.promises.rmdir(path.dirname(at)))
      .catch(() => {})
  )

/** Answers the compressed size in bytes. */
export const fetchArchive = Effect.fn("RemoteExtensions.fetchArchive")(function* (
  request: ArchiveRequest,
  folders: ExtensionFolders,
  limits: AttemptLimits
) {
  const at = yield* Effect.acquireRelease(privateFolder(folders), removeFolder)
  const stop = yield* Effect.acquireRelease(
    Effect.sync(() => new AbortController()),
    (controller) => Effect.sync(() => controller.abort())
  )
  const response = yield* ask(request, limits, stop.signal)
  const unpacked = path.join(at, "unpacked")
  const progress: Progress = { bytes: 0, pieces: 0 }
  const reading = Effect.tryPromise({
    try: (signal) => readAll(response, request, limits, unpacked, progress, signal),
    catch: (cause): FetchFailure => ({
      detail: "its archive could not be unpacked",
      retryable: !wouldBeTheSame(cause),
      cause
    })
  })
  yield* Effect.raceFirst(reading, watchdog(progress, limits.pieceWithin)).pipe(
    Effect.timeoutOrElse(lateAfter("its archive did not arrive", limits.attemptWithin))
  )
  const files = yield* Effect.try({
    try: () => placeFiles(unpacked, path.join(at, "aside"), folders, request.extension),
    catch: (cause): FetchFailure => ({ detail: "its files could not be put in their places", retryable: false, cause })
  })
  yield* Effect.logInfo(`extension ${request.extension}: ${progress.bytes} bytes, ${files} files`)
  return progress.bytes
}, Effect.scoped)
