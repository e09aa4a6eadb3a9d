/**
 * Counters are there before anything can be counted.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import { migrations } from "../../src/catalog/planMigrations.ts"
import { countFromZero, counters, migrationFailure, migrationIds } from "../../src/compute/counters.ts"

/** Its own, since that of the process counts what other tests do. */
const alone = Effect.provideService(Metric.MetricRegistry, new Map())

describe("the counters", () => {
  it.effect("are all on /metrics with 0 from the start, but for those of actors, which come with them", () =>
    Effect.gen(function* () {
      yield* countFromZero
      const lines = (yield* PrometheusMetrics.format()).split("\n").filter((line) => /^[a-z]/.test(line))
      const names = new Set(lines.map((line) => line.replace(/[{ ].*/, "")))
      const { actorRestarts, ...others } = counters
      assert.sameMembers(
        [...names],
        Object.values(others).map(({ id }) => id)
      )
      for (const line of lines) assert.match(line, / 0$/)
      assert.notInclude([...names], actorRestarts.id)
      assert.include(lines, 'compute_ctl_cplane_requests_total{rpc="GetConfig",http_status="200 OK"} 0')
      assert.include(lines, 'compute_ctl_db_migration_failed_total{migration_id="12"} 0')

      yield* countFromZero
      yield* Metric.update(migrationFailure(12), 1)
      assert.include(yield* PrometheusMetrics.format(), 'compute_ctl_db_migration_failed_total{migration_id="12"} 1\n')
    }).pipe(alone)
  )

  it("know every migration that can fail", () => {
    for (const major of [14, 17]) {
      const able = migrations("neon_superuser", major).flatMap(({ id, sql }) => (sql === null ? [] : [id]))
      for (const id of able) assert.include(migrationIds, id)
    }
  })
})
