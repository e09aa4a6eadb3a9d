/**
 * One attempt at an archive: asked for over HTTP, decompressed and unpacked as it arrives, checked, put in place.
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
import { Readable, Transform } from "node:stream"
import { pipeline } from "node:stream/promises"
import * as zlib from "node:zlib"
import { type Folders, place } from "./folders.ts"
import { archiveName } from "./plan.ts"
import { ArchiveRefused, untar } from "./untar.ts"

export interface Limits {
  /** Until the answer begins. */
  readonly answerWithin: Duration.Duration
  /** Between two pieces. */
  readonly pieceWithin: Duration.Duration
  /** One attempt as a whole. */
  readonly attemptWithin: Duration.Duration
  readonly mostCompressedBytes: number
  readonly mostBytes: number
}

export interface Asked {
  readonly extension: string
  readonly sha256: string | null
  readonly url: string
}

/** Why an attempt failed, and whether another one makes sense. */
export interface Refusal {
  readonly detail: string
  readonly again: boolean
  readonly cause?: unknown
}

const requests = Metric.counter("compute_ctl_remote_ext_requests_total", {
  description: "Requests to the store of extensions",
  incremental: true
})

const counted = (extension: string, httpStatus: string) =>
  Metric.update(Metric.withAttributes(requests, { http_status: httpStatus, filename: archiveName(extension) }), 1)

const late = (detail: string, duration: Duration.Duration) => ({
  duration,
  orElse: () => Effect.fail<Refusal>({ detail: `${detail} within ${Duration.toMillis(duration)} ms`, again: true })
})

const mayPass = (status: number): boolean => status >= 500 || status === 408 || status === 429

const ask = (asked: Asked, limits: Limits, stop: AbortSignal): Effect.Effect<Response, Refusal> =>
  Effect.tryPromise({
    try: () => fetch(asked.url, { signal: stop, redirect: "follow", headers: { "accept-encoding": "identity" } }),
    catch: (cause): Refusal => ({ detail: "it could not be reached", again: true, cause })
  }).pipe(
    Effect.timeoutOrElse(late("it did not answer", limits.answerWithin)),
    Effect.tapError(() => counted(asked.extension, "unknown")),
    Effect.tap((response) => counted(asked.extension, `${response.status} ${response.statusText}`.trim())),
    Effect.flatMap((response) =>
      response.status === 200
        ? Effect.succeed(response)
        : Effect.fail<Refusal>({
            detail:
              response.status === 503
                ? "it is temporarily unavailable (503)"
                : `it answered ${response.status} ${response.statusText}`.trim(),
            again: mayPass(response.status)
          })
    )
  )

/** The watchdog looks at it. A piece that is unpacked counts too: then we are slow, and not the store. */
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

const readAll = async (
  response: Response,
  asked: Asked,
  limits: Limits,
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
          ? new ArchiveRefused(`it is larger than ${mostCompressedBytes} bytes`)
          : null,
        piece
      )
    }
  })
  const body = response.body === null ? Readable.from([]) : Readable.fromWeb(response.body)
  const unpack = (pieces: AsyncIterable<Uint8Array>) => untar(counting(pieces, progress), into, limits.mostBytes)
  await pipeline(body, watch, zlib.createZstdDecompress(), unpack, { signal })
  const digest = hash.digest("hex")
  if (asked.sha256 !== null && digest !== asked.sha256)
    throw new Error(`its digest is ${digest} and not ${asked.sha256}`)
}

/** Fails when nothing has come for as long as may pass between two pieces. */
const watchdog = (progress: Progress, pieceWithin: Duration.Duration): Effect.Effect<never, Refusal> =>
  Effect.suspend(() => {
    const before = progress.pieces
    return Effect.andThen(
      Effect.sleep(pieceWithin),
      Effect.suspend(() =>
        progress.pieces > before
          ? watchdog(progress, pieceWithin)
          : Effect.fail<Refusal>({
              detail: `its archive stopped coming after ${progress.bytes} bytes, for ${Duration.toMillis(pieceWithin)} ms`,
              again: true
            })
      )
    )
  })

/** Folders of ours are named after our pid; one whose process was killed is nobody's. */
const sweep = (incoming: string): void => {
  for (const name of fs.existsSync(incoming) ? fs.readdirSync(incoming) : []) {
    const pid = /^(\d+)\./.exec(name)?.[1]
    if (pid !== undefined && !isAlive(Number(pid)))
      fs.rmSync(path.join(incoming, name), { recursive: true, force: true })
  }
}

const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM"
  }
}

const privateFolder = (folders: Folders): Effect.Effect<string, Refusal> =>
  Effect.try({
    try: () => {
      sweep(folders.incoming)
      const at = path.join(folders.incoming, `${process.pid}.${randomUUID()}`)
      fs.mkdirSync(path.join(at, "unpacked"), { recursive: true, mode: 0o700 })
      fs.mkdirSync(path.join(at, "aside"))
      return at
    },
    catch: (cause): Refusal => ({ detail: `no folder could be made in ${folders.incoming}`, again: false, cause })
  })

/** The folder around it goes too, once nobody else unpacks. */
const leave = (at: string) =>
  Effect.promise(() =>
    fs.promises
      .rm(at, { recursive: true, force: true, maxRetries: 3 })
      .then(() => fs.promises.rmdir(path.dirname(at)))
      .catch(() => {})
  )

/** Answers the compressed size in bytes. */
export const fetchArchive = Effect.fn("RemoteExtensions.fetchArchive")(function* (
  asked: Asked,
  folders: Folders,
  limits: Limits
) {
  const at = yield* Effect.acquireRelease(privateFolder(folders), leave)
  const stop = yield* Effect.acquireRelease(
    Effect.sync(() => new AbortController()),
    (controller) => Effect.sync(() => controller.abort())
  )
  const response = yield* ask(asked, limits, stop.signal)
  const unpacked = path.join(at, "unpacked")
  const progress: Progress = { bytes: 0, pieces: 0 }
  const reading = Effect.tryPromise({
    try: (signal) => readAll(response, asked, limits, unpacked, progress, signal),
    catch: (cause): Refusal => ({
      detail: "its archive could not be unpacked",
      again: !(cause instanceof ArchiveRefused),
      cause
    })
  })
  yield* Effect.raceFirst(reading, watchdog(progress, limits.pieceWithin)).pipe(
    Effect.timeoutOrElse(late("its archive did not arrive", limits.attemptWithin))
  )
  const files = yield* Effect.try({
    try: () => place(unpacked, path.join(at, "aside"), folders),
    catch: (cause): Refusal => ({ detail: "its files could not be put in their places", again: false, cause })
  })
  yield* Effect.logInfo(`extension ${asked.extension}: ${progress.bytes} bytes, ${files} files`)
  return progress.bytes
}, Effect.scoped)
