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
import * as Stream from "effect/Stream"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import { connect as dial, type Socket } from "node:net"
import { monitor, readSample, sampleSql } from "../../src/activity/ActivityMonitor.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import type { Snapshot } from "../../src/compute/snapshot.ts"
import { Admin } from "../../src/pgwire/Admin.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import { installs, startPostgres, superuser, type TestPostgres } from "../support/postgres.ts"
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
  const ours = yield* Effect.provide(Admin, context)
  const begin = Effect.forkScoped(
    monitor({ every: Duration.millis(20), within: Duration.seconds(5) }).run.pipe(Effect.provide(context)),
    { startImmediately: true }
  )
  return { postgres, state, begin, admin: ours }
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

/** Returns when the monitor has begun so many more looks. */
const looksPass = Effect.fnUntraced(function* (postgres: TestPostgres, many: number) {
  const begun = Effect.map(
    postgres.rows("select query_start from pg_stat_activity where application_name ~ 'compute_monitor'"),
    (rows) => rows[0]?.[0] ?? null
  )
  for (let seen = 0; seen < many; seen++) {
    const last = yield* begun
    yield* Effect.repeat(begun, { until: (now) => now !== null && now !== last })
  }
})

const noOwn = { begun: 0, opened: 0, atMost: 0, open: 0 }
const noneOfOurs = { before: noOwn, after: noOwn }

/** One sample by hand, over a session like the monitor's. */
const sampled = (postgres: { readonly port: number }) =>
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
      return Option.getOrThrow(readSample((yield* wire.rows(sampleSql(superuser)))[0], noneOfOurs))
    })
  )

/** A connection until the scope ends, from its start-up packet to the first bytes that `isThere` accepts. */
const dialled = (
  port: number,
  parameters: Readonly<Record<string, string>>,
  isThere: (answer: Buffer) => boolean
): Effect.Effect<Socket, unknown, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<Socket, Error>((resume) => {
      const pairs = Object.entries(parameters)
      const body = Buffer.from(`${pairs.map(([name, value]) => `${name}\0${value}\0`).join("")}\0`)
      const head = Buffer.alloc(8)
      head.writeInt32BE(body.length + 8, 0)
      head.writeInt32BE(196_608, 4)
      const socket = dial(port, "127.0.0.1", () => socket.write(Buffer.concat([head, body])))
      socket.on("error", () => undefined)
      socket.on("close", () => resume(Effect.fail(new Error("the server has closed the connection"))))
      socket.on("data", (bytes: Buffer) => (isThere(bytes) ? resume(Effect.succeed(socket)) : undefined))
    }),
    (socket) => Effect.sync(() => socket.destroy())
  ).pipe(Effect.timeout("10 seconds"))

/** By hand, because `pgwire/Wire` makes none of these. The last message of a start-up is ReadyForQuery: `Z`, 5, `I`. */
const walsender = (port: number, applicationName: string) =>
  dialled(
    port,
    { user: superuser, replication: "true", application_name: applicationName },
    (bytes) => bytes.subarray(-6, -5).toString() === "Z"
  )

/** Is asked for a password, and never says one. */
const stranger = Effect.fnUntraced(function* (postgres: TestPostgres) {
  const hba = `${postgres.pgdata}/pg_hba.conf`
  fs.writeFileSync(hba, `host all stranger 127.0.0.1/32 scram-sha-256\n${fs.readFileSync(hba, "utf8")}`)
  yield* postgres.rows("create role stranger login; select pg_reload_conf()")
  // Until the postmaster has read it, the start-up goes on without a password.
  yield* Effect.retry(
    dialled(postgres.port, { user: "stranger", database: "postgres" }, (bytes) => bytes.readInt32BE(5) === 10).pipe(
      Effect.timeout("200 millis")
    ),
    { times: 50 }
  )
})

