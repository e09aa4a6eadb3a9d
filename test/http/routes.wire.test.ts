/**
 * Every route in every status in both API versions, over real sockets: codes, shapes, types, and nothing left empty.
 */
import { assert, describe, it } from "@effect/vitest"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { type ApplyReport, type SidecarReport, zeroMetrics } from "../../src/compute/snapshot.ts"
import { type Status, statuses } from "../../src/compute/transitions.ts"
import { wireStatus } from "../../src/http/refusals.ts"
import { parseLsn } from "../../src/spec/identifiers.ts"
import type { ApiVersion } from "../../src/spec/ParsedSpec.ts"
import { emptySpec } from "../support/specs.ts"
import { ask, inMemoryServices, open, reach, refusedOf } from "./testServer.ts"

const apiVersions: ReadonlyArray<ApiVersion> = ["2024", "head"]
const extension = { extension: "hstore", database: "app", version: "1.8" }
const grants = { database: "app", schema: "public", privileges: ["USAGE"], role: "web" }

/** Route by route, what it answers in a status; there is no Postgres behind it. */
const expected: ReadonlyArray<
  readonly [method: string, path: string, json: unknown, code: (status: Status) => number]
> = [
  ["GET", "/status", undefined, () => 200],
  ["GET", "/metrics.json", undefined, () => 200],
  ["GET", "/metrics", undefined, () => 200],
  ["GET", "/timeline", undefined, () => 200],
  ["GET", "/openapi.json", undefined, () => 200],
  ["GET", "/apply", undefined, () => 404],
  ["GET", "/livez", undefined, () => 200],
  ["GET", "/readyz", undefined, (status) => (["running", "configuration"].includes(status) ? 200 : 503)],
  ["GET", "/startupz", undefined, (status) => (["running", "configuration"].includes(status) ? 200 : 503)],
  ["GET", "/dbs_and_roles", undefined, () => 500],
  ["GET", "/insights", undefined, (status) => (status === "running" ? 500 : 412)],
  ["POST", "/check_writability", undefined, (status) => (status === "running" ? 500 : 412)],
  ["POST", "/extensions", extension, (status) => (status === "running" ? 500 : 412)],
  ["POST", "/grants", grants, (status) => (status === "running" ? 500 : 412)]
]

