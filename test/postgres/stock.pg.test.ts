/**
 * Stock Postgres reads what the plan writes: every line of every case, and every value as it was meant.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFile, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { promisify } from "node:util"
import { connect } from "../../src/pgwire/Wire.ts"
import type { PlanInputs } from "../../src/postgres/PlanInputs.ts"
import { parsePidFile, readPidFile } from "../../src/postgres/pidFile.ts"
import { openFiles, type PgdataFile, startPlan } from "../../src/postgres/startPlan.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { cleanEnvironment, type Cluster, configOf, makeCluster, runAs, tail } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"
import { cases, cloudSpec, neonFacts, option, osFacts, stock } from "./cases.ts"

const run = promisify(execFile)
const child = { cwd: "/", env: cleanEnvironment(), ...(runAs === null ? {} : { uid: runAs.uid, gid: runAs.gid }) }
const majors = [16, 17, 18]

const write = (cluster: Cluster, files: ReadonlyArray<PgdataFile>): void => {
  for (const { content, name } of files) {
    const file = path.join(cluster.pgdata, name)
    fs.writeFileSync(file, content)
    if (runAs !== null) fs.chownSync(file, runAs.uid, runAs.gid)
  }
}

/** The inputs of this machine: its Postgres, its platform, this cluster's folder and port. */
const here = (inputs: PlanInputs, cluster: Cluster): PlanInputs => ({
  ...inputs,
  platform: process.platform,
  postgresMajor: cluster.install.major,
  port: cluster.port,
  storage:
    inputs.storage._tag === "Neon"
      ? inputs.storage
      : { ...inputs.storage, pgdata: cluster.pgdata, sockets: cluster.sockets, osUsers: [os.userInfo().username] }
})

/** Neon's own unprefixed settings are all that stock Postgres refuses to read. */
const withoutForkSettings = (spec: ParsedSpec): ParsedSpec => ({
  ...spec,
  settings: spec.settings?.filter(({ name }) => !name.startsWith("max_replication_")) ?? null
})

const started = (cluster: Cluster) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const postgres = spawn(cluster.install.postgres, ["-D", cluster.pgdata], {
        ...child,
        stdio: ["ignore", "ignore", "pipe"]
      })
      let log = ""
      postgres.stderr.setEncoding("utf8").on("data", (text: string) => (log += text))
      const ready = () => parsePidFile(readPidFile(cluster.pgdata))?.status === "ready"
      for (let waited = 0; !ready(); waited += 10) {
        if (postgres.exitCode !== null || waited > 30_000)
          throw new Error(`Postgres did not become ready:\n${tail(log)}`)
        await pause(10)
      }
      return postgres
    }),
    (postgres) =>
      Effect.promise(async () => {
        if (postgres.exitCode !== null) return
        postgres.kill("SIGINT")
        await once(postgres, "exit")
      })
  )

const rows = (cluster: Cluster, sql: string, user?: string) =>
  Effect.scoped(
    Effect.flatMap(connect({ ...configOf(cluster)(user), host: cluster.sockets }), (wire) => wire.rows(sql))
  )

/** Asks until the answer is the wanted one: Postgres reads its files some time after the signal. */
const until = Effect.fnUntraced(function* (cluster: Cluster, sql: string, wanted: string) {
  for (let waited = 0; waited < 10_000; waited += 20) {
    const [row] = yield* rows(cluster, sql)
    if (row?.[0] === wanted) return
    yield* Effect.promise(() => pause(20))
  }
  assert.fail(`${sql} never became ${wanted}`)
})

