/**
 * The file cache on a real Postgres. A stock one does not know Neon's settings; given placeholders of the same names
 * in its configuration file, Postgres 17 and later let them be changed as the extension would.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type { ConnString } from "../../src/pgwire/ConnString.ts"
import { proveOurs } from "../../src/postgres/ownership.ts"
import { superuser, startPostgres, type TestPostgres } from "../support/postgres.ts"
import { type Agent, connectAgent, fakeCgroup, GiB, MiB, startMonitor } from "./scriptedAgent.ts"

const at = (port: number, user = superuser): ConnString => ({
  host: "127.0.0.1",
  port,
  user,
  password: Redacted.make("never logged"),
  database: "postgres",
  options: null,
  applicationName: "vm-monitor"
})

const neonLike = (major = 17, cap = "4GB") =>
  startPostgres({
    major,
    settings: { "neon.max_file_cache_size": `'${cap}'`, "neon.file_cache_size_limit": "'0'", log_statement: "'all'" }
  })

const mine = "from pg_stat_activity where application_name = 'vm-monitor'"
const within = <A, E, R>(what: string, effect: Effect.Effect<A, E, R>) =>
  Effect.timeoutOrElse(effect, {
    duration: "30 seconds",
    orElse: () => Effect.die(new Error(`it did not come to that: ${what}`))
  })

/** The limit as a new session sees it, once it is that. */
const limitIs = (postgres: TestPostgres, wanted: string) =>
  within(
    `a limit of ${wanted}`,
    Effect.repeat(postgres.rows("select current_setting('neon.file_cache_size_limit')"), {
      until: (rows) => rows[0]?.[0] === wanted
    })
  )

const pidOfMonitor = (postgres: TestPostgres) =>
  within("a session", Effect.repeat(postgres.rows(`select pid ${mine}`), { until: (rows) => rows.length === 1 })).pipe(
    Effect.map((rows) => Number(rows[0]?.[0]))
  )

const downscale = Effect.fnUntraced(function* (agent: Agent, id: number, mem: number) {
  yield* agent.send("DownscaleRequest", id, { target: { cpu: 0.25, mem } })
  return yield* agent.answer
})

/** Statements of the monitor in Postgres's log, in order. */
const statements = (postgres: TestPostgres): ReadonlyArray<string> =>
  postgres
    .log()
    .split("\n")
    .flatMap((line) => /statement: ((?:SELECT pg_catalog|ALTER SYSTEM).*)$/.exec(line)?.[1] ?? [])

