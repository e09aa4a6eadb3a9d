/**
 * What a real compute says on /metrics: read strictly, by our own reader and by Prometheus's where it is installed.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { spawnSync } from "node:child_process"
import { launch, localArguments, place, session } from "../program/harness.ts"
import { eventually } from "../support/waiting.ts"
import { programAt } from "../support/programs.ts"

const spec = {
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: { roles: [{ name: "web" }], databases: [{ name: "shop", owner: "web" }] }
}

const name = "[a-zA-Z_:][a-zA-Z0-9_:]*"
const head = new RegExp(`^# (HELP|TYPE) (${name}) (.+)$`)
const sample = new RegExp(
  `^(${name})(?:\\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:\\\\[\\\\n"]|[^\\\\\\n"])*",?)*)\\})? (NaN|[+-]Inf|-?\\d[\\d.e+-]*)$`
)

/** Everything that is wrong with a scrape, by the text format 0.0.4. */
const faults = (text: string): ReadonlyArray<string> => {
  const found: Array<string> = []
  const types = new Map<string, string>()
  const helped = new Set<string>()
  const seen = new Set<string>()
  const closed = new Set<string>()
  let current = ""
  if (!text.endsWith("\n")) found.push("it does not end in a newline")
  for (const line of text.split("\n").slice(0, -1)) {
    const [, kind, about = "", rest = ""] = head.exec(line) ?? []
    if (kind !== undefined) {
      if (about !== current) {
        if (closed.has(about)) found.push(`${about} comes in pieces`)
        closed.add(current)
        current = about
      }
      if (kind === "HELP" && helped.has(about)) found.push(`${about} is explained twice`)
      if (kind === "HELP") helped.add(about)
      if (kind === "TYPE" && !["counter", "gauge", "histogram", "summary", "untyped"].includes(rest))
        found.push(`${about} has no type: ${rest}`)
      if (kind === "TYPE" && types.has(about)) found.push(`${about} has two types`)
      if (kind === "TYPE") types.set(about, rest)
      continue
    }
    const [, series = "", labels = ""] = sample.exec(line) ?? []
    if (series === "") {
      found.push(`no sample: ${line}`)
      continue
    }
    const family = types.get(current) === "histogram" ? series.replace(/_(bucket|sum|count)$/, "") : series
    if (family !== current) found.push(`${series} stands under ${current}`)
    const id = `${series}{${labels}}`
    if (seen.has(id)) found.push(`twice: ${id}`)
    seen.add(id)
    if (types.get(current) === "counter" && !series.endsWith("_total"))
      found.push(`the counter ${series} does not end in _total`)
  }
  for (const about of types.keys()) if (!helped.has(about)) found.push(`${about} is not explained`)
  return found
}

const timeoutsIn = (text: string): number =>
  Number(/^pg_cctl_configure_statement_timeout_errors_total (\d+)$/m.exec(text)?.[1])

describe("/metrics", () => {
  it.live(
    "is what Prometheus reads, at the start and after a few requests",
    () =>
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(localArguments(at, spec), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        for (const route of ["/status", "/nowhere", "/metrics.json", "/metrics"])
          yield* Effect.promise(() => program.http(route))
        const { status, text } = yield* Effect.promise(() => program.http("/metrics"))
        assert.strictEqual(status, 200)
        assert.deepStrictEqual(faults(text), [])
        assert.match(text, /^compute_ctl_step_seconds_bucket\{step="start Postgres",le="\+Inf"\} 1$/m)
        for (const counter of [
          'compute_ctl_db_migration_failed_total{migration_id="1"}',
          'compute_ctl_actor_restarts_total{actor="applier"}',
          'compute_ctl_http_connections_dropped_total{reason="slow"}',
          'compute_ctl_apply_seconds_count{outcome="failed"}'
        ])
          assert.include(text, `\n${counter} 0\n`)
        assert.strictEqual(timeoutsIn(text), 0)

        // An operation that waits for another session is cancelled, as a timeout would do it.
        const configured = yield* Effect.scoped(
          Effect.gen(function* () {
            yield* (yield* session(at, "postgres")).simple("begin; create role guest")
            const roles = [...spec.cluster.roles, { name: "guest" }]
            const asked = yield* Effect.forkChild(
              Effect.promise(() =>
                program.http("/configure", {
                  method: "POST",
                  headers: { "content-type": "application/json" },
                  body: JSON.stringify({ spec: { ...spec, cluster: { ...spec.cluster, roles } } })
                })
              )
            )
            const canceller = yield* session(at, "postgres")
            const cancel = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'"
            yield* eventually("an answer", () => Effect.as(canceller.simple(cancel), asked.pollUnsafe() !== undefined))
            return yield* Fiber.join(asked)
          })
        )
        assert.strictEqual(configured.status, 500)
        assert.include(configured.text, "canceling statement due to user request")
        assert.strictEqual(timeoutsIn((yield* Effect.promise(() => program.http("/metrics"))).text), 1)
        const promtool = programAt("promtool")
        const output =
          promtool === null ? "" : spawnSync(promtool, ["check", "metrics"], { input: text, encoding: "utf8" }).stderr
        // Names that the reference gave are kept, also where Prometheus's taste is another.
        const problems = output
          .split("\n")
          .filter(
            (line) => line !== "" && !/metric names should not contain abbreviated units|use base unit/.test(line)
          )
        assert.deepStrictEqual(problems, [])
      }),
    120_000
  )

  it("in another shape than the format allows is noticed", () => {
    assert.lengthOf(faults("# HELP a b\n# TYPE a gauge\na 1\na 1\n"), 1)
    assert.lengthOf(faults("# HELP a b\n# TYPE a counter\na 1\n"), 1)
    assert.lengthOf(faults('# TYPE a gauge\na{b="c} 1\n'), 2)
    assert.lengthOf(faults("# HELP a b\n# TYPE a gauge\na 1"), 1)
    assert.lengthOf(faults("# HELP a b\n# TYPE a gauge\nb 1\n"), 1)
    assert.lengthOf(faults("# HELP a b\n# TYPE a gauge\na 1\n# HELP c d\n# TYPE c gauge\nc 1\n# HELP a b\n"), 2)
  })
})
