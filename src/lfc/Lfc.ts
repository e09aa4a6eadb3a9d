/**
 * Loads the local file cache from the map that an earlier compute saved, and saves its own (reference section 11.7).
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
import type * as Redacted from "effect/Redacted"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { promisify } from "node:util"
import * as zlib from "node:zlib"
import type { OffloadState, PrewarmState } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { LfcBusy, type TimedOut, type WireFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { askMap, loadMap } from "./cacheSql.ts"
import { readMap, storeDefaults, type StorePatience, type Trouble, writeMap } from "./mapStore.ts"

// ---------------------------------------------------------------------------------------------------------------------
// The local file cache between two computes: its states, what they look like to HTTP, and where its map is kept
// (reference section 11.7). Moves nothing.
//
// A prewarm or an offload may be repeated, but there is never more than one of each.
// ---------------------------------------------------------------------------------------------------------------------

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

export interface MapPlace {
  readonly url: string
  readonly token: Redacted.Redacted<string>
}

/** Where the map of this endpoint, or of the one named, is kept; or the sentence that says what the spec lacks. */
export const mapPlace = (spec: ParsedSpec | null, fromEndpoint: string | null): Result.Result<MapPlace, string> => {
  if (spec === null) return Result.fail("there is no spec yet")
  const { address, token } = spec.endpointStorage
  const endpoint = fromEndpoint ?? spec.endpointId
  if (address === null) return Result.fail("pspec.endpoint_storage_addr missing")
  if (token === null) return Result.fail("pspec.endpoint_storage_token missing")
  if (endpoint === null || endpoint === "") return Result.fail("pspec.endpoint_id missing")
  const url = `http://${address}/${[spec.tenant, spec.timeline, endpoint].map(encodeURIComponent).join("/")}/lfc_state`
  return URL.canParse(url)
    ? Result.succeed({ url, token })
    : Result.fail("pspec.endpoint_storage_addr is not an address")
}

// ---------------------------------------------------------------------------------------------------------------------

export class Lfc extends Context.Service<
  Lfc,
  {
    /** Accepted, not done. `null`: the map of this compute's own endpoint. */
    readonly prewarm: (fromEndpoint: string | null) => Effect.Effect<void, LfcBusy>
    readonly prewarmState: Effect.Effect<PrewarmState>
    /** In every stage. Later prewarms are not affected. */
    readonly cancelPrewarm: Effect.Effect<void>
    /** Accepted, not done. */
    readonly offload: Effect.Effect<void, LfcBusy>
    readonly offloadState: Effect.Effect<OffloadState>
  }
>()("compute/lfc/Lfc") {
  static readonly layer = (patience: StorePatience = storeDefaults): Layer.Layer<Lfc, never, Admin | ComputeState> =>
    Layer.effect(Lfc, make(patience))
}

const counter = (name: string, description: string) => Metric.counter(name, { description, incremental: true })
const counters = {
  prewarm: {
    begun: counter("compute_ctl_lfc_prewarms_total", "Prewarms of the local file cache"),
    failed: counter("compute_ctl_lfc_prewarm_errors_total", "Prewarms that failed")
  },
  offload: {
    begun: counter("compute_ctl_lfc_offloads_total", "Offloads of the local file cache's map"),
    failed: counter("compute_ctl_lfc_offload_errors_total", "Offloads that failed")
  }
} as const

type Wrong = Trouble | WireFailed | TimedOut

const sentence = (wrong: Wrong): string => {
  if ("_tag" in wrong) return causesOf(wrong).join(": ")
  return wrong.cause === undefined ? wrong.detail : [wrong.detail, ...causesOf(wrong.cause)].join(": ")
}

/** A result and the milliseconds it took. */
const timed = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<readonly [A, number], E> =>
  Effect.gen(function* () {
    const from = yield* Clock.currentTimeMillis
    const value = yield* effect
    return [value, (yield* Clock.currentTimeMillis) - from] as const
  })

const zstd = {
  pack: promisify(zlib.zstdCompress),
  unpack: promisify<zlib.InputType, zlib.ZstdOptions, NonSharedBuffer>(zlib.zstdDecompress)
}

const coded = (what: string, work: () => Promise<NonSharedBuffer>): Effect.Effect<Buffer<ArrayBuffer>, Trouble> =>
  Effect.tryPromise({
    try: work,
    catch: (cause): Trouble => ({ detail: `the map could not be ${what}`, again: false, cause })
  })

const placed = (spec: ParsedSpec | null, fromEndpoint: string | null) =>
  Effect.mapError(Effect.fromResult(mapPlace(spec, fromEndpoint)), (detail): Trouble => ({ detail, again: false }))

