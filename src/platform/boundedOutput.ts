/**
 * Writes to a stream whose reader may be slow, stopped or gone, without holding up who writes and without filling
 * memory: what does not fit into a bounded buffer is dropped, and counted.
 *
 * Two kinds of text share the buffer in the order they came. `offer` is for what others produce in any amount
 * (Postgres's log): it waits while the reader makes progress, so that a slow reader loses nothing, and drops once the
 * reader has taken nothing for a while. `write` is for the program's own lines: it never waits, and has a reserve.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { Writable } from "node:stream"

export interface BoundedOutput {
  readonly write: (text: string) => void
  /** Completes when the text is buffered, or dropped. Whole lines only; they are what is counted. */
  readonly offer: (text: string) => Effect.Effect<void>
  readonly state: () => OutputState
  /** Until all is written; gives up at once when the reader takes nothing. */
  readonly flush: Effect.Effect<void>
}

interface OutputState {
  /** Lines that were offered and dropped, ever. */
  readonly droppedOffers: number
  /** Lines of the program's own that were dropped, ever. */
  readonly droppedWrites: number
  /** The buffer was full and the reader took nothing; over with the next byte it takes. */
  readonly stalled: boolean
}

interface OutputLimits {
  /** Bytes. */
  readonly buffer: number
  /** Bytes beyond the buffer that only `write` may use. */
  readonly reserve: number
  /** A reader that takes nothing for so long has stopped. */
  readonly patience: Duration.Input
}

const defaultLimits: OutputLimits = { buffer: 8 << 20, reserve: 1 << 20, patience: "1 second" }

/** Bytes that are given to the stream at a time: the smaller, the sooner progress shows. */
const portion = 64 * 1024
/** How long `flush` waits for a reader that takes nothing, and how long in all. */
const flushPatience = Duration.millis(500)
const flushWithin = Duration.seconds(3)

const newline = 10
const linesIn = (chunk: Uint8Array): number => chunk.reduce((count, byte) => (byte === newline ? count + 1 : count), 0)

/** What waits to be written, given to the stream a portion at a time; the next one when it has taken the last. */
const makeBuffer = (stream: () => Writable, onProgress: () => void) => {
  const queue: Array<Buffer> = []
  let bytes = 0
  let inFlight = false

  const nextPortion = (): Buffer => {
    let [count, size] = [0, 0]
    for (const chunk of queue) {
      if (count > 0 && size + chunk.length > portion) break
      count += 1
      size += chunk.length
    }
    const chunks = queue.splice(0, count)
    return chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks)
  }

  const pump = () => {
    while (!inFlight && queue.length > 0) {
      const chunk = nextPortion()
      const out = stream()
      const done = () => {
        inFlight = false
        bytes -= chunk.length
        onProgress()
      }
      let taken = false
      inFlight = true
      out.write(chunk, () => {
        if (taken) return
        done()
        pump()
      })
      // A pipe with room, and a file, take it within the call; `process.exit` may be the next thing that happens.
      if (out.writableLength > 0) return
      taken = true
      done()
    }
  }

  return {
    push: (chunk: Buffer) => {
      queue.push(chunk)
      bytes += chunk.length
      pump()
    },
    isEmpty: () => bytes === 0,
    hasRoom: (chunk: Buffer, within: number) => bytes === 0 || bytes + chunk.length <= within
  }
}

/** `stream` is called when the first text comes. */
export const boundedOutput = (stream: () => Writable, limits: OutputLimits = defaultLimits): BoundedOutput => {
  let waiting: ReadonlyArray<() => void> = []
  let [stalled, droppedOffers, droppedWrites] = [false, 0, 0]
  const buffer = makeBuffer(stream, () => {
    stalled = false
    const woken = waiting
    // Before they are woken: they may wait again at once.
    waiting = []
    for (const wake of woken) wake()
  })

  /** False when the reader took nothing for so long. */
  const progressWithin = (duration: Duration.Input) =>
    Effect.callback<void>((resume) => {
      const wake = () => resume(Effect.void)
      waiting = [...waiting, wake]
      return Effect.sync(() => void (waiting = waiting.filter((one) => one !== wake)))
    }).pipe(Effect.timeoutOption(duration), Effect.map(Option.isSome))

  const offer = Effect.fnUntraced(function* (text: string) {
    const chunk = Buffer.from(text)
    while (!buffer.hasRoom(chunk, limits.buffer)) {
      if (!stalled && (yield* progressWithin(limits.patience))) continue
      // The reader may have gone on in the very moment in which the patience ended.
      if (buffer.hasRoom(chunk, limits.buffer)) break
      stalled = true
      droppedOffers += linesIn(chunk)
      return
    }
    buffer.push(chunk)
  })

  const flush = Effect.gen(function* () {
    while (!buffer.isEmpty() && !stalled) if (!(yield* progressWithin(flushPatience))) return
  }).pipe(Effect.timeoutOption(flushWithin), Effect.asVoid)

  return {
    write: (text) => {
      const chunk = Buffer.from(text)
      if (buffer.hasRoom(chunk, limits.buffer + limits.reserve)) buffer.push(chunk)
      else droppedWrites += linesIn(chunk)
    },
    offer,
    state: () => ({ droppedOffers, droppedWrites, stalled }),
    flush
  }
}

/** Our own stderr. One that is closed takes everything and keeps nothing: Postgres must not die of that. */
export const standardError: BoundedOutput = boundedOutput(() => {
  if (!process.stderr.listeners("error").includes(ignored)) process.stderr.on("error", ignored)
  return process.stderr
})
const ignored = (): void => {}
