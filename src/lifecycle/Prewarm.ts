/**
 * While a pooled compute waits for its spec, Postgres is started once and dropped (reference section 4.3), so that the
 * real start finds it in memory.
 *
 * Gives way as soon as there is something to do. A warm-up that fails costs time later and nothing else, so it is told
 * and let be.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { ComputeState } from "../compute/ComputeState.ts"
import type { PostgresInstall } from "../postgres/PostgresInstall2.ts"
import type { Spawn } from "../platform/Spawn.ts"
import { warmUp } from "./warmUp.ts"
import { explain } from "../errors/explain.ts"
import type { Actor } from "../compute/Supervisor.ts"

const wanted = Effect.flatMap(ComputeState, (state) =>
  state.changes.pipe(Stream.filter(({ status }) => status !== "empty"), Stream.runHead, Effect.asVoid))

export const prewarm = (pgdata: string): Actor<ComputeState | PostgresInstall | Spawn> => ({
  name: "prewarm",
  policy: "temporary",
  run: Effect.raceFirst(wanted, Effect.scoped(warmUp(pgdata))).pipe(
    Effect.catch((failure) => Effect.logWarning(`Postgres could not be warmed up: ${explain(failure)}`))
  )
})
