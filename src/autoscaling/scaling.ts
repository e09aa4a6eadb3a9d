/**
 * Carries out what the agent commands: more memory is confirmed, less is granted or denied, and the file cache follows.
 *
 * One order at a time, each answered well before the agent stops waiting. An order that fails half-way leaves the
 * threshold alone; the agent asks again. A file cache that cannot be reached is done without until it can be.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import type * as Semaphore from "effect/Semaphore"
import { CgroupUnusable, TimedOut, type WireFailed } from "../errors/Failure.ts"
import { reasonOf } from "./agent.ts"
import type { Cgroup } from "./Cgroup.ts"
import {
  addSample,
  cacheSizeOf,
  grantedStatus,
  judgeDownscale,
  MiB,
  printMib,
  type Samples,
  type Target,
  targetOf,
  untilNextSample,
  wantsMore,
  type Watch
} from "./decisions.ts"
import type { FileCache } from "./FileCache.ts"
import { VmTally } from "./metrics.ts"
import { firstOwnId, type Heard, nextOwnId, type Said } from "./protocol.ts"

/** What one connection knows. Mutable on purpose: it has one owner, and dies with the connection. */
export interface Memory {
  readonly greetedAt: number
  readonly cgroup: Cgroup | null
  /** Why the cgroup that should be watched is not. */
  readonly blind: string | null
  /** Memory to plan with: the kernel's total, then what the last order left. */
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
  readonly say: (said: Said) => Effect.Effect<unknown>
  /** Says it if there is room. */
  readonly trySay: (said: Said) => boolean
  /** Whoever sets sizes has it. */
  readonly turn: Semaphore.Semaphore
}

export type Order = Extract<Heard, { readonly _tag: "UpscaleNotification" | "DownscaleRequest" }>

/** The agent waits five seconds for an answer. */
const orderWithin = Duration.seconds(4)
const cacheAgain = Duration.seconds(5)

const watchOf = ({ blind, samples, threshold }: Memory): Watch =>
  blind !== null
    ? { _tag: "Blind", because: blind }
    : threshold === null
      ? { _tag: "Off" }
      : { _tag: "Seen", samples, threshold }

const inTime = <A, E, R>(what: string, effect: Effect.Effect<A, E, R>) =>
  Effect.timeoutOrElse(effect, {
    duration: orderWithin,
    orElse: () => Effect.fail(new TimedOut({ what, millis: Duration.toMillis(orderWithin) }))
  })

/** The file cache first: if that fails, the threshold stays. Tells what was really set. */
const set = Effect.fnUntraced(function* ({ memory }: Connection, target: Target) {
  const tally = yield* VmTally
  const wanted = target.cacheBytes
  const actual = wanted === null || memory.cache === null ? null : yield* memory.cache.resize(wanted)
  if (actual !== null && actual !== wanted) {
    yield* Effect.logWarning(
      `the file cache is limited to ${printMib(actual)} MiB; ${printMib(wanted ?? 0)} MiB were meant for it`
    )
  }
  memory.total = target.usable
  if (target.threshold !== null) memory.threshold = target.threshold
  yield* tally.note({ thresholdBytes: memory.threshold, ...(actual === null ? {} : { cacheBytes: actual }) })
  return actual
})

const upscale = Effect.fnUntraced(function* (connection: Connection, { id, mem }: Order) {
  const tally = yield* VmTally
  const { memory, say } = connection
  const watch = watchOf(memory)
  const target = targetOf(mem, watch, memory.cache !== null)
  const before = memory.threshold
  const actual = watch._tag !== "Seen" && memory.cache === null ? null : yield* set(connection, target)
  yield* tally.count("upscalesConfirmed")
  const status = grantedStatus(target, actual, before)
  yield* Effect.logInfo(`upscale to ${printMib(mem)} MiB confirmed: ${status === "" ? "nothing to set" : status}`)
  if (target.threshold === 0)
    yield* Effect.logWarning(`${printMib(mem)} MiB leave nothing to plan with; more will be asked for at once`)
  yield* say({ type: "UpscaleConfirmation", id })
})

const downscale = Effect.fnUntraced(function* (connection: Connection, { id, mem }: Order) {
  const tally = yield* VmTally
  const { memory, say } = connection
  const verdict = judgeDownscale(mem, watchOf(memory), memory.cache !== null, yield* Clock.currentTimeMillis)
  const answer = Effect.fnUntraced(function* (ok: boolean, status: string) {
    yield* tally.count(ok ? "downscalesGranted" : "downscalesDenied")
    yield* Effect.logInfo(`downscale to ${printMib(mem)} MiB ${ok ? "granted" : "denied"}: ${status}`)
    yield* say({ type: "DownscaleResult", Ok: ok, Status: status, id })
  })
  switch (verdict._tag) {
    case "Idle":
      return yield* answer(true, verdict.status)
    case "Deny":
      return yield* answer(false, verdict.status)
    case "Unknown":
      return yield* new CgroupUnusable({ cgroup: memory.cgroup?.folder ?? "", detail: verdict.because })
    case "Grant": {
      const before = memory.threshold
      const actual = yield* set(connection, verdict.target)
      return yield* answer(true, grantedStatus(verdict.target, actual, before))
    }
  }
})

