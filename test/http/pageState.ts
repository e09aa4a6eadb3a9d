/**
 * A compute that has much to show: what the tests of its page look for in it.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import { monotonicMillis } from "../../src/activity/ActivityMonitor.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import type { Activity, ApplyReport, OperationReport } from "../../src/compute/snapshot.ts"
import { emptySpec } from "../support/specs.ts"
import { reach } from "./testServer.ts"

const minute = 60_000

/** What others wrote, and what a page must show as it is. */
export const hostile = `<img src=x onerror="document.title='owned'"></script><script>document.title='owned'</script>`

const operation = (
  n: number,
  outcome: OperationReport["outcome"],
  more: Partial<OperationReport> = {}
): OperationReport => ({
  phase: "roles",
  database: n % 2 === 0 ? "app" : null,
  object: `role "user_${n}"`,
  action: "create",
  outcome,
  reason: null,
  sqlState: null,
  hint: null,
  attempts: 1,
  millis: n,
  ...more
})

const report: ApplyReport = {
  kind: "reconfigure",
  startedAt: "2026-01-31T12:00:00.000Z",
  millis: 312,
  outcome: "failed",
  phases: [],
  operations: [
    ...Array.from({ length: 16 }, (_, n) => operation(n, "done")),
    operation(16, "failed", {
      object: `schema ${JSON.stringify(hostile)}`,
      reason: "permission denied for database app",
      sqlState: "42501",
      hint: "grant it first"
    }),
    operation(17, "skipped", { reason: "this Postgres does not have it" })
  ],
  connections: 3,
  roundTrips: 9,
  statements: 40
}

const seen = (now: number, clientAt: number, walsenderAt: number): Activity => ({
  at: now,
  sessions: { client: 2, walsender: 1, subscription: 0, autovacuum: 0 },
  statisticsMoved: false,
  last: { client: clientAt, walsender: walsenderAt, subscription: null, autovacuum: null, statistics: null }
})

const steps = (scale: number) =>
  [
    { name: "claim the timeline", startedAt: 12, millis: 31 },
    { name: "build PGDATA", startedAt: 45, millis: 240 },
    { name: "start Postgres", startedAt: 290, millis: 96 },
    { name: "apply the spec", startedAt: 390, millis: 122 },
    { name: "secure the storage", startedAt: 514, millis: 40 }
  ].map((step) => ({ ...step, startedAt: step.startedAt * scale, millis: step.millis * scale }))

/** Runs, with things to tell about. `yield` it before or after the server opens. */
export const busyCompute = Effect.gen(function* () {
  const state = yield* ComputeState
  yield* reach("running")
  const now = yield* Clock.currentTimeMillis
  const endsAt = (yield* monotonicMillis) + 60 * minute
  yield* state.note((old) => ({
    spec: { ...emptySpec, suspendTimeoutSeconds: 300 },
    startTime: DateTime.makeUnsafe(now - 50 * minute),
    steps: steps(1),
    metrics: { ...old.metrics, total_startup_ms: 554 },
    earlierStarts: [
      { startedAt: "2026-01-30T08:15:00.000Z", millis: 1662, steps: steps(3) },
      { startedAt: "2026-01-29T22:01:10.000Z", millis: 554, steps: steps(1) }
    ],
    applyReport: report,
    pendingRestart: [{ name: "shared_buffers", current: "128MB", wanted: "1GB" }],
    holds: [{ id: "hold-1", reason: `a migration ${hostile}`, createdAt: now, expiresAt: now + 60 * minute, endsAt }],
    downtime: { current: 0, total: 1_500 }
  }))
  for (const ago of [41, 40, 39, 22, 21, 9, 1])
    yield* state.note({ activity: seen(now, now - ago * minute, now - (ago % 10) * minute) })
  yield* state.active(DateTime.makeUnsafe(now - minute))
  yield* state.raise({ code: "migration_failed", message: `migration 3 failed: ${hostile}` })
  yield* state.raise({ code: "actor_failing", about: "LSN lease", message: "the LSN lease could not be renewed" })
})

export const lines = () => [
  { at: "2026-01-31T12:00:00.000Z", level: "INFO", message: "Changing compute status from init to running" },
  { at: "2026-01-31T12:00:01.500Z", level: "WARN", message: `a line that a tenant made: ${hostile}` },
  { at: "2026-01-31T12:00:02.000Z", level: "ERROR", message: "the storage archiver failed; it is tried again" }
]
