/**
 * The other end of one WebSocket: whole messages in and out, and an orderly close. Knows nothing of what they say.
 *
 * Reading faster than we take pauses the socket; sending waits until the kernel has the bytes. `Cause.Done` is the
 * end of the connection, from either side.
 */
import type * as NodeWS from "@effect/platform-node/NodeWS"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

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
    return Effect.sync(() => wake = undefined)
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
