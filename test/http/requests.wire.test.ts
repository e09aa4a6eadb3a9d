/**
 * Specs that nobody waits for: accepted at once, queued behind one another, superseded, and never applied twice.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { maxRequests } from "../../src/compute/Requests.ts"
import { ApplyFailed } from "../../src/errors/Failure.ts"
import { ask, configurer, inBackground, join, inMemoryServices, open, reach, refusedOf } from "./testServer.ts"

const spec = (name: string) => ({ spec: { format_version: 1, operation_uuid: name } })
const respondAsync = { prefer: "respond-async" }

const send = (port: number, name: string, headers: Readonly<Record<string, string>> = respondAsync) =>
  ask(port, "POST", "/configure", { json: spec(name), headers })

const ended = (port: number, id: string) =>
  Effect.map(ask(port, "GET", `/operations/${id}?timeout=9s`), ({ text }) => JSON.parse(text))

describe("Prefer: respond-async", () => {
  it.live("202 with a Location, under which the outcome is found", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const go = yield* Deferred.make<void>()
      yield* configurer(() => Deferred.await(go))
      const { port } = yield* open()
      const answer = yield* send(port, "one")
      assert.strictEqual(answer.status, 202)
      const operation = JSON.parse(answer.text)
      assert.strictEqual(answer.headers.get("location"), `/operations/${operation.id}`)
      assert.strictEqual(answer.headers.get("preference-applied"), "respond-async")
      yield* (yield* ComputeState).until("configuration")
      const under = JSON.parse((yield* ask(port, "GET", answer.headers.get("location") ?? "")).text)
      assert.deepInclude(under, { state: "applying", operation_uuid: "one", ended_at: null, error: null })
      const waiting = yield* inBackground(ended(port, operation.id))
      yield* Deferred.succeed(go, undefined)
      const done = yield* join(waiting)
      assert.strictEqual(done.state, "done")
      assert.isNotNull(done.ended_at)
      assert.include((yield* ask(port, "GET", "/metrics")).text, 'compute_ctl_apply_seconds_count{outcome="done"}')
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a later spec supersedes one in line; each applied one is applied once", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const go = yield* Deferred.make<void>()
      const applied: Array<string | null> = []
      yield* configurer(({ operationId }) =>
        Effect.andThen(
          Deferred.await(go),
          Effect.sync(() => applied.push(operationId))
        )
      )
      const { port } = yield* open()
      const first = JSON.parse((yield* send(port, "first")).text)
      yield* (yield* ComputeState).until("configuration")
      const queued = []
      for (let n = 0; n < 20; n++) queued.push(JSON.parse((yield* send(port, `queued ${n}`)).text))
      // A caller that does not queue is refused meanwhile.
      assert.strictEqual((yield* send(port, "blocking", {})).status, 412)
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual((yield* ended(port, first.id)).state, "done")
      assert.strictEqual((yield* ended(port, queued.at(-1).id)).state, "done")
      assert.deepStrictEqual(applied, ["first", "queued 19"])
      for (const [index, { id }] of queued.slice(0, -1).entries()) {
        const { error, state } = yield* ended(port, id)
        assert.strictEqual(state, "superseded")
        assert.include(error.error, queued[index + 1].id)
        assert.strictEqual(error.code, "superseded")
      }
      const { operations } = JSON.parse((yield* ask(port, "GET", "/operations")).text)
      assert.strictEqual(operations.length, 21)
      assert.strictEqual(operations[0].id, queued.at(-1).id)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("what is sent during the first start waits for it", () =>
    Effect.gen(function* () {
      yield* reach("init")
      const { port } = yield* open()
      const { id, state: at } = JSON.parse((yield* send(port, "early")).text)
      assert.strictEqual(at, "queued")
      yield* configurer(() => Effect.void)
      assert.strictEqual((yield* ask(port, "GET", `/operations/${id}?timeout=50ms`)).text.includes("queued"), true)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a spec that fails is a failed operation, and a later one in line is applied still", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const go = yield* Deferred.make<void>()
      let turns = 0
      yield* configurer(() =>
        Effect.andThen(
          Deferred.await(go),
          Effect.suspend(() => (turns++ === 0 ? Effect.fail(new ApplyFailed({ failures: ["no room"] })) : Effect.void))
        )
      )
      const { port } = yield* open()
      const bad = JSON.parse((yield* send(port, "bad")).text)
      yield* (yield* ComputeState).until("configuration")
      const good = JSON.parse((yield* send(port, "good")).text)
      yield* Deferred.succeed(go, undefined)
      const failed = yield* ended(port, bad.id)
      assert.strictEqual(failed.state, "failed")
      assert.match(failed.error.error, /^compute configuration failed: .*no room/)
      assert.strictEqual((yield* ended(port, good.id)).state, "done")
      assert.strictEqual((yield* (yield* ComputeState).now).status, "running")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("is refused when it will never be applied", () =>
    Effect.gen(function* () {
      for (const status of ["failed", "termination_pending_fast", "terminated"] as const) {
        yield* Effect.gen(function* () {
          yield* reach(status)
          const { port } = yield* open()
          const answer = yield* send(port, "late")
          assert.strictEqual(answer.status, 412, status)
          refusedOf(answer)
        }).pipe(Effect.scoped, Effect.provide(inMemoryServices))
      }
    })
  )

  it.live("a request in line when the compute ends is abandoned", () =>
    Effect.gen(function* () {
      const commands = yield* Commands
      yield* reach("init")
      const { port } = yield* open()
      const { id } = JSON.parse((yield* send(port, "one")).text)
      const waiting = yield* inBackground(ended(port, id))
      yield* commands.close
      assert.deepInclude(yield* join(waiting), { state: "abandoned" })
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("an unknown operation is 404", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      assert.strictEqual(refusedOf(yield* ask(port, "GET", "/operations/none")).code, "operation_unknown")
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("Idempotency-Key", () => {
  it.live("the same key and body are the same operation, also for a caller that waits; another body is 422", () =>
    Effect.gen(function* () {
      yield* reach("running")
      let applied = 0
      yield* configurer(() => Effect.sync(() => void applied++))
      const { port } = yield* open()
      const key = { "idempotency-key": "abc" }
      const { id } = JSON.parse((yield* send(port, "one", { ...respondAsync, ...key })).text)
      yield* ended(port, id)
      const again = yield* send(port, "one", { ...respondAsync, ...key })
      assert.deepStrictEqual([again.status, JSON.parse(again.text).id], [202, id])
      const waited = yield* send(port, "one", key)
      assert.deepStrictEqual([waited.status, JSON.parse(waited.text).status], [200, "running"])
      assert.strictEqual(applied, 1)
      assert.strictEqual(
        refusedOf(yield* send(port, "two", { ...respondAsync, ...key })).code,
        "idempotency_key_reused"
      )
      assert.strictEqual((yield* send(port, "one", { "idempotency-key": "k".repeat(300) })).status, 400)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a repeated call while the first is under way waits for the same end", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const go = yield* Deferred.make<void>()
      let applied = 0
      yield* configurer(() => Effect.tap(Deferred.await(go), () => Effect.sync(() => applied++)))
      const { port } = yield* open()
      const first = yield* inBackground(send(port, "one", { "idempotency-key": "k" }))
      yield* (yield* ComputeState).until("configuration")
      const second = yield* inBackground(send(port, "one", { "idempotency-key": "k" }))
      yield* Deferred.succeed(go, undefined)
      assert.deepStrictEqual([(yield* join(first)).status, (yield* join(second)).status, applied], [200, 200, 1])
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("the list of requests is bounded, and one under way is not forgotten", () =>
    Effect.gen(function* () {
      yield* reach("running")
      yield* configurer(() => Effect.never)
      const { port } = yield* open()
      const first = JSON.parse((yield* send(port, "first")).text)
      for (let n = 0; n < maxRequests + 10; n++) yield* send(port, `spec ${n}`)
      const { operations } = JSON.parse((yield* ask(port, "GET", "/operations")).text)
      assert.strictEqual(operations.length, maxRequests)
      assert.include(JSON.stringify(operations.at(-1)), first.id)
    }).pipe(Effect.provide(inMemoryServices))
  )
})
