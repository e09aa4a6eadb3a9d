/**
 * One agent's connection, from its first word to our goodbye: greets, answers, samples, and knows when it is over.
 *
 * Everything it knows dies with it: the next connection starts from the machine's own total. It ends when the agent
 * leaves, is replaced by a newer one, is silent, does not read, or speaks nothing but nonsense; a message we cannot
 * use is answered and forgotten.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { CgroupUnusable, TimedOut, WireFailed } from "../errors/Failure.ts"
import type { CgroupPolicy } from "./vmCgroup.ts"
import { noSamples, thresholdOf } from "./vmMemory.ts"
import { type Heard, negotiate, patience, printGreeting, printMessage, readMessage, type Said } from "./protocol.ts"
import type { Cgroup } from "./Cgroup.ts"
import type { FileCache } from "./FileCache.ts"
import type { Peer } from "./Peer.ts"
import { quietly, reasonOf } from "./telling.ts"
import { watchMemory } from "./sampler.ts"
import { type Connection, keepCache, type Memory, type Order, scale } from "./scaling.ts"
import { VmTally } from "./VmTally.ts"

/** What a connection is made of besides the agent. */
export interface Surroundings {
  /** The kernel's idea of all memory, in bytes. */
  readonly totalMemory: number
  /** `null`: no cgroup is watched, and none is missed. */
  readonly cgroup: Effect.Effect<Cgroup, CgroupUnusable> | null
  readonly policy: CgroupPolicy
  /** An agent that is refused comes again every five seconds; the log need not hear of each. */
  readonly tellBlind: (text: string) => Effect.Effect<void>
  /** `null`: the file cache is not ours to manage. */
  readonly openCache: Effect.Effect<FileCache | null, WireFailed | TimedOut, Scope.Scope> | null
}

/** Why a connection is over, and the code and words of our goodbye. */
interface Ending {
  readonly code: number
  readonly reason: string
}

const greetWithin = Duration.seconds(4)
/** The agent checks our health every five seconds. */
const silence = Duration.seconds(60)
const sendWithin = Duration.seconds(5)
/** Answers that wait for the socket, and orders that wait for their turn: the agent has one under way at a time. */
const outboundCapacity = 64
const lanes = 4
/** A peer that floods us with nonsense is told about in the log this often. */
const tellEveryMillis = 10_000

const left: Ending = { code: 1000, reason: "the agent left" }
const replacedBy: Ending = { code: 1001, reason: "replaced by a newer connection" }

/** Whom the agent's first message makes us. */
const greet = Effect.fnUntraced(function*(peer: Peer, { cgroup, policy, tellBlind, totalMemory }: Surroundings) {
  const refuse = (code: number, reason: string) =>
    Effect.as(peer.send(printGreeting(Result.fail(reason))), { code, reason } satisfies Ending)
  const first = yield* peer.receive
  const version = first._tag === "Text"
    ? negotiate(first.text)
    : Result.fail("Received a binary message instead of a protocol version range")
  if (Result.isFailure(version)) return yield* refuse(1002, version.failure)
  const group = cgroup === null ? null : yield* Effect.result(cgroup)
  if (group !== null && Result.isFailure(group)) {
    yield* tellBlind(`memory cannot be watched (${policy}): ${reasonOf(group.failure)}`)
    // Said instead of the version: after it, the agent would never learn why it is cut off again and again.
    if (policy === "refuse") return yield* refuse(1011, group.failure.message)
  }
  yield* peer.send(printGreeting(version))
  const greetedAt = yield* Clock.currentTimeMillis
  const watched = group !== null && Result.isSuccess(group) ? group.success : null
  const blind = group !== null && Result.isFailure(group) && policy === "deny-downscales" ? group.failure.detail : null
  return {
    greetedAt,
    cgroup: watched,
    blind,
    total: totalMemory,
    threshold: watched === null ? null : thresholdOf(totalMemory),
    samples: noSamples(greetedAt),
    cache: null
  } satisfies Memory
})