const make = Effect.fnUntraced(function* (patience: StorePatience) {
  const admin = yield* Admin
  const state = yield* ComputeState
  const prewarming = yield* Ref.make<PrewarmState>({ status: "not_prewarmed" })
  const offloading = yield* Ref.make<OffloadState>({ status: "not_offloaded" })
  const loader = yield* FiberHandle.make<void, never>()
  const saver = yield* FiberHandle.make<void, never>()
  const turn = yield* Semaphore.make(1)

  const load = Effect.fn("Lfc.prewarm")(function* (fromEndpoint: string | null): Effect.fn.Return<PrewarmState, Wrong> {
    const place = yield* placed((yield* state.now).spec, fromEndpoint)
    const [packed, state_download_time_ms] = yield* timed(readMap(place, patience))
    if (packed === null) return { status: "skipped" }
    const unpack = coded("decompressed", () => zstd.unpack(packed, { maxOutputLength: patience.mostBytes }))
    const [map, uncompress_time_ms] = yield* timed(unpack)
    const [pages, prewarm_time_ms] = yield* timed(loadMap(admin, map))
    return { status: "completed", ...pages, state_download_time_ms, uncompress_time_ms, prewarm_time_ms }
  })

  const save = Effect.fn("Lfc.offload")(function* (): Effect.fn.Return<OffloadState, Wrong> {
    const place = yield* placed((yield* state.now).spec, null)
    const [map, state_query_time_ms] = yield* timed(askMap(admin))
    if (map === null) return { status: "skipped" }
    const [packed, compress_time_ms] = yield* timed(coded("compressed", () => zstd.pack(map)))
    const [, state_upload_time_ms] = yield* timed(writeMap(place, packed, patience))
    return { status: "completed", state_query_time_ms, compress_time_ms, state_upload_time_ms }
  })

  const failed = (what: "prewarm" | "offload") => (wrong: Wrong) =>
    Effect.gen(function* () {
      yield* Metric.update(counters[what].failed, 1)
      yield* Effect.logWarning(`the local file cache's ${what} failed: ${sentence(wrong)}`)
      return { status: "failed", error: sentence(wrong) } as const
    })

  const prewarm = Effect.fnUntraced(function* (fromEndpoint: string | null) {
    yield* Effect.flatMap(Effect.fromResult(beginPrewarm(yield* Ref.get(prewarming))), (next) =>
      Ref.set(prewarming, next)
    )
    yield* Metric.update(counters.prewarm.begun, 1)
    yield* FiberHandle.run(
      loader,
      load(fromEndpoint).pipe(
        Effect.catch(failed("prewarm")),
        Effect.flatMap((end) => Ref.set(prewarming, end)),
        Effect.onInterrupt(() => Ref.set(prewarming, { status: "cancelled" }))
      )
    )
  })

  const offload = Effect.gen(function* () {
    yield* Effect.flatMap(Effect.fromResult(beginOffload(yield* Ref.get(offloading))), (next) =>
      Ref.set(offloading, next)
    )
    yield* Metric.update(counters.offload.begun, 1)
    yield* FiberHandle.run(
      saver,
      save().pipe(
        Effect.catch(failed("offload")),
        Effect.flatMap((end) => Ref.set(offloading, end)),
        Effect.onInterrupt(() => Ref.set(offloading, { status: "failed", error: "it was interrupted" }))
      )
    )
  })

  const begun = (effect: Effect.Effect<void, LfcBusy>) => turn.withPermit(Effect.uninterruptible(effect))
  return Lfc.of({
    prewarm: (fromEndpoint) => begun(prewarm(fromEndpoint)),
    prewarmState: Ref.get(prewarming),
    cancelPrewarm: Effect.flatMap(
      turn.withPermit(Effect.sync(() => FiberHandle.getUnsafe(loader))),
      Option.match({ onNone: () => Effect.void, onSome: (fiber) => Effect.asVoid(Fiber.interrupt(fiber)) })
    ),
    offload: begun(offload),
    offloadState: Ref.get(offloading)
  })
})

/** Right after the start, if the spec wants it. */
export const autoprewarm = Effect.fnUntraced(function* (spec: ParsedSpec) {
  if (!spec.autoprewarm) return
  const lfc = yield* Lfc
  yield* Effect.ignore(lfc.prewarm(null))
})

/** Saves the map periodically, by the interval of the spec of that time; rests while there is none. */
export const lfcActor: Actor<Lfc | ComputeState> = {
  name: "local file cache keeper",
  policy: "permanent",
  run: Effect.gen(function* () {
    const lfc = yield* Lfc
    const state = yield* ComputeState
    const saveIfWorth = Effect.gen(function* () {
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
          : Stream.fromEffectRepeat(Effect.andThen(Effect.sleep(`${seconds} seconds`), saveIfWorth))
      ),
      Stream.runDrain
    )
  })
}
