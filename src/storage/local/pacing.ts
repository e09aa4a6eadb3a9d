/**
 * Long runs of file operations on the main thread, at most a few milliseconds at a time.
 *
 * Thousands of small files are several times faster to handle synchronously than through the thread pool, but must
 * not hold up the event loop: the work asks its pacer after each step, which lets the loop run when the slice is used
 * up. What may take long by itself (large reads and writes, flushes) goes through the thread pool. The work is ended
 * at its next step when the effect is interrupted, and the interruption waits for that: nothing writes afterwards.
 */
import * as Effect from "effect/Effect"
import { setTimeout as pause } from "node:timers/promises"
import { FileFailed } from "../../errors/Failure.ts"

/** `urgent`: somebody waits. `background`: at most about half of the time. */
export type Pace = "urgent" | "background"

export interface Pacer {
  /** Resolves at once within a slice, `null` when there is nothing to wait for; rejects when the work is to end. */
  readonly tick: () => Promise<void> | null
  /** Short operations may be done on the main thread, which is faster and stands still when the disk is busy. */
  readonly isUrgent: boolean
}

export type Steps<A> = Generator<void, A, void>

const sliceMillis = 3

const letLoopRun = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

class Interrupted extends Error {}

const makePacer = (pace: Pace, signal: AbortSignal): Pacer => {
  let until = performance.now() + sliceMillis
  const rest = async () => {
    await (pace === "urgent" ? letLoopRun() : pause(sliceMillis))
    if (signal.aborted) throw new Interrupted()
    until = performance.now() + sliceMillis
  }
  return {
    isUrgent: pace === "urgent",
    tick: () => {
      if (signal.aborted) throw new Interrupted()
      return performance.now() < until ? null : rest()
    }
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

/** What waits for the thread pool waits together; more would only fill its queue. */
const lanes = 8

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
        await work(next.value)
        const pause = pacer.tick()
        if (pause !== null) await pause
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
    const running = work(makePacer(pace, controller.signal)).then(
      (value) => resume(Effect.succeed(value)),
      (cause: unknown) => resume(Effect.fail(new FileFailed({ operation, path, cause })))
    )
    return Effect.promise(() => {
      controller.abort()
      return running
    })
  })
