/**
 * Long runs of file operations beside an event loop that must go on turning.
 *
 * Large reads and writes and their digests go through the thread pool, and all that may wait for the disk, unless
 * somebody waits for the work: thousands of short operations are several times faster on the main thread, and on a busy
 * machine, where each way to another thread has a queue, a hundred times. There may be a million of them: the work asks
 * its pacer after each step, which lets the loop run when the slice is used up. The work is ended at its next step when
 * the effect is interrupted, and the interruption waits for that: nothing writes afterwards.
 */
import * as Effect from "effect/Effect"
import { setTimeout as pause } from "node:timers/promises"
import { FileFailed } from "../../errors/Failure.ts"

/** `urgent`: somebody waits. `background`: it rests half of the time. `hurried`: in the background, without a rest. */
export type Pace = "urgent" | "background" | "hurried"

export interface Pacer {
  /** Within a slice `null`: there is nothing to wait for. Rejects when the work is to end. */
  readonly tick: () => Promise<void> | null
  /** Short operations are done on the main thread, which is faster and stands still when the disk is busy. */
  readonly isUrgent: boolean
  /** Of this work alone: its memory is given back when the work has ended, without waiting for a garbage collection. */
  readonly buffer: (bytes: number) => Buffer<ArrayBuffer>
}

export type Steps<A> = Generator<void, A, void>

const sliceMillis = { urgent: 1, background: 2, hurried: 2 } as const

/** What waits for the thread pool waits together; more would only fill its queue. */
const lanes = 8

const letLoopRun = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

class Interrupted extends Error {}

/**
 * Frees it now. A process at rest makes no garbage, so that its next collection, which would do it, may be a day away.
 * No read or write into it may be under way.
 */
export const freeMemory = (memory: ArrayBuffer): void => void memory.transfer(0)

/** All lanes share the slices, one after the other: a slice for each would make a turn of the loop that much longer. */
const makePacer = (pace: Pace, signal: AbortSignal): Pacer & { readonly giveBack: () => void } => {
  const lent: Array<ArrayBuffer> = []
  let from = performance.now()
  let last = Promise.resolve()
  const isOver = () => performance.now() - from >= sliceMillis[pace]
  const next = async (before: Promise<void>) => {
    // Who waited before has gone on by now, and may have used up the slice.
    await before
    if (isOver()) {
      await letLoopRun()
      // A timer that is set at the end of a long slice would be due already: it counts from where the turn began.
      if (pace === "background") await pause(sliceMillis[pace])
      from = performance.now()
    }
    if (signal.aborted) throw new Interrupted()
  }
  return {
    isUrgent: pace === "urgent",
    tick: () => {
      if (signal.aborted) throw new Interrupted()
      return isOver() ? (last = next(last)) : null
    },
    buffer: (bytes) => {
      // Of no pool.
      const made = Buffer.allocUnsafeSlow(bytes)
      lent.push(made.buffer)
      return made
    },
    giveBack: () => lent.splice(0).forEach(freeMemory)
  }
}

/** Drives a generator whose steps are short. */
export const runSteps = async <A>(pacer: Pacer, steps: Steps<A>): Promise<A> => {
  try {
    while (true) {
      const step = steps.next()
      if (step.done === true) return step.value
      const rest = pacer.tick()
      if (rest !== null) await rest
    }
  } finally {
    // Closes the generator's files when the work ended between two steps.
    // oxlint-disable-next-line no-unsafe-type-assertion
    steps.return(undefined as never)
  }
}

/**
 * Each item once, a few at a time. `open` makes what one lane needs for itself, such as buffers. When one fails, no
 * other is begun, and the failure is reported when all that had begun have ended.
 */
export const forEachItem = async <A>(
  pacer: Pacer,
  items: Iterable<A>,
  open: () => (item: A) => Promise<void>
): Promise<void> => {
  const rest = items[Symbol.iterator]()
  let failed = false
  const lane = async () => {
    const work = open()
    try {
      for (let next = rest.next(); !failed && next.done !== true; next = rest.next()) {
        const pause = pacer.tick()
        if (pause !== null) await pause
        await work(next.value)
      }
    } catch (cause) {
      failed = true
      throw cause
    }
  }
  const ended = await Promise.allSettled(Array.from({ length: lanes }, lane))
  for (const end of ended) if (end.status === "rejected") throw end.reason
}

export const paced = <A>(
  operation: string,
  path: string,
  pace: Pace,
  work: (pacer: Pacer) => Promise<A>
): Effect.Effect<A, FileFailed> =>
  Effect.callback<A, FileFailed>((resume) => {
    const controller = new AbortController()
    const pacer = makePacer(pace, controller.signal)
    const running = work(pacer)
      .finally(pacer.giveBack)
      .then(
        (value) => resume(Effect.succeed(value)),
        (cause: unknown) => resume(Effect.fail(new FileFailed({ operation, path, cause })))
      )
    return Effect.promise(() => {
      controller.abort()
      return running
    })
  })