describe("routes", () => {
  for (const apiVersion of apiVersions) {
    for (const status of statuses) {
      it.live(`${apiVersion}, ${status}`, () =>
        Effect.gen(function* () {
          yield* reach(status)
          const { port } = yield* open({ apiVersion })
          for (const [method, path, json, code] of expected) {
            const answer = yield* ask(port, method, path, { json })
            assert.strictEqual(answer.status, code(status), `${method} ${path}: ${answer.text}`)
            if (answer.status >= 300) refusedOf(answer)
            else
              assert.strictEqual(
                answer.type,
                path === "/metrics" ? "text/plain; version=0.0.4" : "application/json",
                path
              )
            if (method === "GET") {
              const head = yield* ask(port, "HEAD", path)
              assert.deepStrictEqual([head.status, head.text], [answer.status, ""], `HEAD ${path}`)
            }
          }
          const { status: answered } = JSON.parse((yield* ask(port, "GET", "/status")).text)
          assert.strictEqual(answered, wireStatus(apiVersion, status))
          const metrics = (yield* ask(port, "GET", "/metrics")).text
          const up = metrics.split("\n").filter((line) => line.startsWith("compute_ctl_up{"))
          assert.deepStrictEqual(up, [`compute_ctl_up{build_tag="test",status="${status.replaceAll("_", "-")}"} 1`])
        }).pipe(Effect.provide(inMemoryServices))
      )
    }
  }

  it.live("GET /status has these fields, and times in these forms", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      yield* state.note({ startTime: DateTime.makeUnsafe("2022-10-12T07:20:50.520Z"), spec: emptySpec })
      yield* state.active(DateTime.makeUnsafe("2022-10-12T08:00:00.000Z"))
      const { port } = yield* open()
      assert.deepStrictEqual(JSON.parse((yield* ask(port, "GET", "/status")).text), {
        start_time: "2022-10-12T07:20:50.520Z",
        tenant: "0".repeat(32),
        timeline: "1".repeat(32),
        status: "running",
        last_active: "2022-10-12T08:00:00+00:00",
        error: null
      })
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a failure is in /status and in the probes", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("failed")
      yield* state.note({ error: "the data directory is gone" })
      const { port } = yield* open()
      assert.strictEqual(JSON.parse((yield* ask(port, "GET", "/status")).text).error, "the data directory is gone")
      assert.strictEqual(refusedOf(yield* ask(port, "GET", "/readyz")).error, "the data directory is gone")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("the start's metrics, its steps and its apply report", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const applyReport: ApplyReport = {
        kind: "start",
        startedAt: "2022-10-12T07:20:50.520Z",
        millis: 3,
        outcome: "done",
        phases: [{ phase: "roles", done: 1, skipped: 0, failed: 0, millis: 3 }],
        operations: [
          {
            phase: "roles",
            database: null,
            object: 'role "web"',
            action: "create",
            outcome: "done",
            reason: null,
            sqlState: null,
            hint: null,
            attempts: 1,
            millis: 3.25
          }
        ],
        connections: 1,
        roundTrips: 2,
        statements: 5
      }
      const lsn = parseLsn("1/2")
      assert.strictEqual(lsn._tag, "Some")
      const refused: SidecarReport = {
        sidecar: "pgbouncer",
        at: "2022-10-12T07:20:51.000Z",
        outcome: "failed",
        reason: "it does not take pool_sizes"
      }
      yield* state.note({
        applyReport,
        sidecarReports: [refused],
        steps: [{ name: "find the commit LSN", startedAt: 4, millis: 6 }],
        metrics: { ...zeroMetrics, basebackup_ms: 12 }
      })
      const { port } = yield* open()
      assert.deepStrictEqual(JSON.parse((yield* ask(port, "GET", "/apply")).text), {
        ...applyReport,
        sidecars: [refused]
      })
      assert.deepStrictEqual(JSON.parse((yield* ask(port, "GET", "/metrics.json")).text), {
        ...zeroMetrics,
        basebackup_ms: 12
      })
      assert.deepStrictEqual(JSON.parse((yield* ask(port, "GET", "/timeline")).text).steps, [
        { name: "find the commit LSN", started_at_ms: 4, ms: 6 }
      ])
      assert.include((yield* ask(port, "GET", "/metrics")).text, 'compute_ctl_step_ms{step="find the commit LSN"} 6\n')
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("what is not there is 404, a wrong method 405 with what is allowed, both in JSON", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      for (const path of ["/nope", "/status/x", "/Status", "/%00", "/%zz", "/..%2f", `/${"a".repeat(4_000)}`]) {
        const answer = yield* ask(port, "GET", path)
        assert.strictEqual(answer.status, 404, path)
        assert.strictEqual(refusedOf(answer).code, "not_found")
      }
      for (const [method, path, allowed] of [
        ["POST", "/status", "GET, HEAD"],
        ["GET", "/configure", "POST"],
        ["DELETE", "/terminate", "POST"]
      ]) {
        const answer = yield* ask(port, method ?? "", path ?? "")
        assert.strictEqual(answer.status, 405)
        assert.strictEqual(answer.headers.get("allow"), allowed)
        refusedOf(answer)
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a request keeps its id; a missing or unprintable one is replaced", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      const kept = yield* ask(port, "GET", "/livez", { headers: { "x-request-id": "abc-123" } })
      assert.strictEqual(kept.headers.get("x-request-id"), "abc-123")
      const uuid = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/
      assert.match((yield* ask(port, "GET", "/livez")).headers.get("x-request-id") ?? "", uuid)
      const replaced = yield* ask(port, "GET", "/livez", { headers: { "x-request-id": "a {injected}" } })
      assert.match(replaced.headers.get("x-request-id") ?? "", uuid)
    }).pipe(Effect.provide(inMemoryServices))
  )
})
