/**
 * The postmaster over real Postgres: starts, readiness, every way to leave, and the report of it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import * as path from "node:path"
import { PostmasterNotReady } from "../../src/errors/Failure.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import type { ShutdownStage } from "../../src/platform/shutdownStages.ts"
import { configOf, freePort, installs, makeCluster, runAs } from "../support/postgres.ts"
import { eventually } from "../support/waiting.ts"
import { postmasterOver, isGone, makePostmaster, processesOf } from "./clusters.ts"

const noToken = { token: null }
const stage = (signal: ShutdownStage["signal"], graceMillis: number): ShutdownStage => ({
  signal,
  grace: Duration.millis(graceMillis),
  meaning: "a test"
})
/** Long enough that only an escalation can end it within a test. */
const slowStages = [stage("SIGINT", 300_000), stage("SIGQUIT", 300_000), stage("SIGKILL", 10_000)]
const fastStages = [stage("SIGINT", 50), stage("SIGQUIT", 50), stage("SIGKILL", 10_000)]

for (const { major } of installs) {
  describe(`Postgres ${major}`, () => {
    it.live("starts, is ready, and leaves although a client stays connected", () =>
      Effect.gen(function* () {
        const { cluster, log, start } = yield* makePostmaster({ major })
        const running = yield* start(noToken)
        yield* running.ready
        const wire = yield* connect(configOf(cluster)())
        // A smart stop would wait for this client; the stages must not.
        assert.deepStrictEqual(yield* wire.rows("select 41 + 1"), [["42"]])
        const exit = yield* running.stop
        assert.deepStrictEqual(exit, { _tag: "Code", code: 0 })
        assert.deepStrictEqual(yield* running.exit, exit)
        assert.isTrue(isGone(running.pid))
        assert.deepStrictEqual(processesOf(cluster.pgdata), [])
        assert.isFalse(fs.existsSync(path.join(cluster.pgdata, "postmaster.pid")))
        assert.match(log(), /^PG:.*ready to accept connections\n/m)
        assert.match(log(), /PG:.*database system is shut down\n$/)
      })
    )

    it.live("says why when its configuration is wrong", () =>
      Effect.gen(function* () {
        const { start } = yield* makePostmaster({ major, settings: { no_such_setting: "on" } })
        const failure = yield* Effect.flip(Effect.flatMap(start(noToken), ({ ready }) => ready))
        if (!(failure instanceof PostmasterNotReady)) return assert.fail(failure.message)
        assert.match(failure.reason, /exit code 1.*configuration has an error/)
        assert.match(failure.log.join("\n"), /unrecognized configuration parameter "no_such_setting"/)
      })
    )
  })
}