describe("the file cache", () => {
  it.live("is set at the start from the machine's total, then by every command, and capped", () =>
    Effect.gen(function* () {
      const postgres = yield* neonLike()
      const { port, until } = yield* startMonitor({ fileCacheConnstr: at(postgres.port) })
      const agent = yield* connectAgent(port)
      yield* until(({ cacheBytes }) => cacheBytes === 1536 * MiB)
      yield* limitIs(postgres, "1536")
      assert.deepStrictEqual(
        statements(postgres).map((one) => one.replace(/pg_catalog\./g, "")),
        [
          "SELECT pg_size_bytes(current_setting('neon.file_cache_size_limit', true))",
          "SELECT pg_size_bytes(current_setting('neon.max_file_cache_size', true))",
          "SELECT pg_size_bytes(current_setting('neon.max_file_cache_size', true))",
          "ALTER SYSTEM SET neon.file_cache_size_limit = 1536",
          "SELECT pg_reload_conf()"
        ]
      )
      assert.deepStrictEqual(yield* downscale(agent, 2, GiB), {
        type: "DownscaleResult",
        Ok: true,
        Status: "set file cache size to 607 MiB",
        id: 2
      })
      yield* limitIs(postgres, "607")
      yield* agent.send("UpscaleNotification", 4, { granted: { cpu: 8, mem: 64 * GiB } })
      assert.deepStrictEqual(yield* agent.next, { type: "UpscaleConfirmation", id: 4 })
      yield* limitIs(postgres, "4096")
      assert.deepStrictEqual(
        statements(postgres)
          .slice(-3)
          .map((one) => one.replace(/pg_catalog\./g, "")),
        [
          "SELECT pg_size_bytes(current_setting('neon.max_file_cache_size', true))",
          "ALTER SYSTEM SET neon.file_cache_size_limit = 4096",
          "SELECT pg_reload_conf()"
        ]
      )
      assert.notInclude(postgres.log(), "never logged")
    })
  )

  it.live("and the cgroup are set together, the file cache first", () =>
    Effect.gen(function* () {
      const postgres = yield* neonLike(18)
      const { root } = yield* fakeCgroup
      const { port, until } = yield* startMonitor({
        fileCacheConnstr: at(postgres.port),
        cgroup: "neon-postgres",
        cgroupRoot: root
      })
      const agent = yield* connectAgent(port)
      yield* until(({ cacheBytes, samples }) => samples >= 5 && cacheBytes !== null)
      assert.deepStrictEqual(yield* downscale(agent, 2, GiB), {
        type: "DownscaleResult",
        Ok: true,
        Status:
          "set file cache size to 607 MiB; " +
          "set cgroup memory threshold from 1740.8 MiB to 785.4 MiB, of new total 924 MiB",
        id: 2
      })
    })
  )

  it.live("of a stock Postgres is nothing to manage; the cgroup is", () =>
    Effect.gen(function* () {
      const postgres = yield* startPostgres({ settings: { log_statement: "'all'" } })
      const { root } = yield* fakeCgroup
      const { port, counts, until } = yield* startMonitor({
        fileCacheConnstr: at(postgres.port),
        cgroup: "neon-postgres",
        cgroupRoot: root
      })
      const agent = yield* connectAgent(port)
      yield* until(({ samples }) => samples >= 5)
      yield* within(
        "both questions",
        Effect.repeat(
          Effect.sync(() => statements(postgres).length),
          { until: (count) => count === 2 }
        )
      )
      assert.deepInclude(yield* downscale(agent, 2, GiB), {
        Ok: true,
        Status: "set cgroup memory threshold from 1740.8 MiB to 785.4 MiB, of new total 924 MiB"
      })
      assert.strictEqual((yield* counts).cacheBytes, null)
      assert.notInclude(postgres.log(), "ALTER SYSTEM")
    })
  )

  it.live("is left alone when resizing is disabled", () =>
    Effect.gen(function* () {
      const postgres = yield* neonLike()
      const { port } = yield* startMonitor({ fileCacheConnstr: at(postgres.port), disableLfcResizing: () => true })
      const agent = yield* connectAgent(port)
      assert.deepInclude(yield* downscale(agent, 2, GiB), { Status: "monitor is not managing cgroup or file cache" })
      assert.deepStrictEqual(statements(postgres), [])
    })
  )

  it.live("of another Postgres on our port is neither asked about nor changed", () =>
    Effect.gen(function* () {
      const [ours, other] = yield* Effect.all([startPostgres(), neonLike()])
      const { port } = yield* startMonitor({ fileCacheConnstr: at(other.port), proveFileCache: proveOurs(ours) })
      const agent = yield* connectAgent(port)
      assert.deepInclude(yield* downscale(agent, 2, GiB), { Status: "monitor is not managing cgroup or file cache" })
      yield* limitIs(other, "0")
      assert.deepStrictEqual(statements(other), [])
    })
  )

  it.live("of our own Postgres is proven to be its and set", () =>
    Effect.gen(function* () {
      const ours = yield* neonLike()
      const { until } = yield* startMonitor({ fileCacheConnstr: at(ours.port), proveFileCache: proveOurs(ours) }).pipe(
        Effect.tap(({ port }) => connectAgent(port))
      )
      yield* until(({ cacheBytes }) => cacheBytes === 1536 * MiB)
      yield* limitIs(ours, "1536")
    })
  )

  it.live("that cannot be reached is done without, and set once it can be", () =>
    Effect.gen(function* () {
      const postgres = yield* neonLike()
      const { port, counts } = yield* startMonitor({ fileCacheConnstr: at(postgres.port, "late") })
      const agent = yield* connectAgent(port)
      assert.deepInclude(yield* downscale(agent, 2, GiB), {
        Ok: true,
        Status: "monitor is not managing cgroup or file cache"
      })
      assert.strictEqual((yield* counts).cacheBytes, null)
      yield* postgres.rows("create role late superuser login")
      yield* limitIs(postgres, "1536")
      assert.deepInclude(yield* downscale(agent, 4, GiB), { Ok: true, Status: "set file cache size to 607 MiB" })
    })
  )

  it.live("that does not obey fails the command, and the threshold stays", () =>
    Effect.gen(function* () {
      const postgres = yield* neonLike()
      yield* postgres.rows("create role weak superuser login")
      const { root } = yield* fakeCgroup
      const { port, counts, until } = yield* startMonitor({
        fileCacheConnstr: at(postgres.port, "weak"),
        cgroup: "neon-postgres",
        cgroupRoot: root
      })
      const agent = yield* connectAgent(port)
      yield* until(({ cacheBytes, samples }) => samples >= 5 && cacheBytes !== null)
      const { thresholdBytes } = yield* counts
      yield* postgres.rows("alter role weak nosuperuser")
      assert.deepStrictEqual(yield* downscale(agent, 2, GiB), {
        type: "InternalError",
        error: "failed to downscale",
        id: 2
      })
      yield* agent.send("UpscaleNotification", 4, { granted: { cpu: 1, mem: 4 * GiB } })
      assert.deepStrictEqual(yield* agent.next, { type: "InternalError", error: "failed to handle upscale", id: 4 })
      assert.deepInclude(yield* counts, { thresholdBytes, downscalesFailed: 1, upscalesFailed: 1 })
      yield* postgres.rows("alter role weak superuser")
      assert.deepInclude(yield* downscale(agent, 6, GiB), { Ok: true, id: 6 })
    })
  )

  it.live("a session that was killed is replaced within the command", () =>
    Effect.gen(function* () {
      const postgres = yield* neonLike()
      const { port, until } = yield* startMonitor({ fileCacheConnstr: at(postgres.port) })
      const agent = yield* connectAgent(port)
      yield* until(({ cacheBytes }) => cacheBytes !== null)
      const pid = yield* pidOfMonitor(postgres)
      yield* postgres.rows(`select pg_terminate_backend(${pid}, 10000)`)
      assert.deepInclude(yield* downscale(agent, 2, GiB), { Ok: true, Status: "set file cache size to 607 MiB" })
      assert.notStrictEqual(yield* pidOfMonitor(postgres), pid)
    })
  )
})

