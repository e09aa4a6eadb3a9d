/**
 * A program that takes the lock of a folder, prints how that went, and holds it until its input ends or it is killed.
 */
import * as Effect from "effect/Effect"
import { once } from "node:events"
import { PgdataBusy } from "../../src/errors/Failure.ts"
import { holdLock } from "../../src/platform/lock.ts"

const folder = process.argv[2] ?? ""
const print = (line: string) => Effect.sync(() => process.stdout.write(`${line}\n`))
const inputEnds = Effect.promise(() => once(process.stdin.resume(), "end"))

await Effect.runPromise(
  Effect.scoped(
    Effect.gen(function* () {
      yield* print("ready")
      yield* Effect.promise(() => once(process.stdin, "data"))
      yield* holdLock({
        lock: folder,
        owner: null,
        user: null,
        allowUnfenced: false,
        busy: (holder) => new PgdataBusy({ directory: folder, holder }),
        prove: () => Effect.void
      }).pipe(
        Effect.matchEffect({
          onSuccess: () => print("held"),
          onFailure: (failure) => print(`${failure._tag}: ${failure.message}`)
        })
      )
      yield* inputEnds
    })
  )
)
