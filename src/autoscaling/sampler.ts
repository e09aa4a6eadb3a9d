/**
 * Looks at the cgroup's memory ten times a second and asks the agent for more when it is getting full.
 *
 * A look that fails is counted and told once, and the connection goes on: after five seconds without a sample,
 * downscales cannot be judged.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { TimedOut } from "../errors/Failure.ts"
import { addSample, printMib, untilNextSample } from "./vmMemory.ts"
import { firstOwnId, nextOwnId } from "./protocol.ts"
import { wantsMore } from "./decisions.ts"
import type { Cgroup } from "./Cgroup.ts"
import { reasonOf } from "./telling.ts"
import type { Connection } from "./scaling.ts"
import { VmTally } from "./VmTally.ts"

/** A kernel that is busy enough to need this long is told as a failed look. */
const lookWithin = Duration.seconds(1)
/** At its maximum a VM asks once a second for ever; the log hears of it this often. */
const tellEvery = 15_000

const look = ({ anonymous }: Cgroup) =>
  Effect.result(Effect.timeoutOrElse(anonymous, {
    duration: lookWithin,
    orElse: () => Effect.fail(new TimedOut({ what: "looking at the memory of the cgroup", millis: Duration.toMillis(lookWithin) }))
  }))

/** Asks for more if that is due, at most once a second. */
const asker = ({ memory, trySay }: Connection) => {
  let id = firstOwnId
  let askedAt: number | null = null
  let toldAt: number | null = null
  return Effect.fnUntraced(function*() {
    const tally = yield* VmTally
    const { greetedAt, samples: { mean }, threshold } = memory
    const now = yield* Clock.currentTimeMillis
    if (threshold === null || !wantsMore({ mean, threshold, now, greetedAt, askedAt })) return
    if (!trySay({ type: "UpscaleRequest", id })) return
    askedAt = now
    id = nextOwnId(id)
    yield* tally.count("upscaleRequests")
    const tell = toldAt === null || now - toldAt >= tellEvery
    if (tell) toldAt = now
    yield* (tell ? Effect.logInfo : Effect.logDebug)(
      `asking for more memory: ${printMib(mean)} MiB are in use, the threshold is ${printMib(threshold)} MiB`
    )
  })
}

/** Without a cgroup there is nothing to look at, for ever. */
export const watchMemory = Effect.fnUntraced(function*(connection: Connection): Effect.fn.Return<never, never, VmTally> {
  const tally = yield* VmTally
  const { memory } = connection
  const { cgroup } = memory
  if (cgroup === null) return yield* Effect.never
  const ask = asker(connection)
  const startedAt = yield* Clock.currentTimeMillis
  let failing = false
  while (true) {
    const looked = yield* look(cgroup)
    const now = yield* Clock.currentTimeMillis
    if (looked._tag === "Success") {
      memory.samples = addSample(memory.samples, looked.success, now)
      yield* tally.count("samples")
      yield* tally.note({ meanBytes: memory.samples.mean })
      if (failing) yield* Effect.logInfo("the memory of the cgroup can be read again")
      failing = false
      yield* ask()
    } else {
      yield* tally.count("sampleFailures")
      if (!failing) yield* Effect.logError(`no sample of the memory in use: ${reasonOf(looked.failure)}`)
      failing = true
    }
    yield* Effect.sleep(Duration.millis(untilNextSample(startedAt, now)))
  }
})
