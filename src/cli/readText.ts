/**
 * Reads a whole text from a file, a FIFO or standard input, in a way that never keeps the process from ending.
 *
 * A read that blocks in Node's thread pool also blocks the exit of the process, for ever. So what may block (standard
 * input, FIFOs) is read as a stream. A file on a file system that hangs has no such way: `isBlocked` says that a read
 * is under way, and whoever wants to exit then has to die of a signal.
 */
import * as Effect from "effect/Effect"
import * as FS from "node:fs"
import * as Net from "node:net"
import type { Readable } from "node:stream"
import { SpecUnreadable } from "../errors/Failure.ts"

/** No spec is longer; what is, is not read to its end. */
const mostBytes = 64 * 1024 * 1024

let underWay = 0

/** Is a read under way that would keep the process from exiting? */
export const isBlocked = (): boolean => underWay > 0

/** `-` is standard input. Interruption gives the read up. */
export const readText = (path: string): Effect.Effect<string, SpecUnreadable> =>
  Effect.suspend(() => {
    if (path === "-") return readStream(path, () => process.stdin)
    return isFifo(path) ? readStream(path, () => openFifo(path)) : readFile(path)
  })

const isFifo = (path: string): boolean => FS.statSync(path, { throwIfNoEntry: false })?.isFIFO() ?? false

/** Non-blocking: neither the opening nor a read waits for a writer in the thread pool. */
const openFifo = (path: string): Readable =>
  new Net.Socket({ fd: FS.openSync(path, FS.constants.O_RDONLY | FS.constants.O_NONBLOCK), writable: false })

const readFile = (path: string) =>
  Effect.tryPromise({
    try: async () => {
      underWay++
      try {
        return await FS.promises.readFile(path, "utf8")
      } finally {
        underWay--
      }
    },
    catch: (cause) => new SpecUnreadable({ source: path, cause })
  })

const readStream = (path: string, open: () => Readable) =>
  Effect.callback<string, SpecUnreadable>((resume) => {
    const fail = (cause: unknown) => resume(Effect.fail(new SpecUnreadable({ source: path, cause })))
    try {
      const stream = open()
      const chunks: Array<Buffer> = []
      let bytes = 0
      stream.on("data", (chunk: Buffer) => {
        chunks.push(chunk)
        bytes += chunk.length
        if (bytes > mostBytes) stream.destroy(new Error(`it is longer than ${mostBytes} bytes`))
      })
      stream.on("error", fail)
      stream.on("end", () => resume(Effect.succeed(Buffer.concat(chunks).toString("utf8"))))
      return Effect.sync(() => void stream.destroy())
    } catch (cause) {
      fail(cause)
    }
    return Effect.void
  })
