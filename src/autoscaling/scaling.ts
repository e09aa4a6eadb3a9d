/**
 * Carries out what the agent commands: more memory is confirmed, less is granted or denied, and the file cache follows.
 *
 * One command at a time, each answered well before the agent stops waiting. A command that fails half-way leaves the
 * threshold alone; the agent asks again. A file cache that cannot be reached is done without until it can be.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type * as Semaphore from "effect/Semaphore"
import { CgroupUnusable, type TimedOut, type WireFailed } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { within } from "../errors/within.ts"
import type { Cgroup } from "./Cgroup.ts"
import {
  addSample,
  cacheSizeOf,
  grantedStatus,
  decideDownscale,
  MiB,
  printMib,
  type Samples,
  type Target,
  targetOf,
  untilNextSample,
  wantsMore,
  type MemoryWatch
} from "./decisions.ts"
import type { FileCache } from "./FileCache.ts"
import { VmMetrics } from "./metrics.ts"
import { firstOwnId, type AgentMessage, nextOwnId, type MonitorMessage } from "./protocol.ts"

/** What one connection knows. Mutable on purpose: it has one owner, and dies with the connection. */
export interface Memory {
  readonly greetedAt: number
  readonly cgroup: Cgroup | null
  /** Why the cgroup that should be watched is not. */
  readonly unwatchable: string | null
  /** Memory to plan with: the kernel's total, then what the last command left. */
  total: number
  /** `null` without a cgroup. */
  threshold: number | null
  samples: Samples
  /** `null`: not managed, or not reached yet. */
  cache: FileCache | null
}

export interface Connection {
  readonly memory: Memory
  /** Waits for room among the answers that are on their way. */
  readonly send: (message: MonitorMessage) => Effect.Effect<unknown>
  /** Sends it if there is room; false: there was none. */
  readonly trySend: (message: MonitorMessage) => boolean
  /** Held while sizes are set. */
  readonly resizeLock: Semaphore.Semaphore
}

export type ScaleCommand = Extract<AgentMessage, { readonly _tag: "UpscaleNotification" | "DownscaleRequest" }>

/** The agent waits five seconds for an answer. */
const commandWithin = Duration.seconds(4)
const retryFileCacheAfter = Duration.seconds(5)

const watchOf = ({ unwatchable, samples, threshold }: Memory): MemoryWatch =>
  unwatchable !== null
    ? { _tag: "Unwatchable", because: unwatchable }
    : threshold === null
      ? { _tag: "Off" }
      : { _tag: "Watched", samples, threshold }

/** The file cache first: if that fails, the threshold stays. Answers what was really set. */
const set = Effect.fnUntraced(function* ({ memory }: Connection, target: Target) {
  const metrics = yield* VmMetrics
  const wanted = target.cacheBytes
  const actual = wanted === null || memory.cache === null ? null : yield* memory.cache.resize(wanted)
  if (actual !== null && actual !== wanted) {
    yield* Effect.logWarning(
      `the file cache is limited to ${printMib(actual)} MiB; ${printMib(wanted ?? 0)} MiB were meant for it`
    )
  }
  memory.total = target.usable
  if (target.threshold !== null) memory.threshold = target.threshold
  yield* metrics.note({ thresholdBytes: memory.threshold, ...(actual === null ? {} : { cacheBytes: actual }) })
  return actual
})

const upscale = Effect.fnUntraced(function* (connection: Connection, { id, mem }: ScaleCommand) {
  const metrics = yield* VmMetrics
  const { memory, send } = connection
  const watch = watchOf(memory)
  const target = targetOf(mem, watch, memory.cache !== null)
  const before = memory.threshold
  const actual = watch._tag !== "Watched" && memory.cache === null ? null : yield* set(connection, target)
  yield* metrics.count("upscalesConfirmed")
  const status = grantedStatus(target, actual, before)
  yield* Effect.logInfo(`upscale to ${printMib(mem)} MiB confirmed: ${status === "" ? "nothing to set" : status}`)
  if (target.threshold === 0)
    yield* Effect.logWarning(`${printMib(mem)} MiB leave nothing to plan with; more will be asked for at once`)
  yield* send({ type: "UpscaleConfirmation", id })
})

const downscale = Effect.fnUntraced(function* (connection: Connection, { id, mem }: ScaleCommand) {
  const metrics = yield* VmMetrics
  const { memory, send } = connection
  const decision = decideDownscale(mem, watchOf(memory), memory.cache !== null, yield* Clock.currentTimeMillis)
  const answer = Effect.fnUntraced(function* (ok: boolean, status: string) {
    yield* metrics.count(ok ? "downscalesGranted" : "downscalesDenied")
    yield* Effect.logInfo(`downscale to ${printMib(mem)} MiB ${ok ? "granted" : "denied"}: ${status}`)
    yield* send({ type: "DownscaleResult", Ok: ok, Status: status, id })
  })
  switch (decision._tag) {
    case "Idle":
      return yield* answer(true, decision.status)
    case "Deny":
      return yield* answer(false, decision.status)
    case "Unknown":
      return yield* new CgroupUnusable({ cgroup: memory.cgroup?.folder ?? "", detail: decision.because })
    case "Grant": {
      const before = memory.threshold
      const actual = yield* set(connection, decision.target)
      return yield* answer(true, grantedStatus(decision.target, actual, before))
    }
  }
})