describe("stopping", () => {
  it.live("escalates to SIGKILL when the postmaster does not react", () =>
    Effect.gen(function* () {
      const { cluster, start } = yield* makePostmaster({}, { stages: fastStages })
      const running = yield* start(noToken)
      yield* running.ready
      process.kill(running.pid, "SIGSTOP")
      assert.deepStrictEqual(yield* running.stop, { _tag: "Signal", signal: "SIGKILL" })
      assert.isTrue(isGone(running.pid))
      // Its children notice that they are orphans and leave by themselves.
      yield* eventually("the orphans left", () => processesOf(cluster.pgdata).length === 0)
    })
  )

  it.live("is one stop for all who ask, and an interrupted one goes on", () =>
    Effect.gen(function* () {
      const { start } = yield* makePostmaster()
      const running = yield* start(noToken)
      yield* running.ready
      const first = yield* Effect.forkChild(running.stop, { startImmediately: true })
      yield* Fiber.interrupt(first)
      const exits = yield* Effect.all([running.stop, running.stop, running.exit], { concurrency: 3 })
      for (const exit of exits) assert.deepStrictEqual(exit, { _tag: "Code", code: 0 })
    })
  )

  it.live("is escalated stage by stage", () =>
    Effect.gen(function* () {
      const { start } = yield* makePostmaster({}, { stages: slowStages })
      const running = yield* start(noToken)
      yield* running.ready
      process.kill(running.pid, "SIGSTOP")
      const stopping = yield* Effect.forkChild(running.stop, { startImmediately: true })
      yield* running.escalate
      yield* running.escalate
      assert.deepStrictEqual(yield* Fiber.join(stopping), { _tag: "Signal", signal: "SIGKILL" })
    })
  )

  it.live("begins with the first stage when it was only escalated", () =>
    Effect.gen(function* () {
      const { start } = yield* makePostmaster({}, { stages: slowStages })
      const running = yield* start(noToken)
      yield* running.ready
      yield* running.escalate
      assert.deepStrictEqual(yield* running.exit, { _tag: "Code", code: 0 })
    })
  )

  it.live("happens at the end of the scope", () =>
    Effect.gen(function* () {
      const { cluster, log, start } = yield* makePostmaster()
      const pid = yield* Effect.scoped(
        Effect.flatMap(start(noToken), (running) => Effect.as(running.ready, running.pid))
      )
      assert.isTrue(isGone(pid))
      assert.deepStrictEqual(processesOf(cluster.pgdata), [])
      assert.match(log(), /database system is shut down\n$/)
    })
  )

  it.live("happens in the middle of a start too", () =>
    Effect.gen(function* () {
      const { cluster, start } = yield* makePostmaster()
      const pid = yield* Effect.scoped(Effect.map(start(noToken), (running) => running.pid))
      assert.isTrue(isGone(pid))
      assert.deepStrictEqual(processesOf(cluster.pgdata), [])
    })
  )
})

describe("leaving unasked", () => {
  it.live("is reported as the signal it was", () =>
    Effect.gen(function* () {
      const { cluster, start } = yield* makePostmaster()
      const running = yield* start(noToken)
      yield* running.ready
      process.kill(running.pid, "SIGKILL")
      assert.deepStrictEqual(yield* running.exit, { _tag: "Signal", signal: "SIGKILL" })
      assert.isNotEmpty(yield* running.recentLog)
      yield* eventually("the orphans left", () => processesOf(cluster.pgdata).length === 0)
    })
  )

  it.live("before it is ready fails the readiness with its last log records", () =>
    Effect.gen(function* () {
      const cluster = yield* makeCluster()
      fs.rmSync(path.join(cluster.pgdata, "global/pg_control"))
      const { start } = yield* postmasterOver(cluster)
      const failure = yield* Effect.flip(Effect.flatMap(start(noToken), ({ ready }) => ready))
      assert.match(failure.message, /left before it was ready.*pg_control/)
    })
  )

  it.live("of a second Postgres on the same folder leaves the first alone", () =>
    Effect.gen(function* () {
      const { cluster, start } = yield* makePostmaster()
      const first = yield* start(noToken)
      yield* first.ready
      // Looked for on another port, so that the taken one is not what stops it.
      const second = yield* postmasterOver({ ...cluster, port: yield* freePort })
      const failure = yield* Effect.flip(Effect.scoped(Effect.flatMap(second.start(noToken), ({ ready }) => ready)))
      assert.match(failure.message, /another Postgres runs in this data directory/)
      assert.strictEqual((yield* Effect.flip(Effect.scoped(start(noToken))))._tag, "PostgresPortTaken")
      const wire = yield* connect(configOf(cluster)())
      assert.deepStrictEqual(yield* wire.rows("select 1"), [["1"]])
    })
  )
})

