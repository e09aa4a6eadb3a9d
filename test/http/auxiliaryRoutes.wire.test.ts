/**
 * The routes about what runs with Postgres, over real sockets, with hooks and promotions in memory: which answer in
 * which API version, what is handed on, and the answer before Postgres was located.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import { ComputeHooks } from "../../src/compute/ComputeHooks.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import type { PrewarmState } from "../../src/compute/prewarm.ts"
import { type Promoted, Promotions } from "../../src/compute/Promotions.ts"
import { ExtensionsUnavailable, ExtensionUnknown, type Failure, LfcBusy } from "../../src/errors/Failure.ts"
import type { TimelineId } from "../../src/spec/identifiers.ts"
import { emptySpec } from "../support/specs.ts"
import { anyOptions, ask, inBackground, inMemoryServices, open, reach, refusedOf, serving } from "./testServer.ts"

const bare = Effect.provide(ComputeHooks, ComputeHooks.none)

/** Hooks that record what they were asked for, and fail with `failure`. */
const makeHooks = Effect.fnUntraced(function* (failure: Failure | null = null) {
  const asked = yield* Ref.make<ReadonlyArray<string>>([])
  const loading = yield* Ref.make<PrewarmState>({ status: "not_prewarmed" })
  const note = (what: string) => Ref.update(asked, (before) => [...before, what])
  const noteOrFail = (what: string) => Effect.andThen(note(what), failure === null ? Effect.void : Effect.fail(failure))
  const hooks: ComputeHooks["Service"] = {
    ...(yield* bare),
    fetchExtension: (name, isLibrary) => Effect.as(noteOrFail(`${isLibrary ? "library" : "extension"} ${name}`), 10),
    fileCache: {
      prewarm: (from) =>
        Effect.andThen(noteOrFail(`prewarm from ${from ?? "ourselves"}`), Ref.set(loading, { status: "prewarming" })),
      prewarmState: Ref.get(loading),
      cancelPrewarm: Effect.andThen(note("cancel"), Ref.set(loading, { status: "cancelled" })),
      offload: noteOrFail("offload"),
      offloadState: Effect.succeed({ status: "failed", error: "the store is full" })
    }
  }
  return { hooks: Effect.succeed(hooks), asked: Ref.get(asked) }
})

