/**
 * A program that takes the lock of a folder, says how that went, and holds it until its input ends or it is killed.
 */
import * as Effect from "effect/Effect"
import { once } from "node:events"
import { holdLock } from "../../../src/storage/local/lock.ts"

const folder = process.argv[2] ?? ""
const say = (line: string) => Effect.sync(() => process.stdout.write(`${line}\n`))
const inputEnds = Effect.promise(() => once(process.stdin.resume(), "end"))

await Effect.runPromise(
  Effect.scoped(
    Effect.gen(function* () {
      yield* say("ready")
      yield* Effect.promise(() => once(process.stdin, "data"))
      yield* holdLock(folder, null).pipe(
        Effect.matchEffect({
          onSuccess: () => say("held"),
          onFailure: (failure) => say(`${failure._tag}: ${failure.message}`)
        })
      )
      yield* inputEnds
    })
  )
)
