/**
 * Carries what Postgres writes to our own stderr, one record in one write, and remembers the last records.
 *
 * A slow sink slows Postgres down rather than filling our memory; one that nobody reads must not stop it, so the sink
 * by default is bounded and drops (`platform/boundedOutput.ts`). Nothing in the text can break the pipe: bytes that
 * are not UTF-8 are replaced. Ends when the last process that holds the pipe has closed it.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { standardError } from "../platform/boundedOutput.ts"
import { isAboutTheEnd } from "./crashReport.ts"
import * as LogRecords from "./logRecords.ts"

/** Where records go. Completes when there is room for more; never fails. */
export type LogSink = (text: string) => Effect.Effect<void>

export interface LogPipe {
  /** Oldest first, bounded, each on one line and without what may be a password. */
  readonly recent: Effect.Effect<ReadonlyArray<string>>
  /** All was read and passed on. Orphans of Postgres may hold this up for ever. */
  readonly drained: Effect.Effect<void>
}

/** Records kept for error messages. */
const remembered = 30
/** Records that name a lost process: a hundred sessions that end because of it must not push them out. */
const rememberedLonger = 10
/** A whole record is held back this long, in case more of it follows. */
const silenceAfter = "100 millis"

/** Our own stderr, within bounds. */
export const stderrSink: LogSink = standardError.offer

/** Reads all `outputs` concurrently until they end or the scope closes. */
export const openLogPipe = Effect.fnUntraced(function* (
  outputs: ReadonlyArray<Stream.Stream<Uint8Array>>,
  sink: LogSink
): Effect.fn.Return<LogPipe, never, Scope.Scope> {
  const recent: Array<string> = []
  const telling: Array<string> = []
  const pass = (records: ReadonlyArray<string>) => {
    if (records.length === 0) return Effect.void
    const kept = [...records.slice(0, -remembered).filter(isAboutTheEnd), ...records.slice(-remembered)]
    recent.push(...kept.map((record) => LogRecords.quote(record)))
    const old = recent.splice(0, Math.max(0, recent.length - remembered))
    telling.push(...old.filter(isAboutTheEnd))
    telling.splice(0, Math.max(0, telling.length - rememberedLonger))
    return sink(records.map((record) => `PG:${record}\n`).join(""))
  }
  const reading = yield* Effect.forkScoped(
    Effect.all(
      outputs.map((output) => passOn(output, pass)),
      { concurrency: "unbounded", discard: true }
    )
  )
  return { recent: Effect.sync(() => [...telling, ...recent]), drained: Effect.asVoid(Fiber.await(reading)) }
})

type Pass = (records: ReadonlyArray<string>) => Effect.Effect<void>

const passOn = (output: Stream.Stream<Uint8Array>, pass: Pass): Effect.Effect<void> =>
  Effect.scoped(
    Effect.gen(function* () {
      const pull = yield* Stream.toPull(output)
      const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
      let state = LogRecords.nothing
      const advance = (split: LogRecords.Split) => {
        state = split[0]
        return pass(split[1])
      }
      while (true) {
        // A fiber of its own, so that a chunk that arrives together with the timeout is not lost.
        const next = yield* Effect.forkChild(pull, { startImmediately: true })
        if (state.record !== null && Option.isNone(yield* Effect.timeoutOption(Fiber.await(next), silenceAfter))) {
          yield* advance(LogRecords.silence(state))
        }
        const chunks = yield* Fiber.await(next)
        if (chunks._tag === "Failure") break
        for (const chunk of chunks.value)
          yield* advance(LogRecords.push(state, decoder.decode(chunk, { stream: true })))
      }
      yield* advance(LogRecords.push(state, decoder.decode()))
      yield* pass(LogRecords.end(state))
    })
  ).pipe(
    Effect.catchCause((cause) =>
      // Unread, the pipe would fill and stop Postgres; what it says is worth less than that it lives.
      Effect.andThen(Effect.logError("Postgres's log can no longer be passed on", cause), Stream.runDrain(output))
    )
  )
