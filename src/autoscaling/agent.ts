/**
 * One agent's connection, from the handshake to the Close frame: answers the agent and samples memory in between.
 *
 * Everything it knows dies with it: the next connection starts from the machine's own total. It ends when the agent
 * leaves, is replaced by a newer one, is silent, does not read, or sends only unusable messages; a single unusable
 * message is answered and forgotten.
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
import { explain } from "../errors/policy.ts"
import type { Cgroup, CgroupPolicy } from "./Cgroup.ts"
import { noSamples, thresholdOf } from "./decisions.ts"
import type { FileCache } from "./FileCache.ts"
import { VmMetrics } from "./metrics.ts"
import {
  type AgentMessage,
  negotiate,
  maxUnusableInRow,
  printGreeting,
  printMessage,
  readMessage,
  type MonitorMessage
} from "./protocol.ts"
import { type Connection, manageFileCache, type Memory, type ScaleCommand, scale, sampleMemory } from "./scaling.ts"

/** Warns at most once per `everyMillis`, and then says how many warnings were suppressed. */
export const throttledWarning = (everyMillis: number): ((text: string) => Effect.Effect<void>) => {
  let loggedAt: number | null = null
  let suppressed = 0
  return (text) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      if (loggedAt !== null && now - loggedAt < everyMillis) return Effect.sync(() => void suppressed++)
      const more = suppressed === 0 ? "" : ` (and ${suppressed} like it before)`
      loggedAt = now
      suppressed = 0
      return Effect.logWarning(`${text}${more}`)
    })
}

// -- peer

export type Message = { readonly _tag: "Text"; readonly text: string } | { readonly _tag: "Binary" }

/**
 * The other end of one WebSocket: whole messages in and out, and an orderly close. A peer that sends faster than we
 * receive pauses the socket; sending waits until the kernel has the bytes. `Cause.Done` is the end of the connection,
 * from either side.
 */
export interface Peer {
  /** Its address, for the log. */
  readonly name: string
  /** One taker at a time. */
  readonly receive: Effect.Effect<Message, Cause.Done>
  readonly send: (text: string) => Effect.Effect<void, Cause.Done>
  /** Sends a Close frame, waits a moment for the other side's, then terminates. Does nothing when it has ended. */
  readonly close: (code: number, reason: string) => Effect.Effect<void>
  /** Terminates without a Close frame. */
  readonly drop: () => void
}

/** Messages held before the socket is paused; what one read brought more is held too. */
const highWater = 16
const closeWithin = Duration.seconds(1)

/** A Close frame has room for 123 bytes of reason. */
const closeReasonText = (reason: string): string => reason.replaceAll(/[^ -~]/g, "?").slice(0, 123)

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
  // A frame that breaks the protocol or the size limit is an event here; ws closes with the right code by itself.
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
      // Without reading on, the other side's Close frame would never be seen.
      leaving = true
      inbox.length = 0
      if (socket.isPaused) socket.resume()
      socket.close(code, closeReasonText(reason))
    }).pipe(Effect.timeoutOption(closeWithin), Effect.ensuring(Effect.sync(() => socket.terminate())), Effect.asVoid)

  return { name, receive, send, close, drop: () => socket.terminate() }
}

// -- connection

/** What is the same for every agent. */
export interface AgentOptions {
  /** All memory as the kernel counts it, in bytes; asked of each connection, because memory is plugged in and out. */
  readonly totalMemory: Effect.Effect<number>
  /** `null`: no cgroup is watched, and none was asked for. */
  readonly cgroup: Effect.Effect<Cgroup, CgroupUnusable> | null
  readonly policy: CgroupPolicy
  /** An agent that is refused comes again every five seconds; the log need not have a line for each. */
  readonly warnUnwatchable: (text: string) => Effect.Effect<void>
  /** Asked of each connection. `null`: the file cache is not ours to manage. */
  readonly openCache: Effect.Effect<Effect.Effect<FileCache | null, WireFailed | TimedOut, Scope.Scope> | null>
}

/** The code and reason of our Close frame. */
interface CloseReason {
  readonly code: number
  readonly reason: string
}

const handshakeWithin = Duration.seconds(4)
/** The agent checks our health every five seconds. */
const idleTimeout = Duration.seconds(60)
const sendWithin = Duration.seconds(5)
/** Answers that wait for the socket, and commands that were read: the agent has one under way at a time. */
const outboundCapacity = 64
const commandCapacity = 4
/** A peer that floods us with unusable messages gets a log line this often. */
const warnEveryMillis = 10_000

const agentLeft: CloseReason = { code: 1000, reason: "the agent left" }
const replacedByNewer: CloseReason = { code: 1001, reason: "replaced by a newer connection" }

/** Answers the agent's first message: the state of the new connection, or why it is refused. */
const handshake = Effect.fnUntraced(function* (
  peer: Peer,
  { cgroup, policy, warnUnwatchable, totalMemory }: AgentOptions
) {
  const refuse = (code: number, reason: string) =>
    Effect.as(peer.send(printGreeting(Result.fail(reason))), { code, reason } satisfies CloseReason)
  const first = yield* peer.receive
  const version =
    first._tag === "Text"
      ? negotiate(first.text)
      : Result.fail("Received a binary message instead of a protocol version range")
  if (Result.isFailure(version)) return yield* refuse(1002, version.failure)
  const group = cgroup === null ? null : yield* Effect.result(cgroup)
  if (group !== null && Result.isFailure(group)) {
    yield* warnUnwatchable(`memory cannot be watched (${policy}): ${explain(group.failure)}`)
    // Sent instead of the version: after it, the agent would never learn why it is cut off again and again.
    if (policy === "refuse") return yield* refuse(1011, group.failure.message)
  }
  yield* peer.send(printGreeting(version))
  const greetedAt = yield* Clock.currentTimeMillis
  const total = yield* totalMemory
  const watched = group !== null && Result.isSuccess(group) ? group.success : null
  const unwatchable =
    group !== null && Result.isFailure(group) && policy === "deny-downscales" ? group.failure.detail : null
  return {
    greetedAt,
    cgroup: watched,
    unwatchable,
    total,
    threshold: watched === null ? null : thresholdOf(total),
    samples: noSamples(greetedAt),
    cache: null
  } satisfies Memory
})

