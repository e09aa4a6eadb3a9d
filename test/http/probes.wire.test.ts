/**
 * A cached body is what the declared route answers: same status, same body, same headers that matter.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { statuses } from "../../src/compute/transitions.ts"
import { ask, inMemoryServices, open, reach } from "./testServer.ts"

/** Counters move with every request, and are compared elsewhere. */
const withoutCounters = (text: string): string =>
  text
    .split("\n")
    .filter((line) => !line.includes("compute_ctl_http_"))
    .join("\n")

describe("a cached body", () => {
  for (const apiVersion of ["2024", "head"] as const) {
    for (const status of statuses) {
      it.live(`${apiVersion}, ${status}: the declared route, which a query asks for, gives the same answer`, () =>
        Effect.gen(function* () {
          const state = yield* ComputeState
          yield* reach(status)
          const { port } = yield* open({ apiVersion })
          for (const error of [null, 'it broke "badly"\n']) {
            yield* state.note({ error })
            for (const path of ["/livez", "/readyz", "/startupz", "/status", "/metrics"]) {
              const headers = { "x-request-id": "same" }
              const fast = yield* ask(port, "GET", path, { headers })
              const routed = yield* ask(port, "GET", `${path}?x`, { headers })
              assert.deepStrictEqual(
                [fast.status, fast.type, withoutCounters(fast.text)],
                [routed.status, routed.type, withoutCounters(routed.text)],
                path
              )
              assert.strictEqual(fast.headers.get("x-request-id"), "same")
              const head = yield* ask(port, "HEAD", path, { headers })
              assert.deepStrictEqual([head.status, head.type, head.text], [fast.status, fast.type, ""], path)
            }
          }
        }).pipe(Effect.provide(inMemoryServices))
      )
    }
  }

  it.live("every request is counted once, answered from the cache or not", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      for (const path of ["/status", "/status?x", "/livez", "/nope", "/operations/x"]) yield* ask(port, "GET", path)
      const { text } = yield* ask(port, "GET", "/metrics")
      for (const line of [
        'compute_ctl_http_requests_total{method="GET",route="/status",status="200"} 2',
        'compute_ctl_http_requests_total{method="GET",route="/livez",status="200"} 1',
        'compute_ctl_http_requests_total{method="GET",route="unmatched",status="404"} 1',
        'compute_ctl_http_requests_total{method="GET",route="/operations/:id",status="404"} 1',
        'compute_ctl_http_request_seconds_count{route="/status"} 2'
      ])
        assert.include(text, `${line}\n`)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a change of state is seen by the next request", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const { port } = yield* open()
      assert.strictEqual(JSON.parse((yield* ask(port, "GET", "/status")).text).status, "empty")
      yield* state.send("StartBegan")
      assert.strictEqual(JSON.parse((yield* ask(port, "GET", "/status")).text).status, "init")
      assert.include((yield* ask(port, "GET", "/metrics")).text, 'status="init"')
      yield* state.send("PostgresReady", { postgresAlive: true })
      assert.strictEqual((yield* ask(port, "GET", "/readyz")).status, 200)
    }).pipe(Effect.provide(inMemoryServices))
  )
})