/** Works on commands for as long as the connection lives. */
export const scale = Effect.fnUntraced(function* (connection: Connection, commands: Queue.Dequeue<Order>) {
  const tally = yield* VmTally
  const { say, turn } = connection
  while (true) {
    const order = yield* Queue.take(commands)
    const more = order._tag === "UpscaleNotification"
    const what = more ? "an upscale" : "a downscale"
    const work = more ? upscale(connection, order) : downscale(connection, order)
    yield* inTime(`working on ${what}`, turn.withPermit(work)).pipe(
      Effect.catch((error) =>
        Effect.gen(function* () {
          yield* tally.count(more ? "upscalesFailed" : "downscalesFailed")
          yield* Effect.logError(`${what} to ${printMib(order.mem)} MiB failed: ${reasonOf(error)}`)
          yield* say({
            type: "InternalError",
            error: more ? "failed to handle upscale" : "failed to downscale",
            id: order.id
          })
        })
      )
    )
  }
})

/** Opens the file cache, sets it to what the memory of now asks for, and keeps it; tries again until that is done. */
export const keepCache = Effect.fnUntraced(function* (
  { memory, turn }: Connection,
  openCache: Effect.Effect<FileCache | null, WireFailed | TimedOut, Scope.Scope>
) {
  const tally = yield* VmTally
  const begin = Effect.gen(function* () {
    const cache = yield* inTime("opening the file cache", openCache)
    if (cache === null) return yield* Effect.logInfo("this Postgres has no file cache to manage")
    yield* turn.withPermit(
      Effect.gen(function* () {
        // From now on it is ours: should it not obey, the next order shall fail instead of passing it by.
        memory.cache = cache
        const actual = yield* inTime("setting the file cache", cache.resize(cacheSizeOf(memory.total)))
        yield* tally.note({ cacheBytes: actual })
        const from = printMib(cache.found)
        yield* Effect.logInfo(
          `file cache set from ${from} MiB to ${printMib(actual)} MiB, of total ${Math.floor(memory.total / MiB)} MiB`
        )
      }).pipe(Effect.catch((error) => Effect.logError(`the file cache could not be set: ${reasonOf(error)}`)))
    )
  })
  const keep = Effect.scoped(Effect.andThen(begin, Effect.never))
  let failures = 0
  while (true) {
    yield* Effect.catch(keep, (error) =>
      failures++ === 0
        ? Effect.logWarning(`the file cache is left alone until Postgres lets us manage it: ${reasonOf(error)}`)
        : Effect.logDebug(`the file cache still cannot be managed: ${reasonOf(error)}`)
    )
    yield* Effect.sleep(cacheAgain)
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// Looks at the cgroup's memory ten times a second and asks the agent for more when it is getting full.
//
// A look that fails is counted and told once, and the connection goes on: after five seconds without a sample,
// downscales cannot be judged.
// ---------------------------------------------------------------------------------------------------------------------

/** A kernel that is busy enough to need this long is told as a failed look. */
const lookWithin = Duration.seconds(1)
/** At its maximum a VM asks once a second for ever; the log hears of it this often. */
const tellEvery = 15_000

const look = ({ anonymous }: Cgroup) =>
  Effect.result(
    Effect.timeoutOrElse(anonymous, {
      duration: lookWithin,
      orElse: () =>
        Effect.fail(
          new TimedOut({ what: "looking at the memory of the cgroup", millis: Duration.toMillis(lookWithin) })
        )
    })
  )

/** Asks for more if that is due, at most once a second. */
const asker = ({ memory, trySay }: Connection) => {
  let id = firstOwnId
  let askedAt: number | null = null
  let toldAt: number | null = null
  return Effect.fnUntraced(function* () {
    const tally = yield* VmTally
    const {
      greetedAt,
      samples: { mean },
      threshold
    } = memory
    const now = yield* Clock.currentTimeMillis
    if (threshold === null || !wantsMore({ mean, threshold, now, greetedAt, askedAt })) return
    if (!trySay({ type: "UpscaleRequest", id })) return
    askedAt = now
    id = nextOwnId(id)
    yield* tally.count("upscaleRequests")
    const tell = toldAt === null || now - toldAt >= tellEvery
    if (tell) toldAt = now
    yield* (tell ? Effect.logInfo : Effect.logDebug)(
      `asking for more memory: ${printMib(mean)} MiB are in use, the threshold is ${printMib(threshold)} MiB`
    )
  })
}

/** Without a cgroup there is nothing to look at, for ever. */
export const watchMemory = Effect.fnUntraced(function* (
  connection: Connection
): Effect.fn.Return<never, never, VmTally> {
  const tally = yield* VmTally
  const { memory } = connection
  const { cgroup } = memory
  if (cgroup === null) return yield* Effect.never
  const ask = asker(connection)
  const startedAt = yield* Clock.currentTimeMillis
  let failing = false
  while (true) {
    const looked = yield* look(cgroup)
    const now = yield* Clock.currentTimeMillis
    if (looked._tag === "Success") {
      memory.samples = addSample(memory.samples, looked.success, now)
      yield* tally.count("samples")
      yield* tally.note({ meanBytes: memory.samples.mean })
      if (failing) yield* Effect.logInfo("the memory of the cgroup can be read again")
      failing = false
      yield* ask()
    } else {
      yield* tally.count("sampleFailures")
      if (!failing) yield* Effect.logError(`no sample of the memory in use: ${reasonOf(looked.failure)}`)
      failing = true
    }
    yield* Effect.sleep(Duration.millis(untilNextSample(startedAt, now)))
  }
})
