/**
 * How long after Postgres's own word we know that it is ready. Run it: `node test/postmaster/lag.ts [starts]`.
 *
 * The word is the time stamp of "ready to accept connections", which Postgres writes to a millisecond just before it
 * changes postmaster.pid; so half a millisecond of each lag is the stamp's rounding.
 */
import * as Effect from "effect/Effect"
import { fileURLToPath } from "node:url"
import { eventually, makeHouse } from "./clusters.ts"

const saying = /PG:(\S+ \S+ \S+) \[\d+\] LOG: {2}database system is ready to accept connections/

/** Milliseconds. */
const measure = Effect.scoped(
  Effect.gen(function* () {
    const { log, start } = yield* makeHouse({ settings: { timezone: "'UTC'", log_timezone: "'UTC'" } })
    const began = performance.timeOrigin + performance.now()
    const running = yield* start({ token: null })
    yield* running.ready
    const knew = performance.timeOrigin + performance.now()
    yield* eventually("its word", () => saying.test(log()))
    const said = Date.parse((saying.exec(log())?.[1] ?? "").replace(" UTC", "Z").replace(" ", "T"))
    return { lag: knew - said, whole: knew - began }
  })
)

export const lags = (starts: number) =>
  Effect.all(
    Array.from({ length: starts }, () => measure),
    { concurrency: 1 }
  )

export const median = (numbers: ReadonlyArray<number>): number =>
  numbers.toSorted((one, other) => one - other)[numbers.length >> 1] ?? NaN

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const measured = await Effect.runPromise(lags(Number(process.argv[2] ?? 20)))
  const print = (name: string, numbers: ReadonlyArray<number>) =>
    process.stdout.write(
      `${name}: median ${median(numbers).toFixed(2)} ms, worst ${Math.max(...numbers).toFixed(2)} ms, ${numbers.length} starts\n`
    )
  print(
    "known after Postgres's word",
    measured.map(({ lag }) => lag)
  )
  print(
    "spawn to known",
    measured.map(({ whole }) => whole)
  )
}
