/**
 * Says when Postgres's log is lost because nobody reads our standard error: a condition while it lasts, one line when
 * it is over, and a metric. Counts nothing itself; `platform/boundedOutput.ts` does.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { BoundedOutput } from "../platform/boundedOutput.ts"
import type { Family } from "../telemetry/prometheus.ts"

const lookEvery = Duration.seconds(1)

export const logDropWatch = (output: BoundedOutput): Actor<ComputeState> => ({
  name: "log watch",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    const state = yield* ComputeState
    let reported = 0
    while (true) {
      yield* Effect.sleep(lookEvery)
      const { droppedOffers, stalled } = output.state()
      const lost = droppedOffers - reported
      if (lost === 0) continue
      const records = `${lost} ${lost === 1 ? "record" : "records"} of Postgres's log`
      if (stalled) {
        yield* state.raise({
          code: "log_dropped",
          message: `${records} are lost so far because nobody reads standard error; Postgres goes on without them`
        })
      } else {
        reported = droppedOffers
        yield* Effect.logWarning(`${records} were dropped because nobody read standard error`)
        yield* state.clear("log_dropped")
      }
    }
  })
})

export const logDropFamily = (output: BoundedOutput): Family => ({
  name: "compute_ctl_log_records_dropped_total",
  type: "counter",
  help: "Records of Postgres's log that were dropped because nobody read standard error",
  samples: [{ labels: {}, value: output.state().droppedOffers }]
})