describe.each(majors)("Postgres %i", (major) => {
  it.effect(
    "reads every line of every case",
    () =>
      Effect.gen(function* () {
        const cluster = yield* makeCluster({ major })
        write(cluster, [{ name: "more.conf", content: "work_mem = 5MB\n" }])
        for (const [name, spec, inputs] of cases) {
          const plan = startPlan(
            inputs.storage._tag === "Neon" ? withoutForkSettings(spec) : spec,
            here(inputs, cluster)
          )
          for (const files of [plan.starting, openFiles(plan)]) {
            write(cluster, files)
            yield* Effect.promise(() =>
              run(cluster.install.postgres, ["-D", cluster.pgdata, "-C", "fsync"], child).catch((cause: unknown) =>
                assert.fail(`${name}: ${String(cause)}`)
              )
            )
          }
        }
      }),
    60_000
  )

  it.effect(
    "keeps everyone but the superuser out of local storage until it is open, and then is durable",
    () =>
      Effect.gen(function* () {
        const cluster = yield* makeCluster({ major })
        const spec = {
          ...cloudSpec,
          settings: cloudSpec.settings?.filter(({ name }) => name !== "shared_preload_libraries") ?? null
        }
        const plan = startPlan(spec, here(osFacts, cluster))
        write(cluster, plan.starting)
        const postgres = yield* started(cluster)
        yield* rows(cluster, "CREATE ROLE web LOGIN PASSWORD 'secret'")
        const shut = yield* Effect.flip(rows(cluster, "SELECT 1", "web"))
        assert.include(shut.message, "pg_hba.conf rejects connection")
        assert.deepStrictEqual(yield* rows(cluster, "SHOW fsync"), [["off"]])

        write(cluster, plan.opening)
        postgres.kill("SIGHUP")
        yield* until(cluster, "SHOW fsync", "on")
        const open = yield* Effect.flip(rows(cluster, "SELECT 1", "web"))
        assert.notInclude(open.message, "pg_hba.conf", "connections are allowed, a password is asked for")
        const wanted = [
          "full_page_writes",
          "restart_after_crash",
          "synchronous_commit",
          "synchronous_standby_names",
          "wal_level",
          "dynamic_shared_memory_type",
          "wal_keep_size",
          "hba_file",
          "unix_socket_directories"
        ]
        const found = yield* rows(cluster, `SELECT ${wanted.map((name) => `current_setting('${name}')`).join(", ")}`)
        assert.deepStrictEqual(found, [
          ["on", "off", "on", "", "logical", "mmap", "2147483647MB", `${cluster.pgdata}/pg_hba.conf`, cluster.sockets]
        ])
        assert.deepStrictEqual(yield* rows(cluster, "SELECT * FROM pg_file_settings WHERE error IS NOT NULL"), [])
        assert.deepStrictEqual(yield* rows(cluster, "SELECT * FROM pg_hba_file_rules WHERE error IS NOT NULL"), [])
        if (major >= 15)
          assert.deepStrictEqual(
            yield* rows(cluster, "SELECT * FROM pg_ident_file_mappings WHERE error IS NOT NULL"),
            []
          )
      }),
    60_000
  )

  it.effect(
    "starts from a spec for Neon's storage, neon settings included",
    () =>
      Effect.gen(function* () {
        const cluster = yield* makeCluster({ major })
        const settings = [
          ...(withoutForkSettings(cloudSpec).settings?.filter(
            ({ name }) => !/^(port|shared_preload_libraries)$/.test(name)
          ) ?? []),
          option("port", String(cluster.port)),
          option("unix_socket_directories", cluster.sockets, true)
        ]
        const plan = startPlan({ ...cloudSpec, settings, dropSubscriptions: true }, here(neonFacts, cluster))
        write(cluster, plan.starting)
        const postgres = yield* started(cluster)
        assert.deepStrictEqual(yield* rows(cluster, "SELECT * FROM pg_file_settings WHERE error IS NOT NULL"), [])
        const names = ["neon.tenant_id", "neon.safekeepers", "cluster_name"]
        assert.deepStrictEqual(
          yield* rows(cluster, `SELECT ${names.map((name) => `current_setting('${name}')`).join(", ")}`),
          [[cloudSpec.tenant, "a:5454,b:5454", "it's a \\ name"]]
        )
        write(cluster, [{ name: "compute_ctl_temp_override.conf", content: plan.override ?? "" }])
        postgres.kill("SIGHUP")
        yield* until(cluster, "SELECT current_setting('neon.max_cluster_size', true)", "-1")
        write(cluster, plan.opening)
        postgres.kill("SIGHUP")
        yield* until(cluster, "SHOW neon.disable_logical_replication_subscribers", "false")
      }),
    60_000
  )
})

