/**
 * What Postgres says about a statement that failed: read, scrubbed of verifiers, and tried again where that may help.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import type { Answer } from "../pgwire/Wire.ts"

export interface SqlError {
  readonly message: string
  readonly sqlState: string | null
  readonly hint: string | null
}

export const scrub = (text: string): string =>
  text.replace(/SCRAM-SHA-256\$[^\s'"]*/g, "<redacted>").replace(/\bmd5[0-9a-f]{8,}/g, "<redacted>")

/** `null`: the statement succeeded. */
export const sqlErrorOf = (answer: Answer | undefined): SqlError | null => {
  if (answer === undefined) return { message: "the server gave no answer", sqlState: null, hint: null }
  if (Result.isSuccess(answer)) return null
  const { detail, serverDetail, serverHint, sqlState } = answer.failure
  return {
    message: scrub(serverDetail === undefined ? detail : `${detail}; ${serverDetail}`),
    sqlState: sqlState ?? null,
    hint: serverHint === undefined ? null : scrub(serverHint)
  }
}

/** Of a session that could not be had, or broke. The code is not repeated in the message. */
export const sqlErrorOfFailure = (failure: WireFailed | TimedOut): SqlError => {
  if (failure._tag === "TimedOut") return { message: scrub(failure.message), sqlState: null, hint: null }
  const { message = "", ...rest } = sqlErrorOf(Result.fail(failure)) ?? {}
  return { sqlState: null, hint: null, ...rest, message: `${failure.operation} ${failure.peer}: ${message}` }
}

/** Deadlock, lock not available, object in use, serialisation: the same statement may well succeed a moment later. */
const transientStates = new Set(["40P01", "55P03", "55006", "40001"])

/** Postgres has no code of its own for two sessions at one catalog row (heapam's simple_heap_update, XX000). */
export const isTransient = ({ message, sqlState }: SqlError): boolean =>
  sqlState !== null &&
  (transientStates.has(sqlState) || (sqlState === "XX000" && /tuple concurrently (updated|deleted)/.test(message)))

const mostAttempts = 6

/** 80, 160, 320, 640, 1000 milliseconds. */
const betweenAttempts = Schedule.exponential(Duration.millis(80)).pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(1)))),
  Schedule.upTo({ times: mostAttempts - 1 })
)

interface Attempted {
  readonly attempts: number
  /** Of the last attempt; `null`: it succeeded. */
  readonly sqlError: SqlError | null
}

/** Runs until it succeeds, fails for good, or was tried often enough. `first` is an attempt that was made before. */
export const retryTransient = Effect.fnUntraced(function* <E, R>(
  run: Effect.Effect<SqlError | null, E, R>,
  first: SqlError | null = null
) {
  let attempts = 0
  const attempt = Effect.suspend(() => (attempts++ === 0 && first !== null ? Effect.succeed(first) : run))
  const sqlError = yield* Effect.repeat(attempt, {
    schedule: betweenAttempts,
    while: (error) => error !== null && isTransient(error)
  })
  const attempted: Attempted = { attempts, sqlError }
  return attempted
})