describe("slow SQL", () => {
  /** Stops the backend of the monitor's session until the scope ends or the effect that it answers runs. */
  const frozen = (pid: number) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        process.kill(pid, "SIGSTOP")
        return Effect.sync(() => process.kill(pid, "SIGCONT"))
      }),
      (thaw) => Effect.ignore(Effect.sandbox(thaw))
    )

  it.live("does not keep health checks waiting; the command is answered after them, and so is the next one", () =>
    Effect.gen(function* () {
      const postgres = yield* neonLike()
      const { port, until } = yield* startMonitor({ fileCacheConnstr: at(postgres.port) })
      const agent = yield* connectAgent(port)
      yield* until(({ cacheBytes }) => cacheBytes !== null)
      yield* frozen(yield* pidOfMonitor(postgres))
      yield* agent.send("DownscaleRequest", 2, { target: { cpu: 0.25, mem: GiB } })
      for (let id = 4; id <= 20; id += 2) {
        yield* agent.send("HealthCheck", id)
        assert.deepStrictEqual(yield* agent.next, { type: "HealthCheck", id })
      }
      const answer = yield* agent.next
      assert.strictEqual(answer["id"], 2)
      assert.include(["DownscaleResult", "InternalError"], answer["type"])
      // Reading is tried again over a new connection, so the frozen session may not even be noticed.
      assert.deepInclude(yield* downscale(agent, 22, GiB), { Ok: true })
    })
  )

  it.live("is abandoned with the agent that dies meanwhile, and with the one that is replaced", () =>
    Effect.gen(function* () {
      const postgres = yield* neonLike()
      const { port, until } = yield* startMonitor({ fileCacheConnstr: at(postgres.port) })
      const first = yield* connectAgent(port)
      yield* until(({ cacheBytes }) => cacheBytes !== null)
      const thawFirst = yield* frozen(yield* pidOfMonitor(postgres))
      yield* first.send("DownscaleRequest", 2, { target: { cpu: 0.25, mem: GiB } })
      yield* first.send("HealthCheck", 4)
      assert.deepStrictEqual(yield* first.next, { type: "HealthCheck", id: 4 })
      first.socket.terminate()
      yield* until(({ connected }) => connected === 0)
      yield* thawFirst

      const second = yield* connectAgent(port)
      yield* within(
        "one session",
        Effect.repeat(postgres.rows(`select pid ${mine}`), { until: (rows) => rows.length === 1 })
      )
      yield* limitIs(postgres, "1536")
      const thawSecond = yield* frozen(yield* pidOfMonitor(postgres))
      yield* second.send("DownscaleRequest", 2, { target: { cpu: 0.25, mem: GiB } })
      const third = yield* connectAgent(port)
      assert.deepInclude(yield* second.closed, { code: 1001 })
      yield* thawSecond
      yield* third.send("HealthCheck", 2)
      assert.deepStrictEqual(yield* third.next, { type: "HealthCheck", id: 2 })
      third.socket.close(1000)
      yield* third.closed
      yield* within(
        "no session",
        Effect.repeat(postgres.rows(`select pid ${mine}`), { until: (rows) => rows.length === 0 })
      )
    })
  )
})
