/**
 * The local file cache's map between a real Postgres and a real HTTP store.
 *
 * A stock Postgres has no extension `neon`, so functions with the same names and shapes stand in for its own: they
 * keep the map in a table, and sleep on request.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { once } from "node:events"
import * as http from "node:http"
import { zstdCompressSync, zstdDecompressSync } from "node:zlib"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { autoprewarm, Lfc, lfcActor } from "../../src/lfc/Lfc.ts"
import { defaultLimits } from "../../src/lfc/mapStore.ts"
import { Admin } from "../../src/pgwire/Admin.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { startPostgres, superuser } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"
import { eventually } from "../support/waiting.ts"

const functions = `
create schema neon;
create table public.cache (map bytea, nap double precision default 0);
insert into public.cache values (null);
create function neon.get_local_cache_state() returns bytea language sql as 'select map from public.cache';
create function neon.prewarm_local_cache(state bytea, n_workers int default 1) returns void language plpgsql as $$
begin perform pg_catalog.pg_sleep(nap) from public.cache; update public.cache set map = state; end $$;
create function neon.get_prewarm_info(
  out total_pages int8, out prewarmed_pages int8, out skipped_pages int8, out active_workers int4)
language sql as 'select 7, length(map), 1, 0 from public.cache'`

const token = "canary-endpoint-token"

interface Store {
  readonly address: string
  readonly objects: Map<string, Buffer>
  readonly asked: ReadonlyArray<string>
  /** Statuses to answer before behaving; `0`: never answer. */
  readonly faults: Array<number>
}

const startStore: Effect.Effect<Store, never, Scope.Scope> = Effect.gen(function* () {
  const objects = new Map<string, Buffer>()
  const asked: Array<string> = []
  const faults: Array<number> = []
  const server = http.createServer((request, response) => {
    asked.push(`${request.method ?? ""} ${request.url ?? ""}`)
    const fault = faults.shift()
    if (fault === 0) return
    if (fault !== undefined) return void response.writeHead(fault).end()
    if (request.headers.authorization !== `Bearer ${token}`) return void response.writeHead(401).end()
    if (request.method === "PUT") {
      const pieces: Array<Buffer> = []
      request
        .on("data", (piece: Buffer) => pieces.push(piece))
        .on("end", () => {
          objects.set(request.url ?? "", Buffer.concat(pieces))
          response.writeHead(200).end()
        })
      return
    }
    const object = objects.get(request.url ?? "")
    response.writeHead(object === undefined ? 404 : 200).end(object)
  })
  yield* Effect.acquireRelease(
    Effect.promise(() => once(server.listen(0, "127.0.0.1"), "listening")),
    () =>
      Effect.promise(async () => {
        server.closeAllConnections()
        server.close()
        await once(server, "close")
      })
  )
  const address = server.address()
  return {
    address: `127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`,
    objects,
    asked,
    faults
  }
})

const here = (endpoint = "ep-here") => `/${emptySpec.tenant}/${emptySpec.timeline}/${endpoint}/lfc_state`

const setUp = Effect.fnUntraced(function* (more: Partial<ParsedSpec> = {}) {
  const postgres = yield* startPostgres({ settings: { log_statement: "all" } })
  const store = yield* startStore
  const owner = yield* postgres.connect()
  yield* owner.simple(functions)
  const admin = Admin.layer({
    host: "127.0.0.1",
    port: postgres.port,
    user: superuser,
    password: null,
    database: "postgres",
    options: null,
    applicationName: null
  })
  const limits = { ...defaultLimits, requestWithin: Duration.millis(1000) }
  const context = yield* Layer.build(
    Lfc.layer(limits).pipe(Layer.provideMerge(Layer.mergeAll(admin, Layer.fresh(ComputeState.layer))))
  )
  const state = yield* Effect.provide(ComputeState, context)
  const spec: ParsedSpec = {
    ...emptySpec,
    endpointId: "ep-here",
    endpointStorage: { address: store.address, token: Redacted.make(token) },
    ...more
  }
  yield* state.send("StartBegan")
  yield* state.send("PostgresReady", { spec })
  const lfc = yield* Effect.provide(Lfc, context)
  const settled = <A extends { readonly status: string }>(of: Effect.Effect<A>) =>
    eventually("the end of the transfer", () =>
      Effect.map(of, (now) => (now.status !== "prewarming" && now.status !== "offloading" ? now : null))
    )
  return {
    postgres,
    store,
    owner,
    state,
    spec,
    lfc,
    context,
    prewarmed: Effect.andThen(
      Effect.suspend(() => settled(lfc.prewarmState)),
      lfc.prewarmState
    ),
    offloaded: Effect.andThen(
      Effect.suspend(() => settled(lfc.offloadState)),
      lfc.offloadState
    )
  }
})

