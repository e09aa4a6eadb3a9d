/**
 * `/configure` and `/terminate` over real sockets: what is accepted, what waits, and what each caller is answered.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { once } from "node:events"
import { connect } from "node:net"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { type Status, statuses } from "../../src/compute/transitions.ts"
import { ApplyFailed, type Failure, SpecInvalid } from "../../src/errors/Failure.ts"
import { traceStateOf } from "../../src/platform/tracing.ts"
import { maxSpecBytes } from "../../src/spec/json.ts"
import type { TenantId } from "../../src/spec/identifiers.ts"
import type { ApiVersion } from "../../src/spec/ParsedSpec.ts"
import { emptySpec } from "../support/specs.ts"
import {
  ask,
  configurer,
  ender,
  inBackground,
  join,
  inMemoryServices,
  open,
  reach,
  refusedOf,
  shortTimeouts
} from "./testServer.ts"

const apiVersions: ReadonlyArray<ApiVersion> = ["2024", "head"]
const good = { spec: { format_version: 1, operation_uuid: "op" } }
const configurable: ReadonlyArray<Status> = ["empty", "running"]

describe("POST /configure", () => {
  it.live("is work below its caller's span, also where spans are sent to nobody", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { next } = yield* Commands
      const { port } = yield* open()
      const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
      const headers = { traceparent: `00-${trace}-00f067aa0ba902b7-01`, tracestate: "congo=t61rcWkgMzE" }
      const [, { answer, caller }] = yield* Effect.all(
        [
          ask(port, "POST", "/configure", { json: good, headers: { ...headers, prefer: "respond-async" } }),
          Effect.filterOrFail(next, (command) => command._tag === "Configure")
        ],
        { concurrency: "unbounded" }
      )
      assert.strictEqual(caller?.traceId, trace)
      assert.strictEqual(traceStateOf(caller ?? undefined), headers.tracestate)
      yield* answer(Result.fail(new ApplyFailed({ failures: ["no"] })))
    }).pipe(Effect.provide(inMemoryServices))
  )

  for (const apiVersion of apiVersions) {
    for (const status of statuses) {
      it.live(`${apiVersion}, ${status}: ${configurable.includes(status) ? "applied, then answered" : "412"}`, () =>
        Effect.gen(function* () {
          const state = yield* ComputeState
          yield* reach(status)
          yield* configurer(() => Effect.void)
          const { port } = yield* open({ apiVersion })
          const answer = yield* ask(port, "POST", "/configure", { json: good })
          if (configurable.includes(status)) {
            assert.deepStrictEqual([answer.status, answer.type], [200, "application/json"], answer.text)
            assert.deepInclude(JSON.parse(answer.text), { status: "running", tenant: "0".repeat(32), error: null })
            assert.strictEqual((yield* state.now).spec?.operationId, "op")
          } else {
            assert.strictEqual(answer.status, 412)
            const text =
              apiVersion === "head"
                ? /^invalid compute status: [a-z-]+$/
                : /^invalid compute status for configuration request: [A-Z]\w+$/
            assert.match(refusedOf(answer).error, text)
            assert.strictEqual((yield* state.now).status, status)
          }
        }).pipe(Effect.provide(inMemoryServices))
      )
    }

    it.live(`${apiVersion}: a spec that cannot be applied is 500 with its causes, and can be healed by the next`, () =>
      Effect.gen(function* () {
        yield* reach("running")
        const failure: Failure = new ApplyFailed({
          failures: ['role "web": permission denied'],
          cause: new SpecInvalid({ source: "deep", problems: [] })
        })
        let applied = 0
        yield* configurer(() => (applied++ === 0 ? Effect.fail(failure) : Effect.void))
        const { port } = yield* open({ apiVersion })
        const refused = refusedOf(yield* ask(port, "POST", "/configure", { json: good }))
        assert.match(refused.error, /^compute configuration failed: ".*permission denied.*deep.*"$/)
        assert.strictEqual(refused.code, "apply_failed")
        const status = JSON.parse((yield* ask(port, "GET", "/status")).text)
        assert.strictEqual(status.status, "failed")
        assert.include(status.error, "permission denied")
        const healed = yield* ask(port, "POST", "/configure", { json: good })
        assert.deepStrictEqual(
          [healed.status, JSON.parse(healed.text).status, JSON.parse(healed.text).error],
          [200, "running", null]
        )
      }).pipe(Effect.provide(inMemoryServices))
    )
  }

  it.live("another tenant's spec, or one of another mode, is 409 with the path, and nothing changes", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      yield* state.note({ spec: { ...emptySpec, tenant: "a".repeat(32) as TenantId, mode: { _tag: "Replica" } } })
      const { port } = yield* open()
      for (const headers of [{}, { prefer: "respond-async" }]) {
        const answer = yield* ask(port, "POST", "/configure", { json: good, headers })
        const { code, hint, problems } = refusedOf(answer)
        assert.deepStrictEqual([answer.status, code], [409, "spec_conflict"])
        assert.deepStrictEqual(
          problems?.map(({ path }) => path),
          ["spec.tenant_id", "spec.mode"]
        )
        assert.include(hint, "POST /promote")
      }
      assert.strictEqual((yield* state.now).status, "running")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("bodies that are not a spec: each its own code, and the status untouched", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const head = yield* open()
      const old = yield* open({ apiVersion: "2024" })
      const json = { "content-type": "application/json" }
      const large = `{"spec":"${"x".repeat(maxSpecBytes)}"}`
      const long = `{"spec":"${"x".repeat(maxSpecBytes - 11)}"}`
      const cases = [
        ["not JSON", { body: "{", headers: json }, 400, "json_malformed", 400],
        ["empty", { body: "", headers: json }, 400, "json_malformed", 400],
        [
          "not UTF-8",
          { body: new Uint8Array([...Buffer.from('{"spec":"'), 0xff, ...Buffer.from('"}')]), headers: json },
          400,
          "json_malformed",
          400
        ],
        ["another shape", { body: "{}", headers: json }, 422, "body_shape", 400],
        ["a list", { body: "[]", headers: json }, 422, "body_shape", 400],
        ["very deep", { body: "[".repeat(200_000) + "]".repeat(200_000), headers: json }, 400, "json_malformed", 400],
        ["a key twice", { body: '{"spec":{"a":1,"a":2}}', headers: json }, 400, "json_malformed", 400],
        ["as long as a file may be", { body: long, headers: json }, 400, "spec_invalid", 400],
        ["an invalid spec", { json: { spec: {} } }, 400, "spec_invalid", 400],
        ["a spec that is a number", { json: { spec: 7 } }, 400, "spec_invalid", 400],
        ["too large", { body: large, headers: json }, 413, "body_too_large", 413],
        [
          "another type",
          { body: JSON.stringify({ spec: {} }), headers: { "content-type": "text/plain" } },
          415,
          "not_json",
          415
        ]
      ] as const
      for (const [name, asked, code, stable, oldCode] of cases) {
        const answer = yield* ask(head.port, "POST", "/configure", asked)
        assert.strictEqual(answer.status, code, `${name}: ${answer.text.slice(0, 300)}`)
        assert.strictEqual(refusedOf(answer).code, stable, name)
        const before = yield* ask(old.port, "POST", "/configure", asked)
        assert.strictEqual(before.status, oldCode, `2024, ${name}`)
        refusedOf(before)
      }
      const invalid = refusedOf(yield* ask(head.port, "POST", "/configure", { json: { spec: {} } }))
      assert.deepStrictEqual(invalid.problems, [{ path: "format_version", message: "is missing" }])
      const twice = yield* ask(head.port, "POST", "/configure", {
        body: '{"spec":{"a":[{"b":1,"b":2}]}}',
        headers: json
      })
      assert.deepStrictEqual(refusedOf(twice).problems, [
        { path: "spec.a[0].b", message: "expected the key once, but it is there twice" }
      ])
      assert.strictEqual(
        refusedOf(yield* ask(old.port, "POST", "/configure", { body: "{}", headers: json })).error,
        "invalid spec"
      )
      assert.strictEqual((yield* state.now).status, "empty")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a large body without a length is cut off at the limit", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      const answer = yield* Effect.promise(() => {
        let sent = 0
        const body = new ReadableStream<Uint8Array>({
          pull: (controller) => {
            sent += 1
            if (sent > 300) controller.close()
            else controller.enqueue(new Uint8Array(65_536).fill(0x20))
          }
        })
        return fetch(`http://127.0.0.1:${port}/configure`, {
          method: "POST",
          body,
          duplex: "half",
          headers: { "content-type": "application/json" }
        })
      })
      assert.strictEqual(answer.status, 413)
      yield* Effect.promise(() => answer.text())
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a compute that brought its own spec takes no other", () =>
    Effect.gen(function* () {
      const { port } = yield* open({ apiVersion: "2024", liveConfigAllowed: false })
      const answer = yield* ask(port, "POST", "/configure", { json: good })
      assert.strictEqual(answer.status, 412)
      assert.strictEqual(refusedOf(answer).error, "live configuration is not allowed for this compute node")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("of ten at once one is applied and nine are 412", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const go = yield* Deferred.make<void>()
      let applied = 0
      yield* configurer(() => Effect.tap(Deferred.await(go), () => Effect.sync(() => applied++)))
      const { port } = yield* open()
      const state = yield* ComputeState
      const asked = yield* inBackground(
        Effect.all(
          Array.from({ length: 10 }, () =>
            ask(port, "POST", "/configure", { json: good }).pipe(
              Effect.tap(({ status }) =>
                status === 412
                  ? Effect.sync(() => ++refused === 9 && Deferred.doneUnsafe(go, Effect.void))
                  : Effect.void
              )
            )
          ),
          { concurrency: "unbounded" }
        )
      )
      let refused = 0
      const answers = yield* join(asked)
      assert.deepStrictEqual(answers.map(({ status }) => status).sort(), [200, ...Array.from({ length: 9 }, () => 412)])
      assert.strictEqual(applied, 1)
      assert.strictEqual((yield* state.now).status, "running")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a caller that goes away cancels nothing", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      const gone = yield* Deferred.make<void>()
      yield* configurer(() => Deferred.await(gone))
      const { port } = yield* open()
      const socket = connect(port, "127.0.0.1")
      const body = JSON.stringify(good)
      socket.write(
        "POST /configure HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" +
          `content-length: ${body.length}\r\n\r\n${body}`
      )
      yield* state.until("configuration")
      socket.destroy()
      yield* Effect.promise(() => once(socket, "close"))
      // The server has seen it go once it answers the next one.
      assert.strictEqual((yield* ask(port, "GET", "/livez")).status, 200)
      yield* Deferred.succeed(gone, undefined)
      assert.strictEqual((yield* state.until("running")).spec?.operationId, "op")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("nobody waits for ever: 504, and the configuration goes on", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      const go = yield* Deferred.make<void>()
      yield* configurer(() => Deferred.await(go))
      const { port } = yield* open({ timeouts: shortTimeouts })
      const answer = yield* ask(port, "POST", "/configure", { json: good })
      assert.strictEqual(answer.status, 504)
      assert.strictEqual(refusedOf(answer).code, "deadline_passed")
      assert.strictEqual((yield* state.now).status, "configuration")
      yield* Deferred.succeed(go, undefined)
      yield* state.until("running")
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("POST /terminate", () => {
  for (const apiVersion of apiVersions) {
    for (const status of statuses) {
      for (const mode of ["", "?mode=fast", "?mode=immediate"]) {
        it.live(`${apiVersion}, ${status}${mode}: answered when Postgres is gone`, () =>
          Effect.gen(function* () {
            const state = yield* ComputeState
            yield* reach(status)
            if (status === "terminated") yield* state.note({ flushLsn: 0x1_0000_0020n })
            else yield* ender(0x1_0000_0020n)
            const { port } = yield* open({ apiVersion })
            const answer = yield* ask(port, "POST", `/terminate${mode}`)
            assert.strictEqual((yield* state.now).status, "terminated")
            if (apiVersion === "2024") assert.deepStrictEqual([answer.status, answer.text], [200, ""])
            else {
              // When the end is on its way already, it may come before the request does.
              const codes = status === "terminated" ? [201] : status.startsWith("termination") ? [200, 201] : [200]
              assert.include(codes, answer.status)
              assert.deepStrictEqual(JSON.parse(answer.text), { lsn: "1/20" })
            }
          }).pipe(Effect.provide(inMemoryServices))
        )
      }
    }
  }

  it.live("the mode decides the pending status; a later immediate one replaces a fast one", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      const { port } = yield* open()
      const fast = yield* inBackground(ask(port, "POST", "/terminate"))
      yield* state.until("termination_pending_fast")
      const immediate = yield* inBackground(ask(port, "POST", "/terminate?mode=immediate"))
      yield* state.until("termination_pending_immediate")
      const late = yield* inBackground(ask(port, "POST", "/terminate?mode=fast"))
      yield* state.send("PostgresGone", { flushLsn: null })
      for (const fiber of [fast, immediate])
        assert.deepStrictEqual(JSON.parse((yield* join(fiber)).text), { lsn: null })
      assert.isBelow((yield* join(late)).status, 300)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a query without a mode, or with another, is 400 and ends nothing", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      for (const query of ["?mode=slow", "?mod=fast", "?mode="]) {
        const answer = yield* ask(port, "POST", `/terminate${query}`)
        assert.strictEqual(answer.status, 400, query)
        refusedOf(answer)
      }
      assert.strictEqual((yield* (yield* ComputeState).now).status, "empty")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("an end that does not come is 504", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { port } = yield* open({ timeouts: shortTimeouts })
      assert.strictEqual((yield* ask(port, "POST", "/terminate")).status, 504)
    }).pipe(Effect.provide(inMemoryServices))
  )
})