describe("the monitor on a real Postgres", () => {
  for (const { major } of installs) {
    it.live(`asks valid SQL of Postgres ${major}; who has not logged in yet is nobody`, () =>
      Effect.gen(function* () {
        const { postgres } = yield* watched(major)
        const now = yield* Clock.currentTimeMillis
        // Accepted, and silent: Postgres waits a minute for what comes after the start-up packet.
        yield* stranger(postgres)
        const sample = yield* sampled(postgres)
        assert.isBelow(Math.abs(sample.at - now), 5_000)
        assert.deepInclude(sample, {
          busy: 0,
          idleSince: null,
          autovacuum: 0,
          walsenders: 0,
          subscriptions: 0
        })
        assert.deepInclude(sample.statistics, { activeMillis: 0, sessions: 0, quiet: true })
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

  it.live("a session whose role was dropped is activity", () =>
    Effect.gen(function* () {
      const { postgres } = yield* watched()
      const tenant = yield* postgres.connect("web")
      yield* tenant.simple("begin")
      yield* postgres.rows("drop role web")
      assert.deepInclude(yield* sampled(postgres), { busy: 1 })
    })
  )

  it.live("without track_activities a session rests unless it is inside a transaction", () =>
    Effect.gen(function* () {
      const { postgres } = yield* watched(17, { track_activities: "off" })
      const tenant = yield* postgres.connect("web")
      const resting = yield* sampled(postgres)
      assert.deepInclude(resting, { busy: 0 })
      assert.isNotNull(resting.idleSince)
      yield* tenant.simple("begin; select 1")
      assert.deepInclude(yield* sampled(postgres), { busy: 1, idleSince: null })
      yield* tenant.simple("commit")
      assert.deepInclude(yield* sampled(postgres), { busy: 0, idleSince: resting.idleSince })
    })
  )

  it.live("a follower is activity, whatever it calls itself", () =>
    Effect.gen(function* () {
      const { postgres } = yield* watched()
      yield* walsender(postgres.port, "walproposer")
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

  it.live("an autovacuum worker that finds nothing to do is none", () =>
    Effect.gen(function* () {
      const { postgres } = yield* watched(17, {
        autovacuum: "on",
        autovacuum_naptime: "1s",
        autovacuum_vacuum_threshold: "1000000000",
        autovacuum_vacuum_insert_threshold: "-1",
        autovacuum_analyze_threshold: "1000000000"
      })
      // Each that was ever connected to is looked into: the more, the more workers.
      for (let n = 0; n < 8; n++) {
        yield* postgres.rows(`create database many_${n}`)
        yield* postgres.rows("select 1", `many_${n}`)
      }
      const look = yield* postgres.connect()
      const workers = "select count(*) from pg_stat_activity where backend_type = 'autovacuum worker'"
      // In one transaction, both see the same processes.
      const seen = yield* look
        .simple(`begin; ${workers}; ${sampleSql(superuser)}; commit`)
        .pipe(
          Effect.repeat({ until: ([, counted]) => Number(counted?.rows[0]?.[0]) > 0 }),
          Effect.timeout("30 seconds")
        )
      assert.deepInclude(Option.getOrThrow(readSample(seen[2]?.rows[0], noneOfOurs)), { autovacuum: 0 })
    })
  )

  it.live("a session that came and went is activity; one of ours is none", () =>
    Effect.gen(function* () {
      const { admin, begin, postgres, state } = yield* watched()
      yield* postgres.rows("create database app")
      yield* begin
      yield* looksPass(postgres, 3)
      for (let times = 0; times < 20; times++)
        yield* Effect.scoped(
          Effect.flatMap(admin.connect("get_installed_extensions", "app"), (wire) => wire.rows("select 1"))
        )
      yield* looksPass(postgres, 5)
      assert.isNull((yield* state.now).lastActive)
      const before = yield* Clock.currentTimeMillis
      yield* Effect.scoped(Effect.flatMap(postgres.connect("web", "app"), ({ terminate }) => terminate))
      yield* until(state, activeAfter(before))
      assert.isNotNull((yield* state.now).activity?.last.statistics)
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
