/**
 * From a decision to bytes: JSON answers, refusals, and bodies read with a limit. Knows no route.
 */
import * as ByteSize from "effect/ByteSize"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import { displayStatus, isTerminating, type Status } from "../compute/transitions.ts"
import type { Failure } from "../errors/Failure.ts"
import { explain, hintOf, policyOf } from "../errors/policy.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"

// ---------------------------------------------------------------------------------------------------------------------
// What HTTP callers are told: status names of both API versions, timestamps, refusals, probes. Decides, sends nothing.
//
// Reference sections 3.1, 3.3 and 7. No answer ever carries an error text under a 2xx code.
// ---------------------------------------------------------------------------------------------------------------------

// -- words -----------------------------------------------------------------------------------------------------

/** The name in JSON. */
export const wireStatus = (apiVersion: ApiVersion, status: Status): string =>
  apiVersion === "2024" && status.startsWith("termination_pending") ? "termination_pending" : status

const pascal = (name: string): string =>
  name
    .split("_")
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join("")

/** RFC 3339 with no or three fractional digits, as the original's clock library prints them. */
const printTime = (at: DateTime.Utc, zone: "Z" | "+00:00"): string =>
  DateTime.formatIso(at)
    .replace(/\.000Z$/, "Z")
    .replace(/Z$/, zone)

export const startTimeText = (at: DateTime.Utc): string => printTime(at, "Z")
export const lastActiveText = (at: DateTime.Utc | null): string | null => (at === null ? null : printTime(at, "+00:00"))

// -- refusals --------------------------------------------------------------------------------------------------

/** An answer that is not the one hoped for. `code` is stable; `error` is the reference's text where it has one. */
export interface Refusal {
  readonly _tag: "Refusal"
  readonly status: number
  readonly code: string
  readonly error: string
  readonly hint: string
  /** Places in the body and what is wrong with each. */
  readonly problems: ReadonlyArray<{ readonly path: string; readonly message: string }>
}

export const refusal = (
  status: number,
  code: string,
  error: string,
  hint: string,
  problems: Refusal["problems"] = []
): Refusal => ({ _tag: "Refusal", status, code, error, hint, problems })

/** The body every refusal has. */
export const bodyOf = ({ code, error, hint, problems }: Refusal) => ({
  error,
  code,
  hint,
  ...(problems.length === 0 ? {} : { problems })
})

/** What the 2024 texts call the thing that was asked for. */
export type Asked =
  | "configuration"
  | "insights"
  | "check_writability"
  | "extensions"
  | "set_role_grants"
  | "installed_extensions"
  | "database_schema"

const waitHint = "wait until GET /status says a status in which this can be done"

/** 412 with the text of the apiVersion. */
export const wrongStatus = (apiVersion: ApiVersion, asked: Asked, status: Status): Refusal => {
  const error =
    apiVersion === "head"
      ? `invalid compute status: ${displayStatus(status)}`
      : asked === "insights" || asked === "installed_extensions"
        ? `compute is not running, current status: ${pascal(wireStatus(apiVersion, status))}`
        : `invalid compute status for ${asked} request: ${pascal(wireStatus(apiVersion, status))}`
  return refusal(412, "wrong_status", error, waitHint)
}

/** Callers' faults keep their code, a deadline is 504, an ending compute is 503, and everything else is ours: 500. */
export const httpStatusOf = (failure: Failure): number => {
  const { httpStatus } = policyOf(failure)
  return httpStatus < 500 || failure._tag === "TimedOut" || failure._tag === "Abandoned" ? httpStatus : 500
}

const problemsOf = (failure: Failure): Refusal["problems"] => (failure._tag === "SpecInvalid" ? failure.problems : [])

export const refusalOf = (failure: Failure, prefix = ""): Refusal =>
  refusal(
    httpStatusOf(failure),
    policyOf(failure).code,
    `${prefix}${explain(failure)}`,
    hintOf(failure),
    problemsOf(failure)
  )

/** A spec that could not be applied; a spec that is not one is the caller's, and is said without this frame. */
export const configureRefusal = (failure: Failure): Refusal =>
  httpStatusOf(failure) < 500
    ? refusalOf(failure)
    : { ...refusalOf(failure), error: `compute configuration failed: ${JSON.stringify(explain(failure))}` }

export const liveConfigRefused: Refusal = refusal(
  412,
  "live_config_not_allowed",
  "live configuration is not allowed for this compute node",
  "this compute was started with a spec of its own; start it without one to configure it over HTTP"
)

/** The reference says 500, as if it were its own fault. */
export const refreshRefused = (status: Status): Refusal =>
  refusal(412, "wrong_status", `Cannot refresh compute configuration in state ${pascal(status)}`, waitHint)

export const keyReused: Refusal = refusal(
  422,
  "idempotency_key_reused",
  "this idempotency key was used for another request",
  "send another key with another body"
)

export const notFound = (path: string): Refusal =>
  refusal(404, "not_found", `there is no ${path} here`, "GET /openapi.json lists what there is")

export const methodNotAllowed = (method: string, path: string, allowed: ReadonlyArray<string>): Refusal =>
  refusal(405, "method_not_allowed", `${path} does not take ${method}`, `use ${allowed.join(" or ")}`)

export const deadlinePassed = (what: string, millis: number): Refusal =>
  refusal(
    504,
    "deadline_passed",
    `${what} did not end within ${millis / 1000} s; it goes on`,
    "ask GET /status how it went"
  )

