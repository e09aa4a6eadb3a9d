/**
 * Extensions that the image does not have: announced and preloaded before Postgres starts, fetched when asked for
 * (docs/reference/compute_ctl.md#remote-extensions).
 *
 * One fetch per extension at a time, however many ask; a caller that goes away does not take it along, and whoever
 * asks again finds it done. A fetch that failed is forgotten, so that asking again tries again. A control file that
 * Postgres would not take is not written, and is a condition. Only what cannot be looked up, and a folder that cannot
 * be written, keep a compute from starting.
 */
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberMap from "effect/FiberMap"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import * as fs from "node:fs"
import * as path from "node:path"
import { ComputeState } from "../compute/ComputeState.ts"
import {
  ExtensionFailed,
  ExtensionsUnavailable,
  type ExtensionUnknown,
  type FileFailed,
  type PostgresUnusable
} from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { attempt, replaceFile } from "../platform/files.ts"
import { Spawn } from "../platform/Spawn.ts"
import { PostgresInstall } from "../postgres/PostgresInstall.ts"
import type { ApiVersion, ParsedSpec } from "../spec/ParsedSpec.ts"
import { faultOfControlFile } from "./controlText.ts"
import { fetchArchive, type AttemptLimits, type FetchFailure } from "./fetchArchive.ts"
import { type ExtensionFolders, locateFolders, recordFiles } from "./folders.ts"
import {
  archiveUrl,
  type ControlFile,
  controlFiles,
  findExtension,
  librariesToFetch,
  type WantedExtension
} from "./plan.ts"

export interface RemoteExtensionsOptions {
  readonly apiVersion: ApiVersion
  /** `-r`; `null`: nothing is fetched. */
  readonly base: string | null
  readonly buildTag: string
  /** As Node says it: `x64`, `arm64`. */
  readonly arch: string
  readonly limits?: DownloadLimits
}

export interface DownloadLimits extends AttemptLimits {
  /** All attempts together. */
  readonly within: Duration.Duration
  readonly attempts: number
}

/** Postgres's own request gives up after 60 s; what is fetched by then is there for the next one. */
export const defaultLimits: DownloadLimits = {
  answerWithin: Duration.seconds(10),
  pieceWithin: Duration.seconds(15),
  attemptWithin: Duration.seconds(90),
  within: Duration.minutes(3),
  attempts: 4,
  mostCompressedBytes: 4 * 1024 ** 3,
  mostBytes: 16 * 1024 ** 3
}

/** Before Postgres starts. Bytes are of archives as they were served. */
export interface Loaded {
  readonly millis: number
  readonly downloaded: number
  readonly largest: number
  readonly total: number
}

export class RemoteExtensions extends Context.Service<
  RemoteExtensions,
  {
    /**
     * Writes the control files of allowed extensions that are not there, and fetches the libraries that Postgres
     * would preload. A fetch that fails is logged and skipped. Its numbers are noted in the shared metrics.
     */
    readonly prepare: (spec: ParsedSpec) => Effect.Effect<Loaded, ExtensionUnknown | FileFailed | PostgresUnusable>
    /** Answers the bytes that were fetched: 0 when it was there already. By the spec of that moment. */
    readonly download: (
      name: string,
      isLibrary: boolean
    ) => Effect.Effect<number, ExtensionUnknown | ExtensionsUnavailable | ExtensionFailed | PostgresUnusable>
  }
>()("compute/extensions/RemoteExtensions") {
  static readonly layer = (
    options: RemoteExtensionsOptions
  ): Layer.Layer<RemoteExtensions, never, ComputeState | PostgresInstall | Spawn> =>
    Layer.effect(RemoteExtensions, make(options))
}

/** Archives that are fetched at the same time before Postgres starts. */
const atOnce = 8

type DownloadFailed = ExtensionFailed | PostgresUnusable

/** Fetches each archive once, however many ask for it. Answers the bytes that were fetched: 0 when it was there. */
const makeFetcher = Effect.fnUntraced(function* (
  options: RemoteExtensionsOptions,
  folders: Effect.Effect<ExtensionFolders, PostgresUnusable>,
  postgresMajor: number
) {
  const limits = options.limits ?? defaultLimits
  const running = yield* FiberMap.make<string, number, DownloadFailed>()
  const lock = yield* Semaphore.make(1)
  /** Read and written under `lock`, or when a fetch is done. */
  const fetched = new Set<string>()

  return Effect.fnUntraced(function* (wanted: WantedExtension, base: string) {
    // An archive with another digest is another one.
    const key = JSON.stringify(wanted)
    const url = archiveUrl({ ...options, base, postgresMajor }, wanted.extension)
    const fetching = folders.pipe(
      Effect.flatMap((into) => fetchWithRetries(wanted, url, into, limits)),
      Effect.tap(() => Effect.sync(() => fetched.add(key))),
      Effect.tapError((failure) => Effect.logWarning(explain(failure)))
    )
    const fiber = yield* lock.withPermit(
      Effect.suspend(() =>
        fetched.has(key)
          ? Effect.succeed(null)
          : Option.match(FiberMap.getUnsafe(running, key), {
              onNone: () => FiberMap.run(running, key, fetching, { startImmediately: false }),
              onSome: Effect.succeed
            })
      )
    )
    return fiber === null ? 0 : yield* Fiber.join(fiber)
  })
})

