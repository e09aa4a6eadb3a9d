/**
 * Long runs of small synchronous file operations, done a few milliseconds at a time.
 *
 * Thousands of small files are several times faster to handle synchronously than through the thread pool, but must
 * not hold up the event loop: work is a generator that yields between steps, and between slices the loop runs. The
 * generator is closed, and with it its files, when the effect is interrupted.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { FileFailed } from "../../errors/Failure.ts"

export type Steps<A> = Generator<void, A, void>

/** `urgent`: somebody waits. `background`: at most half of the time. */
export type Pace = "urgent" | "background"

const sliceMillis: Record<Pace, number> = { urgent: 8, background: 4 }

const letLoopRun = Effect.callback<void>((resume) => {
  const turn = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(turn))
})

const rest: Record<Pace, Effect.Effect<void>> = { urgent: letLoopRun, background: Effect.sleep(Duration.millis(4)) }

export const inSlices = <A>(
  operation: string,
  path: string,
  pace: Pace,
  work: () => Steps<A>
): Effect.Effect<A, FileFailed> =>
  Effect.suspend(() => {
    const steps = work()
    const slice = Effect.try({
      try: (): Option.Option<A> => {
        const until = performance.now() + sliceMillis[pace]
        do {
          const step = steps.next()
          if (step.done === true) return Option.some(step.value)
        } while (performance.now() < until)
        return Option.none()
      },
      catch: (cause) => new FileFailed({ operation, path, cause })
    })
    return Effect.gen(function* () {
      while (true) {
        const done = yield* slice
        if (Option.isSome(done)) return done.value
        yield* rest[pace]
      }
    }).pipe(
      // Closes the generator's files when we are interrupted between slices.
      Effect.ensuring(
        Effect.sync(() => {
          // oxlint-disable-next-line no-unsafe-type-assertion
          steps.return(undefined as never)
        })
      )
    )
  })
