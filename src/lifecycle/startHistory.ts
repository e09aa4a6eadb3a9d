/**
 * The last starts of a timeline, kept in a small file where the storage has room for notes, so that a start can be
 * compared with those before it. Only told, never relied on: a file that cannot be read is as good as none, and one
 * that cannot be written is done without.
 *
 * Works once the compute runs, so that no start waits for it.
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { ComputeState } from "../compute/ComputeState.ts"
import type { PastStart } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { replaceFile, textOrNull } from "../platform/files.ts"
import type { Timeline } from "../storage/Storage.ts"

/** Starts in the file, the present one among them. */
const kept = 10

const Starts = Schema.Array(
  Schema.Struct({
    startedAt: Schema.String,
    millis: Schema.Finite,
    steps: Schema.Array(Schema.Struct({ name: Schema.String, startedAt: Schema.Finite, millis: Schema.Finite }))
  })
)
const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Starts))

const readStarts = (path: string) =>
  textOrNull(path).pipe(
    Effect.map((text): ReadonlyArray<PastStart> => (text === null ? [] : Option.getOrElse(decode(text), () => []))),
    Effect.orElseSucceed((): ReadonlyArray<PastStart> => [])
  )

export const startHistory = ({ notes }: Pick<Timeline, "notes">): Actor<ComputeState> => ({
  name: "start history",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    if (notes === undefined) return
    const state = yield* ComputeState
    const path = `${notes.folder}/past-starts.json`
    const earlier = (yield* readStarts(path)).slice(0, kept - 1)
    yield* state.note({ earlierStarts: earlier })
    const { metrics, startTime, steps } = yield* state.now
    const own: PastStart = { startedAt: DateTime.formatIso(startTime), millis: metrics.total_startup_ms, steps }
    const content = `${JSON.stringify([own, ...earlier], null, 1)}\n`
    yield* replaceFile({ path, content, owner: notes.owner, flush: false }).pipe(
      Effect.catch((failure) => Effect.logDebug("this start could not be noted for later ones", failure))
    )
  })
})
