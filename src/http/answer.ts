/**
 * Between HTTP and our values: what a request asks (a JSON body with a limit, `?timeout`, `?wait_for`), and the answer
 * to it as JSON or as a refusal. The paths and content types that are needed before the API is declared are here, too.
 * Knows no route and no state.
 */
import * as ByteSize from "effect/ByteSize"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Result from "effect/Result"
import type * as Schema from "effect/Schema"
import { type Status, statuses } from "../compute/transitions.ts"
import type { Failure } from "../errors/Failure.ts"
import { within } from "../errors/within.ts"
import { decoderOf } from "../spec/decode.ts"
import { addDuplicates, decodeJsonBytes, readJsonText } from "../spec/json.ts"
import { Problems } from "../spec/problems.ts"
import { parseMillis } from "../platform/duration.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { bodyOf, deadlinePassed, type Refusal, refusal, refusalOf, wireStatus } from "./refusals.ts"

/** Answered from the first moment, before the API is declared; `Api.ts` declares its routes with these, too. */
export const paths = {
  livez: "/livez",
  readyz: "/readyz",
  startupz: "/startupz",
  metrics: "/metrics",
  status: "/status"
} as const

export const metricsType = "text/plain; version=0.0.4"
export const eventsType = "text/event-stream"
export const sqlType = "text/plain; charset=utf-8"

/** Does it name this very type? Whoever takes anything gets what is meant for programs. */
export const accepts = (accept: string | undefined, type: string): boolean =>
  (accept ?? "").split(",").some((one) => one.split(";")[0]?.trim().toLowerCase() === type)

// -- answers -----------------------------------------------------------------------------------------------------

export const json = (body: unknown, status = 200): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(body, { status })

export const answerOf = (refused: Refusal): HttpServerResponse.HttpServerResponse =>
  json(bodyOf(refused), refused.status)

const isRefusal = (error: Failure | Refusal): error is Refusal => error._tag === "Refusal"

/** Whatever is refused or fails becomes its answer. */
export const answered = <A, R>(effect: Effect.Effect<A, Failure | Refusal, R>) =>
  Effect.catch(effect, (error) => Effect.succeed(answerOf(isRefusal(error) ? error : refusalOf(error))))

/** 504 once the caller has waited for `limit`; what it waited for goes on. `what` is a noun: `the configuration`. */
export const answeredWithin =
  (what: string, limit: Duration.Duration) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | Refusal, R> =>
    Effect.result(effect).pipe(
      within(what, limit),
      Effect.mapError(({ millis }) => deadlinePassed(what, millis)),
      Effect.flatMap((result) => Effect.fromResult(result))
    )

// -- how long a request waits, and for what ------------------------------------------------------------------------

/** The longest wait of one request; proxies give up sooner. */
const maxWaitMillis = 300_000
const defaultWaitMillis = 30_000

/** `30`, `30s`, `500ms`, `2m`; a bare number is seconds, and more than the most is the most. */
export const readTimeout = (text: string | undefined): number =>
  Math.min(maxWaitMillis, parseMillis(text ?? "") ?? defaultWaitMillis)

/** Status names of the version, divided by commas; the 2024 version's `termination_pending` is both of HEAD's. */
export const readWaitFor = (apiVersion: ApiVersion, text: string): Result.Result<ReadonlyArray<Status>, Refusal> => {
  const names = text.split(",").map((name) => name.trim())
  const known = new Set(statuses.map((status) => wireStatus(apiVersion, status)))
  return names.every((name) => known.has(name))
    ? Result.succeed(statuses.filter((status) => names.includes(wireStatus(apiVersion, status))))
    : Result.fail(
        refusal(
          400,
          "status_unknown",
          "wait_for names a status that does not exist",
          `the statuses are ${[...known].join(", ")}`
        )
      )
}

// -- bodies --------------------------------------------------------------------------------------------------------

