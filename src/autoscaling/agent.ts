/**
 * One agent's connection, from its first word to our goodbye: greets, answers, samples, and knows when it is over.
 *
 * Everything it knows dies with it: the next connection starts from the machine's own total. It ends when the agent
 * leaves, is replaced by a newer one, is silent, does not read, or speaks nothing but nonsense; a message we cannot
 * use is answered and forgotten.
 */
import type * as NodeWS from "@effect/platform-node/NodeWS"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { CgroupUnusable, TimedOut, WireFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import type { Cgroup, CgroupPolicy } from "./Cgroup.ts"
import { noSamples, thresholdOf } from "./decisions.ts"
import type { FileCache } from "./FileCache.ts"
import { VmTally } from "./metrics.ts"
import { type Heard, negotiate, patience, printGreeting, printMessage, readMessage, type Said } from "./protocol.ts"
import { type Connection, keepCache, type Memory, type Order, scale, watchMemory } from "./scaling.ts"

// ---------------------------------------------------------------------------------------------------------------------
// How the vm-monitor tells what went wrong: on one line, and not more often than a reader can bear.
// ---------------------------------------------------------------------------------------------------------------------

export const reasonOf = (error: unknown): string => causesOf(error).join(": ")

/** Warns at most once in a while, and then says how many lines were kept back. */
export const quietly = (everyMillis: number): ((text: string) => Effect.Effect<void>) => {
  let toldAt: number | null = null
  let kept = 0
  return (text) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      if (toldAt !== null && now - toldAt < everyMillis) return Effect.sync(() => void kept++)
      const more = kept === 0 ? "" : ` (and ${kept} like it before)`
      toldAt = now
      kept = 0
      return Effect.logWarning(`${text}${more}`)
    })
}

// ---------------------------------------------------------------------------------------------------------------------
// The other end of one WebSocket: whole messages in and out, and an orderly close. Knows nothing of what they say.
//
// Reading faster than we take pauses the socket; sending waits until the kernel has the bytes. `Cause.Done` is the
// end of the connection, from either side.
// ---------------------------------------------------------------------------------------------------------------------

export type Message = { readonly _tag: "Text"; readonly text: string } | { readonly _tag: "Binary" }

export interface Peer {
  /** Its address, for people. */
  readonly name: string
  /** One taker at a time. */
  readonly receive: Effect.Effect<Message, Cause.Done>
  readonly send: (text: string) => Effect.Effect<void, Cause.Done>
  /** Says goodbye, waits a moment for the other side's, then cuts. Does nothing once the connection has ended. */
  readonly close: (code: number, reason: string) => Effect.Effect<void>
  /** Cuts without a word. */
  readonly drop: () => void
}

/** Messages held before the socket is paused; what one read brought more is held too. */
const highWater = 16
const farewell = Duration.seconds(1)

/** A Close frame has room for 123 bytes of reason. */
const fitting = (reason: string): string => reason.replaceAll(/[^ -~]/g, "?").slice(0, 123)

/** Listens from now on, so to be made in the same turn in which the socket was opened. */
export const peerOf = (socket: NodeWS.WebSocket, name: string): Peer => {
  const inbox: Array<Message> = []
  let wake: (() => void) | undefined
  let leaving = false
  const open = () => socket.readyState === 1
  const wakeTaker = () => wake?.()
  socket.on("message", (data, isBinary) => {
    if (leaving) return
    inbox.push(isBinary ? { _tag: "Binary" } : { _tag: "Text", text: data.toString() })
    if (inbox.length >= highWater && !socket.isPaused) socket.pause()
    wakeTaker()
  })
  // A frame that breaks the protocol or the size limit is told here; the close with the right code follows by itself.
  socket.on("error", () => undefined)
  socket.once("close", wakeTaker)

  const receive = Effect.callback<Message, Cause.Done>((resume) => {
    const attempt = () => {
      if (!open()) return finish(Cause.done())
      const message = inbox.shift()
      if (message === undefined) return
      if (inbox.length === 0 && socket.isPaused) socket.resume()
      finish(Effect.succeed(message))
    }
    const finish = (effect: Effect.Effect<Message, Cause.Done>) => {
      wake = undefined
      resume(effect)
    }
    wake = attempt
    attempt()
    return Effect.sync(() => (wake = undefined))
  })

  const send = (text: string) =>
    Effect.callback<void, Cause.Done>((resume) => {
      if (!open()) return resume(Cause.done())
      socket.send(text, (failed) => resume(failed ? Cause.done() : Effect.void))
    })

  const close = (code: number, reason: string) =>
    Effect.callback<void>((resume) => {
      if (socket.readyState === 3) return resume(Effect.void)
      socket.once("close", () => resume(Effect.void))
      // Without reading on, the other side's goodbye would never be seen.
      leaving = true
      inbox.length = 0
      if (socket.isPaused) socket.resume()
      socket.close(code, fitting(reason))
    }).pipe(Effect.timeoutOption(farewell), Effect.ensuring(Effect.sync(() => socket.terminate())), Effect.asVoid)

  return { name, receive, send, close, drop: () => socket.terminate() }
}

