/**
 * The question for the spec over real HTTP: every way in which a control plane answers badly, what is tried again, what
 * is final, and how it is counted.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import * as Redacted from "effect/Redacted"
import { once } from "node:events"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { pullSpec } from "../../src/controlplane/ControlPlane.ts"
import { isDown } from "../../src/controlplane/LastGoodSpec.ts"
import { causesOf } from "../../src/errors/policy.ts"
import {
  type ControlPlaneFault,
  type ControlPlaneOptions,
  makeFakeControlPlane
} from "../../src/testing/peers/FakeControlPlane.ts"

const answer = { spec: null, status: "empty", compute_ctl_config: { jwks: { keys: [] } } }
const computeId = "compute quiet/meadow"

const ask = (uri: string, within = Duration.seconds(2)) =>
  pullSpec({
    base: `${uri}/`,
    computeId,
    token: Redacted.make("t0ken"),
    attemptWithin: Duration.millis(300),
    within
  }).pipe(Effect.provide(Logger.layer([])))

const serve = (options: Partial<ControlPlaneOptions> = {}) =>
  makeFakeControlPlane({ computeId, token: "t0ken", answer: () => answer, ...options })

const counted = Effect.map(
  Metric.snapshot,
  (all) =>
    new Map(
      all
        .filter(({ id }) => id === "compute_ctl_cplane_requests_total")
        .map(({ attributes, state }) => [attributes?.["http_status"], "count" in state ? Number(state.count) : NaN])
    )
)

describe("the question for the spec", () => {
  it.live("carries the token and the id, and is answered with whatever JSON there is", () =>
    Effect.gen(function* () {
      const { seen, uri } = yield* serve()
      assert.deepStrictEqual(yield* ask(uri), answer)
      assert.deepStrictEqual(yield* seen, [
        {
          path: "/compute/api/v2/computes/compute%20quiet%2Fmeadow/spec",
          authorization: "Bearer t0ken"
        }
      ])
    })
  )

  for (const fault of ["502", "503", "garbage", "hang", "reset"] as const) {
    it.live(`${fault}, twice, then an answer: it is asked three times`, () =>
      Effect.gen(function* () {
        const { seen, uri } = yield* serve({ fault, failFirst: 2 })
        assert.deepStrictEqual(yield* ask(uri, Duration.seconds(10)), answer)
        assert.lengthOf(yield* seen, 3)
      })
    )
  }

  const lasting: ReadonlyArray<readonly [ControlPlaneFault, RegExp]> = [
    ["refuse", /it could not be reached$/],
    ["503", /it answered 503 Service Unavailable$/],
    ["garbage", /its answer is not JSON$/],
    ["hang", /it did not answer in time$/],
    ["reset", /it could not be reached$/]
  ]
  for (const [fault, message] of lasting) {
    it.live(`${fault} for ever: it is down, and that is said at the deadline`, () =>
      Effect.gen(function* () {
        const { uri } = yield* serve({ fault })
        const failure = yield* Effect.flip(ask(uri))
        assert.match(
          failure.message,
          /^the control plane at http:\/\/127\.0\.0\.1:\d+\/ gave no spec \(\d+ attempts\): /
        )
        assert.match(failure.message, message)
        assert.isAbove(failure.attempts, 1)
        assert.isTrue(isDown(failure))
        assert.notInclude(JSON.stringify(causesOf(failure)), "t0ken")
      })
    )
  }

  it.live("an answer with a key twice is final, and one that is not UTF-8 is not JSON: neither is repaired", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const bodies = [Buffer.from('{"spec":{"a":1,"a":2}}'), Buffer.from([0x22, 0xff, 0x22])]
        let asked = 0
        const server = yield* Effect.acquireRelease(
          Effect.promise(async () => {
            const made = createServer((_, response) => void response.end(bodies[Math.min(asked++, 1)]))
            made.listen(0, "127.0.0.1")
            await once(made, "listening")
            return made
          }),
          (made) => Effect.sync(() => void made.close().closeAllConnections())
        )
        const { port } = server.address() as AddressInfo
        const twice = yield* Effect.flip(ask(`http://127.0.0.1:${port}`))
        assert.match(twice.message, /\(1 attempts\): its answer has keys twice: spec\.a$/)
        assert.isFalse(isDown(twice))
        const bytes = yield* Effect.flip(ask(`http://127.0.0.1:${port}`))
        assert.match(bytes.message, /its answer is not JSON: expected UTF-8, but byte 2 is not$/)
        assert.isTrue(isDown(bytes))
      })
    )
  )

  it.live("500 is final, and means that it is down", () =>
    Effect.gen(function* () {
      const { seen, uri } = yield* serve({ fault: "500" })
      const failure = yield* Effect.flip(ask(uri))
      assert.match(failure.message, /\(1 attempts\): it answered 500 Internal Server Error$/)
      assert.isTrue(isDown(failure))
      assert.lengthOf(yield* seen, 1)
    })
  )

  it.live("a refused token, and an unknown compute, are final and no reason to go by an old spec", () =>
    Effect.gen(function* () {
      for (const [options, status] of [
        [{ token: "another" }, 401],
        [{ computeId: "another" }, 404]
      ] as const) {
        const { seen, uri } = yield* serve(options)
        const failure = yield* Effect.flip(ask(uri))
        assert.match(failure.message, new RegExp(`it answered ${status} `))
        assert.isFalse(isDown(failure))
        assert.lengthOf(yield* seen, 1)
      }
    })
  )

  it.live("each attempt is a line of the log and says what is waited for, without what a URL may hold of secrets", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const waits: Array<string> = []
      const logger = Logger.make(({ message }) => void lines.push(String(message)))
      const { uri } = yield* serve({ fault: "503", failFirst: 1 })
      yield* pullSpec({
        base: `${uri}/base?token=s3cret`,
        computeId,
        token: Redacted.make("t0ken"),
        attemptWithin: Duration.seconds(2),
        within: Duration.millis(500),
        waiting: (what) => Effect.sync(() => void waits.push(what))
      }).pipe(Effect.ignore, Effect.provide(Logger.layer([logger])))
      assert.match(lines[0] ?? "", /^getting spec from control plane: http:\/\/127\.0\.0\.1:\d+\/base \(attempt 1\)$/)
      assert.match(lines[1] ?? "", /^the control plane gave no spec \(attempt 1\): .*; the next attempt is in \d+ms$/)
      assert.strictEqual(waits[0], "the spec: the control plane is asked for it (attempt 1)")
      assert.strictEqual(
        waits[1],
        "the spec: the control plane gave none (attempt 1): it answered 503 Service Unavailable"
      )
      for (const text of [...lines, ...waits]) assert.notMatch(text, /s3cret|t0ken/)
    })
  )

  it.live("every attempt is counted by what came of it", () =>
    Effect.gen(function* () {
      const before = yield* counted
      const { uri } = yield* serve({ fault: "reset", failFirst: 1 })
      yield* ask(uri)
      const after = yield* counted
      for (const status of ["200 OK", "unknown"]) {
        assert.strictEqual((after.get(status) ?? 0) - (before.get(status) ?? 0), 1, status)
      }
    })
  )
})
