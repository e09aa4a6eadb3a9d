/**
 * The endpoint storage: an HTTP store that keeps the map of an endpoint's local file cache, compressed. Knows no SQL.
 *
 * Every request has a deadline and is tried again a few times when that may help. The token never leaves the header.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

export interface MapLocation {
  readonly url: string
  readonly token: Redacted.Redacted<string>
}

/** Where the map of this endpoint, or of the one named, is kept; or the sentence that says what the spec lacks. */
export const mapLocation = (
  spec: ParsedSpec | null,
  fromEndpoint: string | null
): Result.Result<MapLocation, string> => {
  if (spec === null) return Result.fail("there is no spec yet")
  const { address, token } = spec.endpointStorage
  const endpoint = fromEndpoint ?? spec.endpointId
  if (address === null) return Result.fail("pspec.endpoint_storage_addr missing")
  if (token === null) return Result.fail("pspec.endpoint_storage_token missing")
  if (endpoint === null || endpoint === "") return Result.fail("pspec.endpoint_id missing")
  const url = `http://${address}/${[spec.tenant, spec.timeline, endpoint].map(encodeURIComponent).join("/")}/lfc_state`
  return URL.canParse(url)
    ? Result.succeed({ url, token })
    : Result.fail("pspec.endpoint_storage_addr is not an address")
}

/** Why a request failed, for the state that HTTP shows. */
export interface StoreFailure {
  readonly detail: string
  readonly retryable: boolean
  readonly cause?: unknown
}

export interface StoreLimits {
  /** One request with its whole body. */
  readonly requestWithin: Duration.Duration
  readonly attempts: number
  /** Larger maps are not taken: they have to fit into one SQL statement. */
  readonly mostBytes: number
}

export const defaultLimits: StoreLimits = {
  requestWithin: Duration.seconds(60),
  attempts: 3,
  mostBytes: 64 * 1024 ** 2
}

const request = (
  location: MapLocation,
  limits: StoreLimits,
  body: Uint8Array<ArrayBuffer> | null
): Effect.Effect<{ readonly status: number; readonly bytes: Uint8Array }, StoreFailure> =>
  Effect.tryPromise({
    try: async (signal) => {
      const response = await fetch(location.url, {
        signal,
        method: body === null ? "GET" : "PUT",
        headers: { authorization: `Bearer ${Redacted.value(location.token)}`, "accept-encoding": "identity" },
        ...(body === null ? {} : { body })
      })
      const pieces: Array<Uint8Array> = []
      let size = 0
      for await (const piece of response.body ?? []) {
        size += piece.length
        if (size > limits.mostBytes) throw new RangeError(`the answer is larger than ${limits.mostBytes} bytes`)
        pieces.push(piece)
      }
      return { status: response.status, bytes: Buffer.concat(pieces) }
    },
    catch: (cause): StoreFailure => ({
      detail: "the endpoint storage could not be reached",
      retryable: !(cause instanceof RangeError),
      cause
    })
  }).pipe(
    Effect.timeoutOrElse({
      duration: limits.requestWithin,
      orElse: () =>
        Effect.fail<StoreFailure>({
          detail: `the endpoint storage did not answer within ${Duration.toMillis(limits.requestWithin)} ms`,
          retryable: true
        })
    }),
    Effect.filterOrFail(
      ({ status }) => status < 500 && status !== 429 && status !== 408,
      ({ status }): StoreFailure => ({ detail: `the endpoint storage answered ${status}`, retryable: true })
    ),
    Effect.retry({
      schedule: Schedule.exponential("200 millis").pipe(
        Schedule.jittered,
        Schedule.upTo({ times: limits.attempts - 1 })
      ),
      while: (failure) => failure.retryable
    })
  )

const unexpected = (status: number) =>
  Effect.fail<StoreFailure>({ detail: `the endpoint storage answered ${status}`, retryable: false })

/** `null`: none was saved. */
export const readMap = Effect.fn("Lfc.readMap")(function* (location: MapLocation, limits: StoreLimits) {
  const { bytes, status } = yield* request(location, limits, null)
  if (status === 404) return null
  return status === 200 ? bytes : yield* unexpected(status)
})

export const writeMap = Effect.fn("Lfc.writeMap")(function* (
  location: MapLocation,
  map: Uint8Array<ArrayBuffer>,
  limits: StoreLimits
) {
  const { status } = yield* request(location, limits, map)
  if (status !== 200) return yield* unexpected(status)
})