/** Waits until the stand-in sleeps inside Postgres. */
const asleep = (owner: { readonly rows: (sql: string) => Effect.Effect<ReadonlyArray<unknown>, unknown> }) =>
  eventually("a session that sleeps", () =>
    Effect.map(
      owner.rows("select 1 from pg_stat_activity where wait_event = 'PgSleep'"),
      (sessions) => sessions.length > 0
    )
  )

describe("the local file cache's map", () => {
  it.live("is saved by one compute and loaded by another", () =>
    Effect.gen(function* () {
      const { lfc, offloaded, owner, prewarmed, store } = yield* setUp()
      assert.deepStrictEqual(
        [yield* lfc.prewarmState, yield* lfc.offloadState],
        [{ status: "not_prewarmed" }, { status: "not_offloaded" }]
      )
      yield* owner.simple("update public.cache set map = '\\x00ff10'")
      yield* lfc.offload
      const saved = yield* offloaded
      assert.deepStrictEqual(Object.keys(saved), [
        "status",
        "state_query_time_ms",
        "compress_time_ms",
        "state_upload_time_ms"
      ])
      assert.strictEqual(zstdDecompressSync(store.objects.get(here()) ?? "").toString("hex"), "00ff10")

      yield* owner.simple("update public.cache set map = null")
      yield* lfc.prewarm(null)
      const loaded = yield* prewarmed
      assert.deepInclude(loaded, { status: "completed", total: 7, prewarmed: 3, skipped: 1 })
      assert.deepStrictEqual(yield* owner.rows("select map from public.cache"), [["\\x00ff10"]])
    }).pipe(Effect.scoped)
  )

  it.live("may be another endpoint's, and may not be there", () =>
    Effect.gen(function* () {
      const { lfc, offloaded, owner, prewarmed, store } = yield* setUp()
      yield* lfc.prewarm(null)
      assert.deepStrictEqual(yield* prewarmed, { status: "skipped" })
      yield* lfc.offload
      assert.deepStrictEqual(yield* offloaded, { status: "skipped" })
      store.objects.set(here("ep%2Fthere"), zstdCompressSync(Buffer.alloc(300_000, 7)))
      yield* lfc.prewarm("ep/there")
      assert.deepInclude(yield* prewarmed, { status: "completed", prewarmed: 300_000 })
      assert.deepStrictEqual(yield* owner.rows("select length(map) from public.cache"), [["300000"]])
    }).pipe(Effect.scoped)
  )

  it.live("is tried again when the store fails for a moment, and is a failed state when it keeps failing", () =>
    Effect.gen(function* () {
      const { lfc, offloaded, owner, prewarmed, store } = yield* setUp()
      store.objects.set(here(), zstdCompressSync(Buffer.from("map")))
      store.faults.push(503, 0)
      yield* lfc.prewarm(null)
      assert.deepInclude(yield* prewarmed, { status: "completed", prewarmed: 3 })
      assert.lengthOf(store.asked, 3)
      store.faults.push(500, 500, 500)
      yield* owner.simple("update public.cache set map = 'x'")
      yield* lfc.offload
      assert.deepStrictEqual(yield* offloaded, { status: "failed", error: "the endpoint storage answered 500" })
      store.faults.push(403)
      yield* lfc.prewarm(null)
      assert.deepStrictEqual(yield* prewarmed, { status: "failed", error: "the endpoint storage answered 403" })
      store.objects.set(here(), Buffer.from("not zstd"))
      yield* lfc.prewarm(null)
      assert.match(JSON.stringify(yield* prewarmed), /"error":"the map could not be decompressed/)
      yield* owner.simple("drop function neon.get_prewarm_info, neon.prewarm_local_cache")
      store.objects.set(here(), zstdCompressSync(Buffer.from("map")))
      yield* lfc.prewarm(null)
      const report = JSON.stringify(yield* prewarmed)
      assert.include(report, "does not exist")
      assert.notInclude(report, token)
    }).pipe(Effect.scoped)
  )

  it.live("says what the spec lacks, also before there is one", () =>
    Effect.gen(function* () {
      const { lfc, prewarmed, spec, state } = yield* setUp()
      const error = Effect.fnUntraced(function* (one: ParsedSpec | null) {
        yield* state.note({ spec: one })
        yield* lfc.prewarm(null)
        const end = yield* prewarmed
        return end.status === "failed" ? end.error : end.status
      })
      assert.strictEqual(yield* error(null), "there is no spec yet")
      assert.strictEqual(yield* error({ ...spec, endpointId: null }), "pspec.endpoint_id missing")
      assert.strictEqual(
        yield* error({ ...spec, endpointStorage: { address: null, token: null } }),
        "pspec.endpoint_storage_addr missing"
      )
    }).pipe(Effect.scoped)
  )
})

describe("a prewarm", () => {
  it.live("is one at a time, and its cancel returns when Postgres has stopped", () =>
    Effect.gen(function* () {
      const { lfc, owner, postgres, prewarmed, store } = yield* setUp()
      store.objects.set(here(), zstdCompressSync(Buffer.from("map")))
      yield* owner.simple("update public.cache set nap = 600")
      yield* lfc.prewarm(null)
      assert.strictEqual(
        (yield* Effect.flip(lfc.prewarm(null))).message,
        "Multiple requests for prewarm are not allowed"
      )
      yield* asleep(owner)
      yield* lfc.cancelPrewarm
      assert.deepStrictEqual(yield* lfc.prewarmState, { status: "cancelled" })
      const left = yield* owner.rows(
        "select 1 from pg_stat_activity where application_name = 'compute_ctl:lfc_prewarm' and state = 'active'"
      )
      assert.deepStrictEqual(left, [])
      assert.include(postgres.log(), "canceling statement")
      assert.notInclude(postgres.log(), "SELECT neon.prewarm_local_cache")

      yield* owner.simple("update public.cache set nap = 0")
      yield* lfc.prewarm(null)
      assert.strictEqual((yield* prewarmed).status, "completed")
    }).pipe(Effect.scoped)
  )

  it.live("is cancelled in the middle of the download too, and a cancel of nothing does nothing", () =>
    Effect.gen(function* () {
      const { lfc, prewarmed, store } = yield* setUp()
      yield* lfc.cancelPrewarm
      assert.deepStrictEqual(yield* lfc.prewarmState, { status: "not_prewarmed" })
      store.faults.push(0)
      yield* lfc.prewarm(null)
      yield* lfc.cancelPrewarm
      assert.deepStrictEqual(yield* lfc.prewarmState, { status: "cancelled" })
      store.faults.length = 0
      store.objects.set(here(), zstdCompressSync(Buffer.from("map")))
      yield* lfc.prewarm(null)
      assert.strictEqual((yield* prewarmed).status, "completed")
    }).pipe(Effect.scoped)
  )

  it.live("begins by itself when the spec says so", () =>
    Effect.gen(function* () {
      const { context, lfc, prewarmed, spec, store } = yield* setUp({ autoprewarm: true })
      store.objects.set(here(), zstdCompressSync(Buffer.from("map")))
      yield* Effect.provide(autoprewarm({ ...spec, autoprewarm: false }), context)
      assert.strictEqual((yield* lfc.prewarmState).status, "not_prewarmed")
      yield* Effect.provide(autoprewarm(spec), context)
      assert.strictEqual((yield* prewarmed).status, "completed")
    }).pipe(Effect.scoped)
  )
})

describe("the periodic offload", () => {
  it.live("saves when an interval has passed", () =>
    Effect.gen(function* () {
      const { context, owner, spec, state, store } = yield* setUp()
      yield* owner.simple("update public.cache set map = 'x'")
      const offloading = yield* Effect.forkChild(Effect.provide(lfcActor.run, context))
      yield* state.note({ spec: { ...spec, offloadLfcIntervalSeconds: 1 } })
      yield* eventually("the saved map", () => store.objects.has(here()))
      yield* Fiber.interrupt(offloading)
    }).pipe(Effect.scoped)
  )
})