describe("readiness", () => {
  it.live("has a limit, after which Postgres is stopped", () =>
    Effect.gen(function* () {
      // A standby whose primary does not exist recovers for ever without becoming ready.
      const cluster = yield* makeCluster({ settings: { hot_standby: "off" } })
      fs.writeFileSync(path.join(cluster.pgdata, "standby.signal"), "")
      if (runAs !== null) fs.chownSync(path.join(cluster.pgdata, "standby.signal"), runAs.uid, runAs.gid)
      const { start } = yield* postmasterOver(cluster, { readyWithin: Duration.millis(700) })
      const running = yield* start(noToken)
      const failure = yield* Effect.flip(running.ready)
      assert.match(failure.message, /not ready within 700 ms and was stopped/)
      assert.isTrue(isGone(running.pid))
    })
  )

  it.live("is what a hot standby reaches once it can be read", () =>
    Effect.gen(function* () {
      const cluster = yield* makeCluster()
      fs.writeFileSync(path.join(cluster.pgdata, "standby.signal"), "")
      if (runAs !== null) fs.chownSync(path.join(cluster.pgdata, "standby.signal"), runAs.uid, runAs.gid)
      const { start } = yield* postmasterOver(cluster)
      yield* Effect.flatMap(start(noToken), ({ ready }) => ready)
      const wire = yield* connect(configOf(cluster)())
      assert.deepStrictEqual(yield* wire.rows("select pg_is_in_recovery()"), [["t"]])
    })
  )

  it.live("is not taken from a file that a dead Postgres left", () =>
    Effect.gen(function* () {
      const { cluster, log, start } = yield* makePostmaster({}, { stages: fastStages })
      const dead = yield* start(noToken)
      yield* dead.ready
      process.kill(dead.pid, "SIGKILL")
      yield* dead.exit
      yield* eventually("the orphans left", () => processesOf(cluster.pgdata).length === 0)
      assert.match(fs.readFileSync(path.join(cluster.pgdata, "postmaster.pid"), "utf8"), /ready/)
      const before = log().length
      const running = yield* start(noToken)
      yield* running.ready
      yield* eventually("it recovered first", () =>
        /automatic recovery[^]*ready to accept connections/.test(log().slice(before))
      )
    })
  )
})

describe("what Postgres is given", () => {
  /** The environment of a running process, as the kernel has it. */
  const environment = (pid: number) => fs.readFileSync(`/proc/${pid}/environ`, "utf8").split("\0")

  it.live("is the token when there is one, and never an ambient one", () =>
    Effect.gen(function* () {
      if (!fs.existsSync("/proc/self/environ")) return
      process.env["NEON_AUTH_TOKEN"] = "ambient"
      yield* Effect.addFinalizer(() => Effect.sync(() => delete process.env["NEON_AUTH_TOKEN"]))
      const { start } = yield* makePostmaster({}, { extraEnv: { COMPUTE_TEST: "1" } })
      for (const [token, expected] of [
        [null, undefined],
        [Redacted.make("secret"), "NEON_AUTH_TOKEN=secret"]
      ] as const) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const running = yield* start({ token })
            yield* running.ready
            const seen = environment(running.pid)
            assert.strictEqual(
              seen.find((variable) => variable.startsWith("NEON_AUTH_TOKEN")),
              expected
            )
            assert.include(seen, "COMPUTE_TEST=1")
          })
        )
      }
    })
  )

  it.live("is a user other than root", () =>
    Effect.gen(function* () {
      if (runAs === null || !fs.existsSync("/proc/self/status")) return
      const { start } = yield* makePostmaster()
      const running = yield* start(noToken)
      yield* running.ready
      const status = fs.readFileSync(`/proc/${running.pid}/status`, "utf8")
      assert.match(status, new RegExp(`^Uid:\\t${runAs.uid}\\t${runAs.uid}\\t${runAs.uid}`, "m"))
      assert.match(status, new RegExp(`^Gid:\\t${runAs.gid}\\t${runAs.gid}\\t${runAs.gid}`, "m"))
      assert.match(status, /^Groups:\s*$/m, "root's own groups are dropped")
    })
  )

  it.live("is read again on reload", () =>
    Effect.gen(function* () {
      const { cluster, start } = yield* makePostmaster({ settings: { work_mem: "'4MB'" } })
      const running = yield* start(noToken)
      yield* running.ready
      fs.appendFileSync(path.join(cluster.pgdata, "postgresql.conf"), "work_mem = '7MB'\n")
      yield* running.reload
      const wire = yield* connect(configOf(cluster)())
      const reread = Effect.map(wire.rows("show work_mem"), ([row]) => row?.[0] === "7MB")
      yield* eventually("the new work_mem", () => reread)
    })
  )
})