const make = Effect.fnUntraced(function* (options: RemoteExtensionsOptions) {
  const { base, apiVersion } = options
  const state = yield* ComputeState
  const install = yield* PostgresInstall
  const folders = yield* Effect.cached(Effect.provideService(locateFolders(install), Spawn, yield* Spawn))
  const fetch = yield* makeFetcher(options, folders, install.major)

  const download = Effect.fn("RemoteExtensions.download")(function* (name: string, isLibrary: boolean) {
    if (base === null) return yield* new ExtensionsUnavailable({ missing: "store" })
    const list = (yield* state.now).spec?.remoteExtensions ?? null
    if (list === null) return yield* new ExtensionsUnavailable({ missing: "list" })
    return yield* fetch(yield* Effect.fromResult(findExtension(name, isLibrary, list, apiVersion)), base)
  })

  const preload = Effect.fnUntraced(function* (spec: ParsedSpec) {
    const list = spec.remoteExtensions
    if (list === null) return []
    const files = yield* Effect.provideService(
      refuseFaulty(controlFiles(list, apiVersion), install.major),
      ComputeState,
      state
    )
    if (files.length > 0) yield* writeControlFiles(files, yield* folders)
    if (base === null) return []
    const libraries = librariesToFetch(spec, list, apiVersion)
    const wanted = yield* Effect.fromResult(
      Result.all(libraries.map((name) => findExtension(name, true, list, apiVersion)))
    )
    const unique = [...new Map(wanted.map((one) => [one.extension, one])).values()]
    const fetched = yield* Effect.forEach(unique, (one) => Effect.result(fetch(one, base)), { concurrency: atOnce })
    return fetched.flatMap((one) => (Result.isSuccess(one) && one.success > 0 ? [one.success] : []))
  })

  const prepare = Effect.fn("RemoteExtensions.prepare")(function* (spec: ParsedSpec) {
    const from = yield* DateTime.now
    const sizes = yield* preload(spec)
    const to = yield* DateTime.now
    const loaded: Loaded = {
      millis: base === null || spec.remoteExtensions === null ? 0 : to.epochMilliseconds - from.epochMilliseconds,
      downloaded: sizes.length,
      largest: Math.max(0, ...sizes),
      total: sizes.reduce((sum, size) => sum + size, 0)
    }
    yield* state.note(({ metrics }) => ({
      metrics: {
        ...metrics,
        load_ext_ms: loaded.millis,
        num_ext_downloaded: loaded.downloaded,
        largest_ext_size: loaded.largest,
        total_ext_download_size: loaded.total
      }
    }))
    return loaded
  })

  return RemoteExtensions.of({ prepare, download })
})

/** Those that Postgres takes; of the others a condition tells, for as long as the spec has them. */
const refuseFaulty = Effect.fnUntraced(function* (files: ReadonlyArray<ControlFile>, postgresMajor: number) {
  const state = yield* ComputeState
  const faults = new Map(
    files.flatMap(({ name, text }) => {
      const fault = faultOfControlFile(name, text, postgresMajor)
      return fault === null ? [] : [[name, fault] as const]
    })
  )
  for (const { about, code } of (yield* state.now).degraded)
    if (code === "extension_unusable" && about !== undefined && !faults.has(about)) yield* state.clear(code, about)
  for (const [about, fault] of faults)
    yield* state.raise({
      code: "extension_unusable",
      about,
      message: `${about}, a control file of the spec's remote extensions, is left out: ${fault}`
    })
  return files.filter(({ name }) => !faults.has(name))
})

/** In one piece, because Postgres would offer a half-written one; a file of that name is somebody's, and stays. */
const writeControlFiles = (
  files: ReadonlyArray<ControlFile>,
  folders: ExtensionFolders
): Effect.Effect<void, FileFailed> =>
  Effect.forEach(
    files,
    ({ extension, name, text }) => {
      const at = path.join(folders.extension, name)
      if (fs.existsSync(at)) return Effect.void
      // Without a record its archive could not replace it; where none can be written, none can be unpacked either.
      const record = attempt("write", folders.incoming, () => recordFiles(folders, extension, [at]))
      const write = replaceFile({ path: at, content: text, mode: 0o644, owner: null })
      return Effect.andThen(Effect.ignore(record), write)
    },
    { discard: true }
  )

const pauses = (attempts: number) =>
  Schedule.exponential("200 millis", 2).pipe(
    Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(3)))),
    Schedule.jittered,
    Schedule.upTo({ times: attempts - 1 })
  )

const fetchWithRetries = Effect.fnUntraced(function* (
  wanted: WantedExtension,
  url: string,
  folders: ExtensionFolders,
  limits: DownloadLimits
) {
  const attempts = yield* Ref.make(0)
  const fail = Effect.fnUntraced(function* ({ cause, detail }: FetchFailure) {
    const tried = yield* Ref.get(attempts)
    const { extension } = wanted
    return yield* new ExtensionFailed({
      extension,
      url,
      detail,
      attempts: tried,
      ...(cause === undefined ? {} : { cause })
    })
  })
  return yield* Ref.update(attempts, (count) => count + 1).pipe(
    Effect.andThen(fetchArchive({ ...wanted, url }, folders, limits)),
    Effect.retry({ schedule: pauses(limits.attempts), while: (failure) => failure.retryable }),
    Effect.timeoutOrElse({
      duration: limits.within,
      orElse: () =>
        Effect.fail<FetchFailure>({
          detail: `it did not come within ${Duration.toMillis(limits.within)} ms`,
          retryable: false
        })
    }),
    Effect.catch(fail)
  )
})
