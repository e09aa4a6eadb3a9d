/**
 * Asks the control plane for the spec of this compute (docs/reference/compute_ctl.md#spec-request). Knows HTTP, not
 * what a spec means.
 *
 * Retried with jitter until a total deadline; an answer that says no (any status but 502, 503 and 504) ends it at once.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Metric from "effect/Metric"
import * as Random from "effect/Random"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { controlPlaneRequest } from "../compute/counters.ts"
import { ControlPlaneFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { decodeJsonBytes, readJsonText } from "../spec/json.ts"
import { printPath } from "../spec/problems.ts"

export interface PullRequest {
  /** As given with `-p`; a trailing slash does no harm. */
  readonly base: string
  readonly computeId: string
  readonly token: Redacted.Redacted<string> | null
  /** For one attempt, and for all of them. */
  readonly attemptWithin: Duration.Duration
  readonly within: Duration.Duration
  /** Is told what is waited for at the moment. */
  readonly waiting?: Waiting
}

/** What somebody waits for, as the end of a sentence, for whoever looks at the status. */
export type Waiting = (what: string) => Effect.Effect<void>

export const pullDefaults = { attemptWithin: Duration.seconds(10), within: Duration.seconds(30) } as const

interface Refusal {
  readonly detail: string
  readonly again: boolean
  /** It answered and said no. */
  readonly refused?: boolean
  readonly cause?: unknown
}

const specUrl = (base: string, computeId: string): string =>
  `${base.replace(/\/+$/, "")}/compute/api/v2/computes/${encodeURIComponent(computeId)}/spec`

const counted = (httpStatus: string) => Metric.update(controlPlaneRequest(httpStatus), 1)

/** The older statuses of a proxy whose backend is away. */
const away: ReadonlyArray<number> = [502, 503, 504]

const attempt = (url: string, request: PullRequest): Effect.Effect<unknown, Refusal> =>
  Effect.tryPromise({
    try: (signal) =>
      fetch(url, {
        signal,
        headers: { authorization: `Bearer ${request.token === null ? "" : Redacted.value(request.token)}` }
      }).then(async (response) => ({
        status: response.status,
        reason: response.statusText,
        bytes: new Uint8Array(await response.arrayBuffer())
      })),
    catch: (cause): Refusal => ({ detail: "it could not be reached", again: true, cause })
  }).pipe(
    Effect.timeoutOrElse({
      duration: request.attemptWithin,
      orElse: () => Effect.fail<Refusal>({ detail: "it did not answer in time", again: true })
    }),
    Effect.onExit((exit) => counted(Exit.isSuccess(exit) ? `${exit.value.status} ${exit.value.reason}` : "unknown")),
    Effect.flatMap(({ bytes, reason, status }) =>
      status === 200
        ? Effect.fromResult(readAnswer(bytes))
        : Effect.fail<Refusal>({
            detail: `it answered ${status} ${reason}`,
            again: away.includes(status),
            refused: status < 500
          })
    )
  )

/** As strict as with a file. What a proxy has cut off may be whole the next time; what is wrong in it stays so. */
const readAnswer = (bytes: Uint8Array): Result.Result<unknown, Refusal> => {
  const text = decodeJsonBytes(bytes)
  if (Result.isFailure(text)) return Result.fail({ detail: `its answer is not JSON: ${text.failure}`, again: true })
  const read = readJsonText(text.success, "the control plane")
  if (Result.isFailure(read)) return Result.fail({ detail: "its answer is not JSON", again: true })
  const { duplicates, value } = read.success
  return duplicates.paths.length === 0
    ? Result.succeed(value)
    : Result.fail({
        detail: `its answer has keys twice: ${duplicates.paths.map(printPath).join(", ")}`,
        again: false,
        refused: true
      })
}

/** 100 ms, then ever longer up to 3 s, each with jitter, so that a thousand computes do not ask in step. */
const pauseAfter = (attempt: number) =>
  Effect.map(Random.nextBetween(0.8, 1.2), (jitter) =>
    Duration.millis(Math.round(Math.min(100 * 1.7 ** (attempt - 1), 3_000) * jitter))
  )

/** Where is asked, without what a URL can hold of secrets. */
const shown = (url: string): string => {
  const { origin, pathname } = new URL(url)
  return `${origin}${pathname}`
}

const reasonOf = ({ cause, detail }: Refusal): string =>
  [detail, ...(cause === undefined ? [] : causesOf(cause).slice(-1))].join(": ")

/** The answer's JSON, whatever it holds. Each attempt is a line of the log. */
export const pullSpec = Effect.fn("ControlPlane.pullSpec")(function* (request: PullRequest) {
  const url = specUrl(request.base, request.computeId)
  const { waiting = () => Effect.void } = request
  const asked = { attempts: 0, last: { detail: "it did not answer in time", again: true } as Refusal }

  const untilAnswered = Effect.gen(function* () {
    while (true) {
      const attempts = ++asked.attempts
      yield* Effect.logInfo(`getting spec from control plane: ${shown(url)} (attempt ${attempts})`)
      yield* waiting(`the spec: the control plane is asked for it (attempt ${attempts})`)
      const answer = yield* Effect.result(attempt(url, request))
      if (Result.isSuccess(answer)) return answer.success
      asked.last = answer.failure
      if (!answer.failure.again) return yield* Effect.fail(answer.failure)
      const pause = yield* pauseAfter(attempts)
      const reason = reasonOf(answer.failure)
      const reported = `(attempt ${attempts}): ${reason}`
      yield* Effect.logWarning(
        `the control plane gave no spec ${reported}; the next attempt is in ${Duration.format(pause)}`
      )
      yield* waiting(`the spec: the control plane gave none ${reported}`)
      yield* Effect.sleep(pause)
    }
  })
  const fail = Effect.suspend(() => {
    const { cause, detail, refused } = asked.last
    return Effect.fail(
      new ControlPlaneFailed({
        uri: shown(request.base),
        detail,
        attempts: asked.attempts,
        ...(refused === true ? { refused } : {}),
        ...(cause === undefined ? {} : { cause })
      })
    )
  })
  return yield* untilAnswered.pipe(
    Effect.catch(() => fail),
    Effect.timeoutOrElse({ duration: request.within, orElse: () => fail })
  )
})