// ---------------------------------------------------------------------------------------------------------------------

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
/** Answers that wait for the socket, and commands that wait for their turn: the agent has one under way at a time. */
const outboundCapacity = 64
const lanes = 4
/** A peer that floods us with nonsense is told about in the log this often. */
const tellEveryMillis = 10_000

const left: Ending = { code: 1000, reason: "the agent left" }
const replacedBy: Ending = { code: 1001, reason: "replaced by a newer connection" }

/** Whom the agent's first message makes us. */
const greet = Effect.fnUntraced(function* (peer: Peer, { cgroup, policy, tellBlind, totalMemory }: Surroundings) {
  const refuse = (code: number, reason: string) =>
    Effect.as(peer.send(printGreeting(Result.fail(reason))), { code, reason } satisfies Ending)
  const first = yield* peer.receive
  const version =
    first._tag === "Text"
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

const read = Effect.fnUntraced(function* (
  peer: Peer,
  say: (said: Said) => Effect.Effect<unknown>,
  commands: Queue.Queue<Order>
) {
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
        return Queue.offerUnsafe(commands, heard)
          ? Effect.void
          : Effect.andThen(
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

const write = Effect.fnUntraced(function* (peer: Peer, outbound: Queue.Queue<string>) {
  while (true) {
    const text = yield* Queue.take(outbound)
    const sent = yield* peer
      .send(text)
      .pipe(Effect.as(true), Effect.timeoutOrElse({ duration: sendWithin, orElse: () => Effect.succeed(false) }))
    if (!sent) return { code: 1008, reason: "the agent does not read" } satisfies Ending
  }
})

const converse = Effect.fnUntraced(function* (peer: Peer, memory: Memory, { openCache }: Surroundings) {
  const outbound = yield* Queue.bounded<string>(outboundCapacity)
  const commands = yield* Queue.bounded<Order>(lanes)
  const say = (said: Said) => Queue.offer(outbound, printMessage(said))
  const connection: Connection = {
    memory,
    say,
    trySay: (said) => Queue.offerUnsafe(outbound, printMessage(said)),
    turn: yield* Semaphore.make(1)
  }
  const gone = { onSuccess: (ending: Ending) => ending, onFailure: () => left }
  return yield* Effect.raceAllFirst([
    Effect.match(read(peer, say, commands), gone),
    Effect.match(write(peer, outbound), gone),
    scale(connection, commands),
    watchMemory(connection),
    openCache === null ? Effect.never : keepCache(connection, openCache)
  ])
})

/** Lives as long as the connection. `replaced` completes when a newer agent has come. */
export const bridge = Effect.fn("Vm.bridge")(
  function* (
    peer: Peer,
    replaced: Effect.Effect<void>,
    surroundings: Surroundings
  ): Effect.fn.Return<void, never, VmTally> {
    const tally = yield* VmTally
    yield* tally.count("connections")
    yield* tally.count("connected")
    const life = Effect.gen(function* () {
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
  },
  (effect, peer) =>
    Effect.ensuring(
      effect,
      Effect.gen(function* () {
        // Only news when we were interrupted: the compute is ending, or the monitor is restarted.
        yield* peer.close(1001, "the monitor is going away")
        yield* (yield* VmTally).count("connected", -1)
      })
    )
)