/** A larger body is not read to its end. One that holds a spec may be as long as a file of one. */
const maxBytes = 2 * 1024 * 1024

const tooLarge = (limit: number) =>
  refusal(413, "body_too_large", `the body is larger than ${limit} bytes`, "send less")
const wrongType = refusal(415, "not_json", "expected request with `content-type: application/json`", "set that header")
const wrongEncoding = refusal(
  415,
  "encoding_unsupported",
  "the body is compressed, and no content-encoding is taken",
  "send the body as it is"
)
const shapeStatus = (apiVersion: ApiVersion) => (apiVersion === "head" ? 422 : 400)

const isJson = (contentType: string | undefined): boolean =>
  /^application\/([^;]+\+)?json\s*(;|$)/i.test(contentType ?? "")

/** Not UTF-8, not JSON, or keys that occur twice, of which a reader would have to choose one. */
const readJson = (bytes: Uint8Array, limit: number): Result.Result<unknown, Refusal["problems"]> =>
  Result.gen(function* () {
    const text = yield* Result.mapError(decodeJsonBytes(bytes, limit), (message) => [{ path: "", message }])
    const { duplicates, value } = yield* Result.mapError(readJsonText(text, "the body"), ({ problems }) => problems)
    const problems = new Problems()
    addDuplicates(duplicates, problems)
    return problems.count === 0 ? value : yield* Result.fail(problems.list())
  })

const overflowed = (error: unknown): boolean =>
  typeof error === "object" &&
  error !== null &&
  "reason" in error &&
  typeof error.reason === "object" &&
  error.reason !== null &&
  "reason" in error.reason &&
  error.reason.reason === "BodyTooLarge"

const readBytes = Effect.fnUntraced(function* (limit: number) {
  const request = yield* HttpServerRequest.HttpServerRequest
  if (Number(request.headers["content-length"] ?? 0) > limit) return yield* Effect.fail(tooLarge(limit))
  return yield* request.arrayBuffer.pipe(
    Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(limit)),
    Effect.mapError((error) =>
      overflowed(error)
        ? tooLarge(limit)
        : refusal(400, "body_unreadable", "the body could not be read to its end", "send it again")
    )
  )
})

/**
 * The request's JSON body. 413 more than `limit` bytes, 415 another type or encoding, 400 not JSON, or not of one
 * meaning, 422 (2024: 400) another shape; `shapeless` is the text for the last two in the 2024 version of the API.
 */
export const readBody = <S extends Schema.ConstraintDecoder<unknown>>(
  schema: S,
  apiVersion: ApiVersion,
  shapeless: string,
  limit = maxBytes
) => {
  const decode = decoderOf(schema)
  return Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const { "content-encoding": encoding = "identity", "content-type": type } = request.headers
    if (encoding.toLowerCase() !== "identity") return yield* Effect.fail(wrongEncoding)
    // Clients of the 2024 version leave the type out. A form of a web page cannot: it sends text/plain at best.
    if (type === undefined ? apiVersion === "head" : !isJson(type)) return yield* Effect.fail(wrongType)
    const parsed = readJson(new Uint8Array(yield* readBytes(limit)), limit)
    if (Result.isFailure(parsed)) {
      const error = apiVersion === "head" ? "failed to parse the request body as json" : shapeless
      const hint = "the body must be one JSON document in UTF-8 that has no key twice"
      return yield* Effect.fail(refusal(400, "json_malformed", error, hint, parsed.failure))
    }
    const found = new Problems()
    const decoded = decode(parsed.success, found)
    if (decoded !== null) return decoded
    const problems = found.list()
    const sentence = problems.map(({ message, path }) => (path === "" ? message : `${path}: ${message}`)).join("; ")
    const error =
      apiVersion === "head" ? `failed to deserialize the json body into the target type: ${sentence}` : shapeless
    return yield* Effect.fail(
      refusal(shapeStatus(apiVersion), "body_shape", error, "see GET /openapi.json for the shape", problems)
    )
  })
}
