/**
 * Loads the local file cache from the map that an earlier compute saved, and saves its own
 * (docs/reference/compute_ctl.md#local-file-cache).
 *
 * Both run in the background, one of each at most; how they went is a state, and a failure never touches the
 * compute. A cancel returns when the load has stopped in Postgres too; with nothing to cancel it does nothing.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberHandle from "effect/FiberHandle"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { promisify } from "node:util"
import * as zlib from "node:zlib"
import { ComputeState } from "../compute/ComputeState.ts"
import { counters } from "../compute/counters.ts"
import type { OffloadState, PrewarmState } from "../compute/prewarm.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { LfcBusy, type TimedOut, type WireFailed } from "../errors/Failure.ts"
import { causesOf, explain } from "../errors/policy.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { askMap, loadMap } from "./cacheSql.ts"
import { defaultLimits, mapLocation, readMap, type StoreFailure, type StoreLimits, writeMap } from "./mapStore.ts"

// -- states

export const beginPrewarm = (state: PrewarmState): Result.Result<PrewarmState, LfcBusy> =>
  state.status === "prewarming"
    ? Result.fail(new LfcBusy({ what: "prewarm" }))
    : Result.succeed({ status: "prewarming" })

export const beginOffload = (state: OffloadState): Result.Result<OffloadState, LfcBusy> =>
  state.status === "offloading"
    ? Result.fail(new LfcBusy({ what: "prewarm offload" }))
    : Result.succeed({ status: "offloading" })

/** A cache that is half loaded, or was never loaded because that failed, must not overwrite a better map. */
export const isWorthSaving = (state: PrewarmState): boolean =>
  state.status === "completed" || state.status === "not_prewarmed" || state.status === "skipped"

// -- service

export class Lfc extends Context.Service<
  Lfc,
  {
    /** Accepted, not done. `null`: the map of this compute's own endpoint. */
    readonly prewarm: (fromEndpoint: string | null) => Effect.Effect<void, LfcBusy>
    readonly prewarmState: Effect.Effect<PrewarmState>
    /** At any stage of it. Later prewarms are not affected. */
    readonly cancelPrewarm: Effect.Effect<void>
    /** Accepted, not done. */
    readonly offload: Effect.Effect<void, LfcBusy>
    readonly offloadState: Effect.Effect<OffloadState>
  }
>()("compute/lfc/Lfc") {
  static readonly layer = (limits: StoreLimits = defaultLimits): Layer.Layer<Lfc, never, Admin | ComputeState> =>
    Layer.effect(Lfc, make(limits))
}

const outcomes = {
  prewarm: { begun: counters.prewarms, failed: counters.prewarmErrors },
  offload: { begun: counters.offloads, failed: counters.offloadErrors }
} as const

type LfcFailure = StoreFailure | WireFailed | TimedOut

const describe = (failure: LfcFailure): string => {
  if ("_tag" in failure) return explain(failure)
  return failure.cause === undefined ? failure.detail : [failure.detail, ...causesOf(failure.cause)].join(": ")
}

/** A result and the milliseconds it took. */
const timed = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<readonly [A, number], E> =>
  Effect.gen(function* () {
    const from = yield* Clock.currentTimeMillis
    const value = yield* effect
    return [value, (yield* Clock.currentTimeMillis) - from] as const
  })

const zstd = {
  compress: (data: Uint8Array) => promisify<zlib.InputType, NonSharedBuffer>(zlib.zstdCompress)(data),
  decompress: (data: Uint8Array, options: zlib.ZstdOptions) =>
    promisify<zlib.InputType, zlib.ZstdOptions, NonSharedBuffer>(zlib.zstdDecompress)(data, options)
}

const transcode = (
  what: "compressed" | "decompressed",
  work: () => Promise<NonSharedBuffer>
): Effect.Effect<Buffer<ArrayBuffer>, StoreFailure> =>
  Effect.tryPromise({
    try: work,
    catch: (cause): StoreFailure => ({ detail: `the map could not be ${what}`, retryable: false, cause })
  })

const locate = (spec: ParsedSpec | null, fromEndpoint: string | null) =>
  Effect.mapError(Effect.fromResult(mapLocation(spec, fromEndpoint)), (detail): StoreFailure => ({
    detail,
    retryable: false
  }))

interface JobOptions<State> {
  readonly what: "prewarm" | "offload"
  readonly initial: State
  readonly begin: (state: State) => Result.Result<State, LfcBusy>
  readonly failed: (error: string) => State
  readonly interrupted: State
}