describe("the local file cache", () => {
  it.live("is loaded, looked at, stopped, and saved", () =>
    Effect.gen(function* () {
      const { asked, hooks } = yield* makeHooks()
      const { port } = yield* open({ hooks })
      assert.strictEqual((yield* ask(port, "POST", "/lfc/prewarm?from_endpoint=ep-1")).status, 202)
      assert.deepStrictEqual(JSON.parse((yield* ask(port, "GET", "/lfc/prewarm")).text), { status: "prewarming" })
      assert.strictEqual((yield* ask(port, "DELETE", "/lfc/prewarm")).status, 202)
      assert.deepStrictEqual(JSON.parse((yield* ask(port, "GET", "/lfc/prewarm")).text), { status: "cancelled" })
      assert.strictEqual((yield* ask(port, "POST", "/lfc/prewarm")).status, 202)
      assert.strictEqual((yield* ask(port, "POST", "/lfc/offload")).status, 202)
      assert.deepStrictEqual(JSON.parse((yield* ask(port, "GET", "/lfc/offload")).text), {
        status: "failed",
        error: "the store is full"
      })
      assert.deepStrictEqual(yield* asked, ["prewarm from ep-1", "cancel", "prewarm from ourselves", "offload"])
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("one load at a time", () =>
    Effect.gen(function* () {
      const { hooks } = yield* makeHooks(new LfcBusy({ what: "prewarm" }))
      const { port } = yield* open({ hooks })
      const refused = yield* ask(port, "POST", "/lfc/prewarm")
      assert.strictEqual(refused.status, 429)
      assert.strictEqual(refusedOf(refused).error, "Multiple requests for prewarm are not allowed")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("before Postgres was located the answer is 412", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      for (const [method, path] of [
        ["GET", "/lfc/prewarm"],
        ["POST", "/lfc/offload"],
        ["POST", "/extension_server/x"]
      ] as const) {
        const answer = yield* ask(port, method, path)
        assert.strictEqual(answer.status, 412, path)
        assert.strictEqual(refusedOf(answer).code, "too_early")
      }
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("extensions on demand", () => {
  for (const [apiVersion, text] of [
    ["head", ""],
    ["2024", "OK"]
  ] as const) {
    it.live(`${apiVersion}: an extension and a library are fetched`, () =>
      Effect.gen(function* () {
        const { asked, hooks } = yield* makeHooks()
        const { port } = yield* open({ hooks, apiVersion })
        const answer = yield* ask(port, "POST", "/extension_server/postgis")
        assert.deepStrictEqual([answer.status, answer.text], [200, text])
        assert.strictEqual((yield* ask(port, "POST", "/extension_server/postgis-3.so?is_library=true")).status, 200)
        assert.deepStrictEqual(yield* asked, ["extension postgis", "library postgis-3.so"])
        // Postgres asks for a file of an extension by its path. The reference of 2024 looks at its last part alone.
        yield* ask(port, "POST", "/extension_server/a/b/c.so?is_library=true")
        yield* ask(port, "POST", "/extension_server/a/b")
        assert.deepStrictEqual(
          (yield* asked).slice(2),
          apiVersion === "2024" ? ["library c.so", "extension b"] : ["library a/b/c.so", "extension a/b"]
        )
      }).pipe(Effect.provide(inMemoryServices))
    )
  }

  const failures: ReadonlyArray<readonly [Failure, number]> = [
    [new ExtensionUnknown({ asked: "x", detail: "extension x is not found" }), 404],
    [new ExtensionsUnavailable({ missing: "store" }), 412],
    [new ExtensionsUnavailable({ missing: "list" }), 409]
  ]
  for (const [failure, status] of failures) {
    it.live(`"${failure.message}" is a ${status}`, () =>
      Effect.gen(function* () {
        const { hooks } = yield* makeHooks(failure)
        const { port } = yield* open({ hooks })
        const answer = yield* ask(port, "POST", "/extension_server/x")
        assert.strictEqual(answer.status, status)
        assert.strictEqual(refusedOf(answer).error, failure.message)
      }).pipe(Effect.provide(inMemoryServices))
    )
  }
})

describe("/promote", () => {
  const spec = { format_version: 1, suspend_timeout_seconds: -1, cluster: { roles: [], databases: [] } }
  const outcomes: ReadonlyArray<readonly [Promoted, number, unknown]> = [
    [
      { _tag: "Completed", lsnWait: 1, promote: 2, reconfigure: 3 },
      200,
      {
        status: "completed",
        lsn_wait_time_ms: 1,
        pg_promote_time_ms: 2,
        reconfigure_time_ms: 3
      }
    ],
    [{ _tag: "Failed", error: "no", at: null }, 500, { status: "failed", error: "no" }]
  ]
  for (const [outcome, status, body] of outcomes) {
    it.live(`answers the outcome: ${outcome._tag}`, () =>
      Effect.gen(function* () {
        const promotions = yield* Promotions
        yield* reach("running")
        yield* inBackground(
          Effect.flatMap(promotions.next, (asked) => {
            assert.strictEqual(asked.request.flushLsn, 0x10n)
            return asked.answer(outcome)
          })
        )
        const { port } = yield* serving(anyOptions)
        const answer = yield* ask(port, "POST", "/promote", { json: { spec, wal_flush_lsn: "0/10" } })
        assert.strictEqual(answer.status, status)
        assert.deepStrictEqual(JSON.parse(answer.text), body)
      }).pipe(Effect.provide(Promotions.layer), Effect.provide(inMemoryServices))
    )
  }

  it.live("another timeline's spec is 409 with the path, and no promotion is asked for", () =>
    Effect.gen(function* () {
      yield* reach("running")
      yield* (yield* ComputeState).note({ spec: { ...emptySpec, timeline: "a".repeat(32) as TimelineId } })
      const { port } = yield* open()
      const answer = yield* ask(port, "POST", "/promote", { json: { spec, wal_flush_lsn: "0/10" } })
      const { code, problems } = refusedOf(answer)
      assert.deepStrictEqual([answer.status, code], [409, "spec_conflict"])
      assert.deepStrictEqual(
        problems?.map(({ path }) => path),
        ["spec.timeline_id"]
      )
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("an LSN that is none, and a spec that is none, are refused before a promotion is asked for", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { port } = yield* open()
      const noLsn = yield* ask(port, "POST", "/promote", { json: { spec, wal_flush_lsn: "soon" } })
      assert.deepStrictEqual([noLsn.status, refusedOf(noLsn).code], [400, "lsn_malformed"])
      assert.strictEqual(
        (yield* ask(port, "POST", "/promote", { json: { spec: {}, wal_flush_lsn: "0/10" } })).status,
        400
      )
      assert.strictEqual((yield* ask(port, "POST", "/promote", { json: { spec } })).status, 422)
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("/conditions", () => {
  it.live("is empty when nothing is degraded", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      const answer = yield* ask(port, "GET", "/conditions")
      assert.deepStrictEqual(JSON.parse(answer.text), {
        degraded: [],
        pending_restart: [],
        promotion: { status: "not_promoted" },
        replica: null
      })
    }).pipe(Effect.provide(inMemoryServices))
  )
})