const read = Effect.fnUntraced(function*(peer: Peer, say: (said: Said) => Effect.Effect<unknown>, orders: Queue.Queue<Order>) {
  const tally = yield* VmTally
  const tell = quietly(tellEveryMillis)
  let strikes = 0
  const take = (heard: Exclude<Heard, { readonly _tag: "Unusable" }>): Effect.Effect<unknown> => {
    switch (heard._tag) {
      case "HealthCheck":
        return Effect.andThen(tally.count("healthChecks"), say({ type: "HealthCheck", id: heard.id }))
      case "Complaint":
        return Effect.andThen(
          tally.count("complaints"),
          tell(`the agent answers message ${heard.id} with ${heard.kind}: ${JSON.stringify(heard.error)}`)
        )
      case "UpscaleNotification":
      case "DownscaleRequest":
        return Queue.offerUnsafe(orders, heard) ? Effect.void : Effect.andThen(
          tell("the agent sends more requests than can be worked on; one was refused"),
          say({ type: "InternalError", error: "too many requests at once", id: heard.id })
        )
    }
  }
  while (true) {
    const message = yield* Effect.timeoutOrElse(peer.receive, { duration: silence, orElse: () => Effect.succeed(null) })
    if (message === null) return { code: 1001, reason: "nothing was heard for a minute" } satisfies Ending
    // The original ignores binary messages too.
    const heard = message._tag === "Text" ? readMessage(message.text) : null
    if (heard !== null && heard._tag !== "Unusable") {
      strikes = 0
      yield* take(heard)
      continue
    }
    const because = heard?.because ?? "Received a binary message"
    yield* tally.count("unusableMessages")
    yield* tell(`the agent sent something unusable: ${because}`)
    if (++strikes >= patience) return { code: 1008, reason: "this is not the agent's protocol" } satisfies Ending
    if (heard !== null) yield* say({ type: "InvalidMessage", error: because, id: heard.id })
  }
})

const write = Effect.fnUntraced(function*(peer: Peer, outbound: Queue.Queue<string>) {
  while (true) {
    const text = yield* Queue.take(outbound)
    const sent = yield* peer.send(text).pipe(
      Effect.as(true),
      Effect.timeoutOrElse({ duration: sendWithin, orElse: () => Effect.succeed(false) })
    )
    if (!sent) return { code: 1008, reason: "the agent does not read" } satisfies Ending
  }
})

const converse = Effect.fnUntraced(function*(peer: Peer, memory: Memory, { openCache }: Surroundings) {
  const outbound = yield* Queue.bounded<string>(outboundCapacity)
  const orders = yield* Queue.bounded<Order>(lanes)
  const say = (said: Said) => Queue.offer(outbound, printMessage(said))
  const connection: Connection = {
    memory,
    say,
    trySay: (said) => Queue.offerUnsafe(outbound, printMessage(said)),
    turn: yield* Semaphore.make(1)
  }
  const gone = { onSuccess: (ending: Ending) => ending, onFailure: () => left }
  return yield* Effect.raceAllFirst([
    Effect.match(read(peer, say, orders), gone),
    Effect.match(write(peer, outbound), gone),
    scale(connection, orders),
    watchMemory(connection),
    openCache === null ? Effect.never : keepCache(connection, openCache)
  ])
})

/** Lives as long as the connection. `replaced` completes when a newer agent has come. */
export const bridge = Effect.fn("Vm.bridge")(function*(
  peer: Peer,
  replaced: Effect.Effect<void>,
  surroundings: Surroundings
): Effect.fn.Return<void, never, VmTally> {
  const tally = yield* VmTally
  yield* tally.count("connections")
  yield* tally.count("connected")
  const life = Effect.gen(function*() {
    const greeted = yield* greet(peer, surroundings).pipe(
      Effect.catch(() => Effect.succeed(left)),
      Effect.timeoutOrElse({
        duration: greetWithin,
        orElse: () => Effect.succeed<Ending>({ code: 1002, reason: "no handshake within four seconds" })
      })
    )
    if ("code" in greeted) {
      yield* tally.count("refused")
      return greeted
    }
    yield* Effect.logInfo(`an autoscaler agent has connected from ${peer.name}`)
    yield* tally.note({ thresholdBytes: greeted.threshold })
    return yield* converse(peer, greeted, surroundings)
  })
  const ending = yield* Effect.raceFirst(life, Effect.as(replaced, replacedBy))
  if (ending === replacedBy) yield* tally.count("replaced")
  yield* Effect.logInfo(`the connection of the agent ${peer.name} ends: ${ending.reason}`)
  yield* peer.close(ending.code, ending.reason)
}, (effect, peer) =>
  Effect.ensuring(
    effect,
    Effect.gen(function*() {
      // Only news when we were interrupted: the compute is ending, or the monitor is restarted.
      yield* peer.close(1001, "the monitor is going away")
      yield* (yield* VmTally).count("connected", -1)
    })
  ))
