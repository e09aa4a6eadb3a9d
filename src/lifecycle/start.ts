/**
 * The start: from a spec to a Postgres that serves it. Each step is another module's; this file is their order.
 *
 * What it acquires it puts into `held` at once, so that the end finds it whenever the start stops. Resources are gone
 * with the scope.
 */
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import type * as Scope from "effect/Scope"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import type { ComputeMetrics } from "../compute/snapshot.ts"
import type { Failure, FileFailed } from "../errors/Failure.ts"
import { Pgdata, type PgdataSource } from "../postgres/Pgdata.ts"
import type { PlanInputs } from "../postgres/PlanInputs.ts"
import { Postmaster, type Running } from "../postgres/Postmaster.ts"
import { logCollectorWarning, planWarnings, startPlan } from "../postgres/startPlan.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { Storage, type Timeline } from "../storage/Storage.ts"
import { whileAlive } from "./outcome.ts"
import { applyCatalog } from "./Reconfigure.ts"
import { reportRecovery } from "./recoveryReport.ts"

/** What a compute holds: `null` until it has it. */
export interface Held {
  readonly timeline: Timeline | null
  readonly postgres: Running | null
}

export const nothingHeld: Held = { timeline: null, postgres: null }

/** A compute that serves. */
export interface Serving {
  readonly timeline: Timeline
  readonly postgres: Running
}

export const start = Effect.fn("Lifecycle.start")(function* (
  spec: ParsedSpec,
  inputs: PlanInputs,
  held: Ref.Ref<Held>
) {
  const state = yield* ComputeState
  const storage = yield* Storage
  const pgdata = yield* Pgdata
  const postmaster = yield* Postmaster
  const hooks = yield* ComputeHooks
  const plan = startPlan(spec, inputs)
  const collected = logCollectorWarning(spec, inputs)
  for (const warning of planWarnings(spec, inputs))
    yield* warning === collected
      ? state.raise({ code: "logging_collector", message: warning })
      : Effect.logWarning(warning)

  const content = storage.kind === "neon" ? "Archive" : "InPlace"
  const timeline = yield* state.timed("claim the timeline", claim(spec, content, held))
  yield* inRoomOf(timeline)(pgdata.begin(plan, content))
  const lsn = yield* state.timed("find the commit LSN", timeline.commitLsn("start"))
  const build = inRoomOf(timeline)(pgdata.build(plan, timeline.source(lsn)))
  const building = metered(state, "basebackup_ms", "build PGDATA", build).pipe(
    Effect.tap(({ archiveBytes, connectMicros }) =>
      state.note(({ metrics }) => ({
        metrics: { ...metrics, basebackup_bytes: archiveBytes, pageserver_connect_micros: connectMicros }
      }))
    )
  )
  yield* Effect.all([building, hooks.beforeStart(spec)], { concurrency: "unbounded", discard: true })

  yield* hooks.placeCertificate(spec)
  // One that was spawned and is not yet held is stopped with the scope.
  const postgres = yield* Effect.uninterruptibleMask((restore) =>
    Effect.tap(restore(postmaster.start({ token: spec.neon?.token ?? null })), (running) =>
      Ref.update(held, (old) => ({ ...old, postgres: running }))
    )
  )
  yield* state.note({ postgresAlive: true })
  yield* hooks.afterSpawn(postgres.pid)
  yield* metered(state, "start_postgres_ms", "start Postgres", reportRecovery(postgres, postgres.ready))

  const applying = whileAlive(postgres, applyCatalog("start", spec, plan, postgres))
  yield* metered(state, "config_ms", "apply the spec", applying)
  if (plan.opening.length > 0) {
    yield* pgdata.rewrite(plan.opening)
    yield* postgres.reload
  }
  yield* metered(state, "config_ms", "secure the storage", whileAlive(postgres, timeline.secure))
  yield* state.note(({ metrics, steps }) => ({
    metrics: {
      ...metrics,
      total_startup_ms: steps.reduce((end, step) => Math.max(end, step.startedAt + step.millis), 1)
    }
  }))
  const { metrics } = yield* state.now
  yield* Effect.logInfo(`compute start finished ${JSON.stringify(metrics)}`)
  return { timeline, postgres } satisfies Serving
})

/**
 * The storage first, and only its holder asks for PGDATA: of two computes that start at once, one gets both. The
 * storage also ends what an earlier compute left in PGDATA.
 */
const claim = Effect.fnUntraced(function* (
  spec: ParsedSpec,
  content: PgdataSource["_tag"],
  held: Ref.Ref<Held>
): Effect.fn.Return<Timeline, Failure, Storage | Pgdata | Scope.Scope> {
  const storage = yield* Storage
  const pgdata = yield* Pgdata
  const timeline = yield* storage.claim(spec, pgdata.directory)
  yield* Ref.update(held, (old) => ({ ...old, timeline }))
  yield* inRoomOf(timeline)(pgdata.claim(content))
  return timeline
})

/** PGDATA may share the storage's disk, and then what can be given up there. */
const inRoomOf =
  ({ room }: Timeline) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | FileFailed, R> =>
    room === undefined ? effect : room.make(effect)

/** A step whose time is added to a metric at once, since a start that fails later is looked into by its metrics. */
const metered = <A, E, R>(
  state: ComputeState["Service"],
  metric: keyof ComputeMetrics,
  step: string,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.tap(state.timed(step, effect), () =>
    state.note(({ metrics, steps }) => ({
      metrics: { ...metrics, [metric]: metrics[metric] + (steps.findLast(({ name }) => name === step)?.millis ?? 0) }
    }))
  )
