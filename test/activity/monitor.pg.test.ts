/**
 * The monitor on real Postgres: what counts as use, whose sessions do not, in any time zone, and what a lost
 * connection does.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { connect as dial, type Socket } from "node:net"
import { monitor, readSample, sampleSql } from "../../src/activity/ActivityMonitor.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import type { Snapshot } from "../../src/compute/snapshot.ts"
import { Admin } from "../../src/pgwire/Admin.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import { installs, startPostgres, superuser } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"

const watched = Effect.fnUntraced(function* (major = 17, settings: Readonly<Record<string, string>> = {}) {
  const postgres = yield* startPostgres({ major, settings: { autovacuum: "off", ...settings } })
  const admin = Admin.layer({
    host: "127.0.0.1",
    port: postgres.port,
    user: superuser,
    password: null,
    database: "postgres",
    options: null,
    applicationName: null
  })
  const context = yield* Layer.build(Layer.mergeAll(admin, Layer.fresh(ComputeState.layer)))
  const state = yield* Effect.provide(ComputeState, context)
  yield* state.send("StartBegan")
  yield* state.send("PostgresReady", { spec: emptySpec })
  yield* postgres.rows("create role web login superuser")
  const begin = Effect.forkScoped(
    monitor({ every: Duration.millis(20), within: Duration.seconds(5) }).run.pipe(Effect.provide(context)),
    { startImmediately: true }
  )
  return { postgres, state, begin }
})

const until = (state: ComputeState["Service"], wanted: (snapshot: Snapshot) => boolean) =>
  state.changes.pipe(
    Stream.filter(wanted),
    Stream.runHead,
    Effect.flatMap(Effect.fromOption),
    Effect.timeoutOrElse({ duration: "20 seconds", orElse: () => Effect.die(new Error("it did not come to that")) })
  )

const activeAfter =
  (moment: number) =>
  ({ lastActive }: Snapshot) =>
    lastActive !== null && lastActive.epochMilliseconds > moment

/** One sample by hand, over a session like the monitor's. */
const sampled = (postgres: { readonly port: number }, experimental = false) =>
  Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* connect({
        host: "127.0.0.1",
        port: postgres.port,
        user: superuser,
        database: "postgres",
        applicationName: "compute_ctl:compute_monitor",
        connectWithin: Duration.seconds(10)
      })
      return Option.getOrThrow(readSample((yield* wire.rows(sampleSql(superuser, experimental)))[0]))
    })
  )

/** A replication connection until the scope ends: start-up packet by hand, because `pg/Wire` makes none of these. */
const walsender = (port: number, applicationName: string) =>
  Effect.acquireRelease(
    Effect.callback<Socket>((resume) => {
      const pairs = Object.entries({ user: superuser, replication: "true", application_name: applicationName })
      const body = Buffer.from(`${pairs.map(([name, value]) => `${name}\0${value}\0`).join("")}\0`)
      const head = Buffer.alloc(8)
      head.writeInt32BE(body.length + 8, 0)
      head.writeInt32BE(196_608, 4)
      const socket = dial(port, "127.0.0.1", () => socket.write(Buffer.concat([head, body])))
      socket.on("error", () => undefined)
      // The last message of a start-up is ReadyForQuery: `Z`, length 5, `I`.
      socket.on("data", (bytes: Buffer) =>
        bytes.subarray(-6, -5).toString() === "Z" ? resume(Effect.succeed(socket)) : undefined
      )
    }),
    (socket) => Effect.sync(() => socket.destroy())
  ).pipe(Effect.timeout("10 seconds"))