describe("Postgres 17", () => {
  it.effect(
    "reads back every value that tries to leave its line",
    () =>
      Effect.gen(function* () {
        const cluster = yield* makeCluster({ major: 17 })
        const parts = [
          "'",
          "\\",
          "\n",
          "\r",
          "\b",
          "\f",
          "#",
          "''",
          "\\'",
          "\\n",
          "\\101",
          "\\\n",
          "é",
          "\u2028",
          " ",
          "\t",
          "fsync = on",
          "0x1",
          "$x"
        ]
        const values = parts.flatMap((first) => parts.map((second) => `${first}${second}`))
        const settings = values.flatMap((value, index) => [
          option(`test.q${index}`, value, true),
          option(`test.b${index}`, value)
        ])
        write(cluster, startPlan({ ...emptySpec, settings }, here(osFacts, cluster)).starting)
        yield* started(cluster)
        assert.deepStrictEqual(yield* rows(cluster, "SHOW fsync"), [["off"]])
        const [quoted, bare] = yield* Effect.forEach(["q", "b"], (kind) =>
          rows(
            cluster,
            `SELECT current_setting('test.${kind}' || n) FROM generate_series(0, ${values.length - 1}) n ORDER BY n`
          )
        )
        assert.deepStrictEqual(
          quoted?.map(([value]) => value),
          values
        )
        for (const [index, value] of values.entries()) {
          // A bare value that is a whole quoted string keeps its own quotes' meaning.
          if (!/^'.*'$/s.test(value.trim())) assert.strictEqual(bare?.[index]?.[0], value.trim())
        }
      }),
    60_000
  )

  it.effect(
    "takes a superuser whose name looks like a regular expression for nobody else",
    () =>
      Effect.gen(function* () {
        const cluster = yield* makeCluster({ major: 17 })
        write(cluster, startPlan(emptySpec, here(osFacts, cluster)).starting)
        const postgres = yield* started(cluster)
        const names = ["/x.y", "/xay", "a/x.yb", "x.y"]
        for (const name of names) yield* rows(cluster, `CREATE ROLE "${name}" LOGIN SUPERUSER`)
        const inputs: PlanInputs = {
          ...osFacts,
          storage: { _tag: "Local", durability: "os", ...stock, superuser: "/x.y" }
        }
        write(cluster, startPlan(emptySpec, here(inputs, cluster)).starting)
        postgres.kill("SIGHUP")
        const admitted = (name: string) => Effect.isSuccess(rows(cluster, "SELECT 1", name))
        for (let waited = 0; yield* admitted("cloud_admin"); waited += 20) {
          assert.isBelow(waited, 10_000, "the new pg_hba.conf was never read")
          yield* Effect.promise(() => pause(20))
        }
        assert.deepStrictEqual(yield* Effect.forEach(names, admitted), [true, false, false, false])
      }),
    60_000
  )

  it.effect(
    "refuses a setting without a value, which is why it is left out",
    () =>
      Effect.gen(function* () {
        const cluster = yield* makeCluster({ major: 17 })
        const check = () =>
          run(cluster.install.postgres, ["-D", cluster.pgdata, "-C", "fsync"], child).then(
            () => "read",
            () => "refused"
          )
        write(cluster, [{ name: "postgresql.conf", content: "work_mem\n" }])
        assert.strictEqual(yield* Effect.promise(check), "refused")
        const spec = {
          ...emptySpec,
          settings: [option("work_mem", null), option("a b", "1"), option("config_file", "x", true)]
        }
        write(cluster, startPlan(spec, here(osFacts, cluster)).starting)
        assert.strictEqual(yield* Effect.promise(check), "read")
      }),
    60_000
  )
})
