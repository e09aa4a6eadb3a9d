/**
 * From a decision to bytes: JSON answers, refusals, and bodies read with a limit. Knows no route.
 */
import * as ByteSize from "effect/ByteSize"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import type { Failure } from "../errors/Failure.ts"
import { bodyOf, deadlinePassed, type Dialect, type Refusal, refusal, refusalOf } from "./httpAnswer.ts"

export const json = (body: unknown, status = 200): HttpServerResponse.HttpServerResponse => HttpServerResponse.jsonUnsafe(body, { status })

export const answerOf = (refused: Refusal): HttpServerResponse.HttpServerResponse => json(bodyOf(refused), refused.status)

const isRefusal = (error: Failure | Refusal): error is Refusal => error._tag === "Refusal"

/** Whatever is refused or fails becomes its answer. */
export const answered = <A, R>(effect: Effect.Effect<A, Failure | Refusal, R>) =>
  Effect.catch(effect, (error) => Effect.succeed(answerOf(isRefusal(error) ? error : refusalOf(error))))

/** `what` is a noun: `the configuration`. */
export const within = (what: string, limit: Duration.Duration) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
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
const shapeStatus = (dialect: Dialect) => dialect === "head" ? 422 : 400

const isJson = (contentType: string | undefined): boolean =>
  /^application\/([^;]+\+)?json\s*(;|$)/i.test(contentType ?? "")

const issues = SchemaIssue.makeFormatterStandardSchemaV1()

const printPath = (path: ReadonlyArray<unknown>): string =>
  path.reduce<string>((text, key) => typeof key === "number" ? `${text}[${key}]` : text === "" ? String(key) : `${text}.${String(key)}`, "")

const decodeText = (bytes: ArrayBuffer): Result.Result<string, unknown> =>
  Result.try(() => new TextDecoder("utf-8", { fatal: true }).decode(bytes))

const overflowed = (error: unknown): boolean =>
  typeof error === "object" && error !== null && "reason" in error && typeof error.reason === "object" && error.reason !== null &&
  "reason" in error.reason && error.reason.reason === "BodyTooLarge"

const readBytes = Effect.gen(function*() {
  const request = yield* HttpServerRequest.HttpServerRequest
  if (Number(request.headers["content-length"] ?? 0) > maxBytes) return yield* Effect.fail(tooLarge)
  return yield* request.arrayBuffer.pipe(
    Effect.provideService(HttpIncomingMessage.MaxBodySize, maxBody),
    Effect.mapError((error) =>
      overflowed(error) ? tooLarge : refusal(400, "body_unreadable", "the body could not be read to its end", "send it again")
    )
  )
})

/**
 * The request's JSON body. 413 too large, 415 another content type (head), 400 not JSON, 422 (2024: 400) another
 * shape; `shapeless` is the text for the last two in the 2024 dialect.
 */
export const readBody = <S extends Schema.ConstraintDecoder<unknown>>(schema: S, dialect: Dialect, shapeless: string) => {
  const decode = Schema.decodeUnknownResult(schema, { errors: "all" })
  return Effect.gen(function*() {
    const request = yield* HttpServerRequest.HttpServerRequest
    if (dialect === "head" && !isJson(request.headers["content-type"])) return yield* Effect.fail(wrongType)
    const text = decodeText(yield* readBytes)
    const parsed = Result.flatMap(text, (source) => Result.try((): unknown => JSON.parse(source)))
    if (Result.isFailure(parsed)) {
      const error = dialect === "head" ? "failed to parse the request body as json" : shapeless
      return yield* Effect.fail(refusal(400, "json_malformed", error, "the body must be one JSON document in UTF-8"))
    }
    const decoded = decode(parsed.success)
    if (Result.isSuccess(decoded)) return decoded.success
    const problems = issues(decoded.failure.issue).issues.map(({ message, path }) => ({
      path: printPath((path ?? []).map((step) => typeof step === "object" ? step.key : step)),
      message
    }))
    const said = problems.map(({ message, path }) => path === "" ? message : `${path}: ${message}`).join("; ")
    const error = dialect === "head" ? `failed to deserialize the json body into the target type: ${said}` : shapeless
    return yield* Effect.fail(refusal(shapeStatus(dialect), "body_shape", error, "see GET /openapi.json for the shape", problems))
  })
}