describe("the monitor on a real Postgres", () => {
  for (const { major } of installs) {
    it.live(`asks valid SQL of Postgres ${major}, with the experimental statistics too`, () =>
      Effect.gen(function* () {
        const { postgres } = yield* watched(major)
        const now = yield* Clock.currentTimeMillis
        const plain = yield* sampled(postgres)
        assert.isBelow(Math.abs(plain.at - now), 5_000)
        assert.deepInclude(plain, {
          busy: 0,
          idleSince: null,
          autovacuum: 0,
          walsenders: 0,
          subscriptions: 0,
          statistics: null
        })
        assert.deepStrictEqual((yield* sampled(postgres, true)).statistics, { activeMillis: 0, sessions: 0 })
      })
    )
  }

  it.live("a query that runs is activity, also inside a transaction that rests", () =>
    Effect.gen(function* () {
      const { begin, postgres, state } = yield* watched()
      yield* begin
      const tenant = yield* postgres.connect("web")
      yield* tenant.simple("begin")
      yield* until(state, activeAfter(yield* Clock.currentTimeMillis))
      yield* until(state, activeAfter(yield* Clock.currentTimeMillis))
    })
  )

  it.live("a resting session was active when it began to rest, whatever the time zone", () =>
    Effect.gen(function* () {
      const { begin, postgres, state } = yield* watched(17, { timezone: "'Asia/Kathmandu'" })
      yield* postgres.rows(`alter role ${superuser} set timezone = 'Pacific/Kiritimati'`)
      const tenant = yield* postgres.connect("web")
      const before = yield* Clock.currentTimeMillis
      yield* tenant.simple("select 1")
      const after = yield* Clock.currentTimeMillis
      yield* begin
      const { lastActive } = yield* until(state, ({ lastActive }) => lastActive !== null)
      const at = lastActive?.epochMilliseconds ?? 0
      assert.isTrue(at >= before - 5 && at <= after + 5, `${before} ${at} ${after}`)
    })
  )

  it.live("our own sessions do not count; a tenant that borrows our name does", () =>
    Effect.gen(function* () {
      const { postgres } = yield* watched()
      const ours = yield* connect({ ...postgres.config(), applicationName: "compute_ctl:reconfigure" })
      const exporter = yield* connect({ ...postgres.config(), applicationName: "sql_exporter" })
      yield* Effect.forEach([ours, exporter], (wire) => wire.simple("begin"))
      assert.deepInclude(yield* sampled(postgres), { busy: 0, idleSince: null })
      const tenant = yield* connect({ ...postgres.config("web"), applicationName: "compute_ctl:compute_monitor" })
      yield* tenant.simple("begin")
      assert.deepInclude(yield* sampled(postgres), { busy: 1, idleSince: null })
    })
  )

  it.live("a follower is activity, a walproposer is not", () =>
    Effect.gen(function* () {
      const { postgres } = yield* watched()
      yield* walsender(postgres.port, "walproposer")
      assert.deepInclude(yield* sampled(postgres), { walsenders: 0 })
      yield* walsender(postgres.port, "standby-1")
      assert.deepInclude(yield* sampled(postgres), { walsenders: 1, busy: 0 })
    })
  )

  it.live("an autovacuum worker is activity", () =>
    Effect.gen(function* () {
      const { begin, postgres, state } = yield* watched(17, {
        autovacuum: "on",
        autovacuum_naptime: "1s",
        autovacuum_vacuum_threshold: "1",
        autovacuum_vacuum_scale_factor: "0",
        autovacuum_vacuum_cost_delay: "20ms",
        autovacuum_vacuum_cost_limit: "1"
      })
      yield* begin
      yield* postgres.rows("create table t as select g from generate_series(1, 20000) g; delete from t where g % 2 = 0")
      const { lastActive } = yield* until(state, ({ lastActive }) => lastActive !== null)
      assert.isTrue(lastActive !== null && DateTime.isDateTime(lastActive))
    })
  )

  it.live("with the feature, a session that came and went is activity", () =>
    Effect.gen(function* () {
      const { begin, postgres, state } = yield* watched()
      yield* postgres.rows("create database app")
      yield* state.note({ spec: { ...emptySpec, features: new Set(["activity_monitor_experimental"]) } })
      yield* begin
      // Statistics of a session are reported when it ends; until then nobody else is connected for long.
      yield* Effect.forkScoped(
        Effect.repeat(Effect.scoped(postgres.connect(superuser, "app")), Schedule.spaced("20 millis"))
      )
      yield* until(state, ({ lastActive }) => lastActive !== null)
    })
  )

  it.live("a killed connection is downtime for a moment, and a new connection", () =>
    Effect.gen(function* () {
      const { begin, postgres, state } = yield* watched()
      yield* begin
      const ours = "select pid from pg_stat_activity where application_name = 'compute_ctl:compute_monitor'"
      const downs = yield* state.changes.pipe(
        Stream.filter(({ downtime }) => downtime.total > 0),
        Stream.takeUntil(({ downtime }) => downtime.current === 0),
        Stream.runCollect,
        Effect.timeout("20 seconds"),
        Effect.forkScoped({ startImmediately: true })
      )
      const kill = Effect.gen(function* () {
        const pid = (yield* Effect.repeat(postgres.rows(ours), { until: (rows) => rows.length === 1 }))[0]?.[0]
        yield* postgres.rows(`select pg_terminate_backend(${pid})`)
        yield* Effect.repeat(postgres.rows(ours), { until: (rows) => rows.length === 1 && rows[0]?.[0] !== pid })
      })
      // One that is noticed within a millisecond of the last answer is no downtime yet.
      yield* Effect.repeat(kill, { until: () => downs.pollUnsafe() !== undefined })
      const seen = (yield* Fiber.join(downs)).map(({ downtime }) => downtime)
      assert.isAbove(seen[0]?.current ?? 0, 0)
      assert.deepInclude(seen.at(-1), { current: 0 })
      assert.strictEqual((yield* state.now).status, "running")
    })
  )
})
