/**
 * The HTTP store that keeps the map of an endpoint's local file cache, compressed. Knows no SQL.
 *
 * Every request has a deadline and is tried again a few times when that may help. The token never leaves the header.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import type { MapPlace } from "./Lfc.ts"

/** Why it did not work out, for the state that HTTP shows. */
export interface Trouble {
  readonly detail: string
  readonly again: boolean
  readonly cause?: unknown
}

export interface StorePatience {
  /** One request with its whole body. */
  readonly requestWithin: Duration.Duration
  readonly attempts: number
  /** Larger maps are not taken: they have to fit into one SQL statement. */
  readonly mostBytes: number
}

export const storeDefaults: StorePatience = {
  requestWithin: Duration.seconds(60),
  attempts: 3,
  mostBytes: 64 * 1024 ** 2
}

const request = (
  place: MapPlace,
  patience: StorePatience,
  body: Uint8Array<ArrayBuffer> | null
): Effect.Effect<{ readonly status: number; readonly bytes: Uint8Array }, Trouble> =>
  Effect.tryPromise({
    try: async (signal) => {
      const response = await fetch(place.url, {
        signal,
        method: body === null ? "GET" : "PUT",
        headers: { authorization: `Bearer ${Redacted.value(place.token)}`, "accept-encoding": "identity" },
        ...(body === null ? {} : { body })
      })
      const pieces: Array<Uint8Array> = []
      let size = 0
      for await (const piece of response.body ?? []) {
        size += piece.length
        if (size > patience.mostBytes) throw new RangeError(`the answer is larger than ${patience.mostBytes} bytes`)
        pieces.push(piece)
      }
      return { status: response.status, bytes: Buffer.concat(pieces) }
    },
    catch: (cause): Trouble => ({
      detail: "the endpoint storage could not be reached",
      again: !(cause instanceof RangeError),
      cause
    })
  }).pipe(
    Effect.timeoutOrElse({
      duration: patience.requestWithin,
      orElse: () =>
        Effect.fail<Trouble>({
          detail: `the endpoint storage did not answer within ${Duration.toMillis(patience.requestWithin)} ms`,
          again: true
        })
    }),
    Effect.filterOrFail(
      ({ status }) => status < 500 && status !== 429 && status !== 408,
      ({ status }): Trouble => ({ detail: `the endpoint storage answered ${status}`, again: true })
    ),
    Effect.retry({
      schedule: Schedule.exponential("200 millis").pipe(
        Schedule.jittered,
        Schedule.upTo({ times: patience.attempts - 1 })
      ),
      while: (trouble) => trouble.again
    })
  )

const unexpected = (status: number) =>
  Effect.fail<Trouble>({ detail: `the endpoint storage answered ${status}`, again: false })

/** `null`: nobody has saved one. */
export const readMap = Effect.fn("Lfc.readMap")(function* (place: MapPlace, patience: StorePatience) {
  const { bytes, status } = yield* request(place, patience, null)
  if (status === 404) return null
  return status === 200 ? bytes : yield* unexpected(status)
})

export const writeMap = Effect.fn("Lfc.writeMap")(function* (
  place: MapPlace,
  map: Uint8Array<ArrayBuffer>,
  patience: StorePatience
) {
  const { status } = yield* request(place, patience, map)
  if (status !== 200) return yield* unexpected(status)
})