const read = Effect.fnUntraced(function* (
  peer: Peer,
  send: (message: MonitorMessage) => Effect.Effect<unknown>,
  commands: Queue.Queue<ScaleCommand>
) {
  const metrics = yield* VmMetrics
  const warn = throttledWarning(warnEveryMillis)
  let unusableInRow = 0
  const take = (parsed: Exclude<AgentMessage, { readonly _tag: "Unusable" }>): Effect.Effect<unknown> => {
    switch (parsed._tag) {
      case "HealthCheck":
        return Effect.andThen(metrics.count("healthChecks"), send({ type: "HealthCheck", id: parsed.id }))
      case "AgentError":
        return Effect.andThen(
          metrics.count("agentErrors"),
          warn(`the agent answers message ${parsed.id} with ${parsed.kind}: ${JSON.stringify(parsed.error)}`)
        )
      case "UpscaleNotification":
      case "DownscaleRequest":
        // When there is no room, nothing more is read: what the agent sends waits its turn, as with the original.
        return Queue.offer(commands, parsed)
    }
  }
  while (true) {
    const message = yield* Effect.timeoutOrElse(peer.receive, {
      duration: idleTimeout,
      orElse: () => Effect.succeed(null)
    })
    if (message === null) return { code: 1001, reason: "nothing was heard for a minute" } satisfies CloseReason
    // The original ignores binary messages too.
    const parsed = message._tag === "Text" ? readMessage(message.text) : null
    if (parsed !== null && parsed._tag !== "Unusable") {
      unusableInRow = 0
      yield* take(parsed)
      continue
    }
    const because = parsed?.because ?? "Received a binary message"
    yield* metrics.count("unusableMessages")
    yield* warn(`the agent sent something unusable: ${because}`)
    if (++unusableInRow >= maxUnusableInRow)
      return { code: 1008, reason: "this is not the agent's protocol" } satisfies CloseReason
    if (parsed !== null) yield* send({ type: "InvalidMessage", error: because, id: parsed.id })
  }
})

const write = Effect.fnUntraced(function* (peer: Peer, outbound: Queue.Queue<string>) {
  while (true) {
    const text = yield* Queue.take(outbound)
    const sent = yield* peer
      .send(text)
      .pipe(Effect.as(true), Effect.timeoutOrElse({ duration: sendWithin, orElse: () => Effect.succeed(false) }))
    if (!sent) return { code: 1008, reason: "the agent does not read" } satisfies CloseReason
  }
})

const runConnection = Effect.fnUntraced(function* (peer: Peer, memory: Memory, options: AgentOptions) {
  const openCache = yield* options.openCache
  const outbound = yield* Queue.bounded<string>(outboundCapacity)
  const commands = yield* Queue.bounded<ScaleCommand>(commandCapacity)
  const send = (message: MonitorMessage) => Queue.offer(outbound, printMessage(message))
  const connection: Connection = {
    memory,
    send,
    trySend: (message) => Queue.offerUnsafe(outbound, printMessage(message)),
    resizeLock: yield* Semaphore.make(1)
  }
  const gone = { onSuccess: (ending: CloseReason) => ending, onFailure: () => agentLeft }
  return yield* Effect.raceAllFirst([
    Effect.match(read(peer, send, commands), gone),
    Effect.match(write(peer, outbound), gone),
    scale(connection, commands),
    sampleMemory(connection),
    openCache === null ? Effect.never : manageFileCache(connection, openCache)
  ])
})

/** Lives as long as the connection. `replaced` completes when a newer agent has come. */
export const serveAgent = Effect.fn("Vm.serveAgent")(
  function* (
    peer: Peer,
    replaced: Effect.Effect<void>,
    options: AgentOptions
  ): Effect.fn.Return<void, never, VmMetrics> {
    const metrics = yield* VmMetrics
    yield* metrics.count("connections")
    yield* metrics.count("connected")
    const conversation = Effect.gen(function* () {
      const outcome = yield* handshake(peer, options).pipe(
        Effect.catch(() => Effect.succeed(agentLeft)),
        Effect.timeoutOrElse({
          duration: handshakeWithin,
          orElse: () => Effect.succeed<CloseReason>({ code: 1002, reason: "no handshake within four seconds" })
        })
      )
      if ("code" in outcome) {
        yield* metrics.count("refused")
        return outcome
      }
      yield* Effect.logInfo(`an autoscaler agent has connected from ${peer.name}`)
      yield* metrics.note({ thresholdBytes: outcome.threshold })
      return yield* runConnection(peer, outcome, options)
    })
    const ending = yield* Effect.raceFirst(conversation, Effect.as(replaced, replacedByNewer))
    if (ending === replacedByNewer) yield* metrics.count("replaced")
    yield* Effect.logInfo(`the connection of the agent ${peer.name} ends: ${ending.reason}`)
    yield* peer.close(ending.code, ending.reason)
  },
  (effect, peer) =>
    Effect.ensuring(
      effect,
      Effect.gen(function* () {
        // Only news when we were interrupted: the compute is ending, or the monitor is restarted.
        yield* peer.close(1001, "the monitor is going away")
        yield* (yield* VmMetrics).count("connected", -1)
      })
    )
)