/** Work that runs in the background, one of its kind at a time, and whose progress is a state. Ends with the scope. */
const makeJob = Effect.fnUntraced(function* <State>(options: JobOptions<State>) {
  const { begin, failed, initial, interrupted, what } = options
  const state = yield* Ref.make(initial)
  const running = yield* FiberHandle.make<void, never>()
  const lock = yield* Semaphore.make(1)

  const report = Effect.fnUntraced(function* (failure: LfcFailure) {
    yield* Metric.update(outcomes[what].failed, 1)
    yield* Effect.logWarning(`the local file cache's ${what} failed: ${describe(failure)}`)
    return failed(describe(failure))
  })
  const start = Effect.fnUntraced(function* (work: Effect.Effect<State, LfcFailure>) {
    yield* Ref.set(state, yield* Effect.fromResult(begin(yield* Ref.get(state))))
    yield* Metric.update(outcomes[what].begun, 1)
    yield* FiberHandle.run(
      running,
      work.pipe(
        Effect.catch(report),
        Effect.flatMap((end) => Ref.set(state, end)),
        Effect.onInterrupt(() => Ref.set(state, interrupted))
      )
    )
  })
  return {
    state: Ref.get(state),
    start: (work: Effect.Effect<State, LfcFailure>) => lock.withPermit(Effect.uninterruptible(start(work))),
    cancel: Effect.flatMap(
      lock.withPermit(Effect.sync(() => FiberHandle.getUnsafe(running))),
      Option.match({ onNone: () => Effect.void, onSome: (fiber) => Effect.asVoid(Fiber.interrupt(fiber)) })
    )
  }
})

const make = Effect.fnUntraced(function* (limits: StoreLimits) {
  const admin = yield* Admin
  const compute = yield* ComputeState
  const prewarming = yield* makeJob<PrewarmState>({
    what: "prewarm",
    initial: { status: "not_prewarmed" },
    begin: beginPrewarm,
    failed: (error) => ({ status: "failed", error }),
    interrupted: { status: "cancelled" }
  })
  const offloading = yield* makeJob<OffloadState>({
    what: "offload",
    initial: { status: "not_offloaded" },
    begin: beginOffload,
    failed: (error) => ({ status: "failed", error }),
    interrupted: { status: "failed", error: "it was interrupted" }
  })

  const load = Effect.fn("Lfc.prewarm")(function* (
    fromEndpoint: string | null
  ): Effect.fn.Return<PrewarmState, LfcFailure> {
    const location = yield* locate((yield* compute.now).spec, fromEndpoint)
    const [packed, state_download_time_ms] = yield* timed(readMap(location, limits))
    if (packed === null) return { status: "skipped" }
    const unpack = transcode("decompressed", () => zstd.decompress(packed, { maxOutputLength: limits.mostBytes }))
    const [map, uncompress_time_ms] = yield* timed(unpack)
    const [pages, prewarm_time_ms] = yield* timed(loadMap(admin, map))
    return { status: "completed", ...pages, state_download_time_ms, uncompress_time_ms, prewarm_time_ms }
  })

  const save = Effect.fn("Lfc.offload")(function* (): Effect.fn.Return<OffloadState, LfcFailure> {
    const location = yield* locate((yield* compute.now).spec, null)
    const [map, state_query_time_ms] = yield* timed(askMap(admin))
    if (map === null) return { status: "skipped" }
    const [packed, compress_time_ms] = yield* timed(transcode("compressed", () => zstd.compress(map)))
    const [, state_upload_time_ms] = yield* timed(writeMap(location, packed, limits))
    return { status: "completed", state_query_time_ms, compress_time_ms, state_upload_time_ms }
  })

  return Lfc.of({
    prewarm: (fromEndpoint) => prewarming.start(load(fromEndpoint)),
    prewarmState: prewarming.state,
    cancelPrewarm: prewarming.cancel,
    offload: offloading.start(save()),
    offloadState: offloading.state
  })
})

/** Right after the start, if the spec wants it. */
export const autoprewarm = Effect.fnUntraced(function* (spec: ParsedSpec) {
  if (!spec.autoprewarm) return
  const lfc = yield* Lfc
  yield* Effect.ignore(lfc.prewarm(null))
})

/** Saves the map periodically, by the interval of the spec of that time; waits while there is none. */
export const lfcActor: Actor<Lfc | ComputeState> = {
  name: "local file cache offload",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    const lfc = yield* Lfc
    const state = yield* ComputeState
    const offloadIfWorthSaving = Effect.gen(function* () {
      const worth = isWorthSaving(yield* lfc.prewarmState) && (yield* state.now).status === "running"
      // Busy: it is being saved right now, which is as good.
      if (worth) yield* Effect.ignore(lfc.offload)
    })
    yield* state.changes.pipe(
      Stream.map(({ spec }) => spec?.offloadLfcIntervalSeconds ?? null),
      Stream.changes,
      Stream.switchMap((seconds) =>
        seconds === null
          ? Stream.never
          : Stream.fromEffectRepeat(Effect.andThen(Effect.sleep(`${seconds} seconds`), offloadIfWorthSaving))
      ),
      Stream.runDrain
    )
  })
}