/** Works on commands for as long as the connection lives. */
export const scale = Effect.fnUntraced(function* (connection: Connection, commands: Queue.Dequeue<ScaleCommand>) {
  const metrics = yield* VmMetrics
  const { send, resizeLock } = connection
  while (true) {
    const command = yield* Queue.take(commands)
    const more = command._tag === "UpscaleNotification"
    const what = more ? "an upscale" : "a downscale"
    const work = more ? upscale(connection, command) : downscale(connection, command)
    yield* resizeLock.withPermit(work).pipe(
      within(`working on ${what}`, commandWithin),
      Effect.catch((error) =>
        Effect.gen(function* () {
          yield* metrics.count(more ? "upscalesFailed" : "downscalesFailed")
          yield* Effect.logError(`${what} to ${printMib(command.mem)} MiB failed: ${explain(error)}`)
          yield* send({
            type: "InternalError",
            error: more ? "failed to handle upscale" : "failed to downscale",
            id: command.id
          })
        })
      )
    )
  }
})

/** Opens the file cache, sets it to what the memory of now asks for, and keeps it; tries again until that is done. */
export const manageFileCache = Effect.fnUntraced(function* (
  { memory, resizeLock }: Connection,
  openCache: Effect.Effect<FileCache | null, WireFailed | TimedOut, Scope.Scope>
) {
  const metrics = yield* VmMetrics
  const open = Effect.gen(function* () {
    const cache = yield* openCache.pipe(within("opening the file cache", commandWithin))
    if (cache === null) return yield* Effect.logInfo("this Postgres has no file cache to manage")
    yield* resizeLock.withPermit(
      Effect.gen(function* () {
        // From now on it is ours: if it cannot be set, the next command fails instead of skipping it.
        memory.cache = cache
        const actual = yield* cache
          .resize(cacheSizeOf(memory.total))
          .pipe(within("setting the file cache", commandWithin))
        yield* metrics.note({ cacheBytes: actual })
        const from = printMib(cache.found)
        yield* Effect.logInfo(
          `file cache set from ${from} MiB to ${printMib(actual)} MiB, of total ${Math.floor(memory.total / MiB)} MiB`
        )
      }).pipe(Effect.catch((error) => Effect.logError(`the file cache could not be set: ${explain(error)}`)))
    )
  })
  let failures = 0
  return yield* Effect.scoped(Effect.andThen(open, Effect.never)).pipe(
    Effect.tapError((error) =>
      failures++ === 0
        ? Effect.logWarning(`the file cache is left alone until Postgres lets us manage it: ${explain(error)}`)
        : Effect.logDebug(`the file cache still cannot be managed: ${explain(error)}`)
    ),
    Effect.retry(Schedule.spaced(retryFileCacheAfter)),
    // The schedule has no end.
    Effect.orDie
  )
})

// -- sampling

/** A kernel so busy that it needs longer than this counts as a failed read. */
const readWithin = Duration.seconds(1)
/** A VM at its maximum asks once a second for ever; the log has a line this often. */
const logEveryMillis = 15_000

const readMemory = ({ anonymous }: Cgroup) =>
  Effect.result(anonymous.pipe(within("looking at the memory of the cgroup", readWithin)))

/** Asks for more if that is due, at most once a second. */
const upscaleRequester = ({ memory, trySend }: Connection) => {
  let id = firstOwnId
  let askedAt: number | null = null
  let loggedAt: number | null = null
  return Effect.fnUntraced(function* () {
    const metrics = yield* VmMetrics
    const {
      greetedAt,
      samples: { mean },
      threshold
    } = memory
    const now = yield* Clock.currentTimeMillis
    if (threshold === null || !wantsMore({ mean, threshold, now, greetedAt, askedAt })) return
    if (!trySend({ type: "UpscaleRequest", id })) return
    askedAt = now
    id = nextOwnId(id)
    yield* metrics.count("upscaleRequests")
    const log = loggedAt === null || now - loggedAt >= logEveryMillis
    if (log) loggedAt = now
    yield* (log ? Effect.logInfo : Effect.logDebug)(
      `asking for more memory: ${printMib(mean)} MiB are in use, the threshold is ${printMib(threshold)} MiB`
    )
  })
}

/**
 * Reads the cgroup's memory ten times a second and asks the agent for more when it is getting full. Without a cgroup it
 * does nothing, for ever. A read that fails is counted and logged once, and the connection goes on: after five seconds
 * without a sample, downscales cannot be decided.
 */
export const sampleMemory = Effect.fnUntraced(function* (
  connection: Connection
): Effect.fn.Return<never, never, VmMetrics> {
  const metrics = yield* VmMetrics
  const { memory } = connection
  const { cgroup } = memory
  if (cgroup === null) return yield* Effect.never
  const requestUpscale = upscaleRequester(connection)
  const startedAt = yield* Clock.currentTimeMillis
  let failing = false
  while (true) {
    const sample = yield* readMemory(cgroup)
    const now = yield* Clock.currentTimeMillis
    if (sample._tag === "Success") {
      memory.samples = addSample(memory.samples, sample.success, now)
      yield* metrics.count("samples")
      yield* metrics.note({ meanBytes: memory.samples.mean })
      if (failing) yield* Effect.logInfo("the memory of the cgroup can be read again")
      failing = false
      yield* requestUpscale()
    } else {
      yield* metrics.count("sampleFailures")
      if (!failing) yield* Effect.logError(`no sample of the memory in use: ${explain(sample.failure)}`)
      failing = true
    }
    yield* Effect.sleep(Duration.millis(untilNextSample(startedAt, now)))
  }
})