export const internalFault: Refusal = refusal(
  500,
  "internal",
  "this request met a fault in compute_ctl",
  "the log of compute_ctl has the details under this request's id"
)

// -- probes ----------------------------------------------------------------------------------------------------

/** What a probe looks at. */
export interface Vitals {
  readonly status: Status
  readonly postgresAlive: boolean
  /** Has the first start ever succeeded? */
  readonly everRan: boolean
}

/** The first start is over and succeeded. */
export const isStarted = ({ everRan, status }: Vitals): boolean => everRan || status === "running"

/** Users' connections are worth sending here. A failed reconfiguration does not turn them away: Postgres still serves. */
export const isReady = (vitals: Vitals): boolean =>
  isStarted(vitals) && vitals.postgresAlive && !isTerminating(vitals.status)

// ---------------------------------------------------------------------------------------------------------------------

export const json = (body: unknown, status = 200): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(body, { status })

export const answerOf = (refused: Refusal): HttpServerResponse.HttpServerResponse =>
  json(bodyOf(refused), refused.status)

const isRefusal = (error: Failure | Refusal): error is Refusal => error._tag === "Refusal"

/** Whatever is refused or fails becomes its answer. */
export const answered = <A, R>(effect: Effect.Effect<A, Failure | Refusal, R>) =>
  Effect.catch(effect, (error) => Effect.succeed(answerOf(isRefusal(error) ? error : refusalOf(error))))

/** `what` is a noun: `the configuration`. */
export const within =
  (what: string, limit: Duration.Duration) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.timeoutOrElse(effect, {
      duration: limit,
      orElse: () => Effect.fail(deadlinePassed(what, Duration.toMillis(limit)))
    })

// -- bodies ----------------------------------------------------------------------------------------------------

/** A larger body is not read to its end. */
export const maxBody = ByteSize.mebibytes(2)
const maxBytes = ByteSize.toNumberUnsafe(maxBody)

const tooLarge = refusal(413, "body_too_large", `the body is larger than ${maxBytes} bytes`, "send less")
const wrongType = refusal(415, "not_json", "expected request with `content-type: application/json`", "set that header")
const shapeStatus = (apiVersion: ApiVersion) => (apiVersion === "head" ? 422 : 400)

const isJson = (contentType: string | undefined): boolean =>
  /^application\/([^;]+\+)?json\s*(;|$)/i.test(contentType ?? "")

const issues = SchemaIssue.makeFormatterStandardSchemaV1()

const printPath = (path: ReadonlyArray<unknown>): string =>
  path.reduce<string>(
    (text, key) => (typeof key === "number" ? `${text}[${key}]` : text === "" ? String(key) : `${text}.${String(key)}`),
    ""
  )

const decodeText = (bytes: ArrayBuffer): Result.Result<string, unknown> =>
  Result.try(() => new TextDecoder("utf-8", { fatal: true }).decode(bytes))

const overflowed = (error: unknown): boolean =>
  typeof error === "object" &&
  error !== null &&
  "reason" in error &&
  typeof error.reason === "object" &&
  error.reason !== null &&
  "reason" in error.reason &&
  error.reason.reason === "BodyTooLarge"

const readBytes = Effect.gen(function* () {
  const request = yield* HttpServerRequest.HttpServerRequest
  if (Number(request.headers["content-length"] ?? 0) > maxBytes) return yield* Effect.fail(tooLarge)
  return yield* request.arrayBuffer.pipe(
    Effect.provideService(HttpIncomingMessage.MaxBodySize, maxBody),
    Effect.mapError((error) =>
      overflowed(error)
        ? tooLarge
        : refusal(400, "body_unreadable", "the body could not be read to its end", "send it again")
    )
  )
})

/**
 * The request's JSON body. 413 too large, 415 another content type (head), 400 not JSON, 422 (2024: 400) another
 * shape; `shapeless` is the text for the last two in the 2024 version of the API.
 */
export const readBody = <S extends Schema.ConstraintDecoder<unknown>>(
  schema: S,
  apiVersion: ApiVersion,
  shapeless: string
) => {
  const decode = Schema.decodeUnknownResult(schema, { errors: "all" })
  return Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    if (apiVersion === "head" && !isJson(request.headers["content-type"])) return yield* Effect.fail(wrongType)
    const text = decodeText(yield* readBytes)
    const parsed = Result.flatMap(text, (source) => Result.try((): unknown => JSON.parse(source)))
    if (Result.isFailure(parsed)) {
      const error = apiVersion === "head" ? "failed to parse the request body as json" : shapeless
      return yield* Effect.fail(refusal(400, "json_malformed", error, "the body must be one JSON document in UTF-8"))
    }
    const decoded = decode(parsed.success)
    if (Result.isSuccess(decoded)) return decoded.success
    const problems = issues(decoded.failure.issue).issues.map(({ message, path }) => ({
      path: printPath((path ?? []).map((step) => (typeof step === "object" ? step.key : step))),
      message
    }))
    const said = problems.map(({ message, path }) => (path === "" ? message : `${path}: ${message}`)).join("; ")
    const error =
      apiVersion === "head" ? `failed to deserialize the json body into the target type: ${said}` : shapeless
    return yield* Effect.fail(
      refusal(shapeStatus(apiVersion), "body_shape", error, "see GET /openapi.json for the shape", problems)
    )
  })
}
