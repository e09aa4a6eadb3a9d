/**
 * Reads a whole spec, or what it comes in, as text: from a file, a FIFO or standard input, in a way that never keeps
 * the process from ending.
 *
 * A read that blocks in Node's thread pool also blocks the exit of the process, for ever. So what may block (standard
 * input, FIFOs) is read as a stream. A file on a file system that hangs has no such way: `isBlocked` says that a read
 * is under way, and whoever wants to exit then has to die of a signal.
 */
import * as Effect from "effect/Effect"
import * as FS from "node:fs"
import * as Net from "node:net"
import type { Readable } from "node:stream"
import { type SpecInvalid, SpecUnreadable } from "../errors/Failure.ts"
import { decodeSpecText, maxSpecBytes } from "../spec/json.ts"

let underWay = 0

/** Is a read under way that would keep the process from exiting? */
export const isBlocked = (): boolean => underWay > 0

/** `-` is standard input. Interruption gives the read up. What is no UTF-8, or too long for a spec, is invalid. */
export const readText = (path: string): Effect.Effect<string, SpecUnreadable | SpecInvalid> =>
  Effect.suspend(() => {
    if (path === "-") return readStream(path, () => process.stdin)
    return isFifo(path) ? readStream(path, () => openFifo(path)) : readFile(path)
  }).pipe(Effect.flatMap((bytes) => Effect.fromResult(decodeSpecText(bytes, path))))

const isFifo = (path: string): boolean => {
  try {
    return FS.statSync(path).isFIFO()
  } catch {
    // Whoever reads it says what is wrong with it.
    return false
  }
}

/** Non-blocking: neither the opening nor a read waits for a writer in the thread pool. */
const openFifo = (path: string): Readable =>
  new Net.Socket({ fd: FS.openSync(path, FS.constants.O_RDONLY | FS.constants.O_NONBLOCK), writable: false })

const readFile = (path: string) =>
  Effect.tryPromise({
    try: async () => {
      underWay++
      try {
        return await FS.promises.readFile(path)
      } finally {
        underWay--
      }
    },
    catch: (cause) => new SpecUnreadable({ source: path, cause })
  })

const readStream = (path: string, open: () => Readable) =>
  Effect.callback<Uint8Array, SpecUnreadable>((resume) => {
    const fail = (cause: unknown) => resume(Effect.fail(new SpecUnreadable({ source: path, cause })))
    try {
      const stream = open()
      const chunks: Array<Buffer> = []
      let bytes = 0
      const end = () => {
        resume(Effect.succeed(Buffer.concat(chunks)))
        if (bytes > maxSpecBytes) stream.destroy()
      }
      stream.on("data", (chunk: Buffer) => {
        chunks.push(chunk)
        bytes += chunk.length
        // Not read to its end: that it is too long is known.
        if (bytes > maxSpecBytes) end()
      })
      stream.on("error", fail)
      stream.on("end", end)
      return Effect.sync(() => void stream.destroy())
    } catch (cause) {
      fail(cause)
    }
    return Effect.void
  })
