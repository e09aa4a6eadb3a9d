/**
 * As much of a compute's lifecycle as local storage needs: claim, restore, settings, spawn, ready, open, secure, and
 * the ways a compute ends. The real lifecycle is not used, so that a fault here points at the storage.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { afterAll } from "vitest"
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { ComputeState } from "../../../src/compute/ComputeState.ts"
import type { ExitStatus, Failure } from "../../../src/errors/Failure.ts"
import { Admin } from "../../../src/pgwire/Admin.ts"
import { connect, type Wire } from "../../../src/pgwire/Wire.ts"
import { locksOf } from "../../../src/platform/flock.ts"
import { Spawn } from "../../../src/platform/Spawn.ts"
import { PostgresInstall } from "../../../src/postgres/PostgresInstall.ts"
import type { TimelineId } from "../../../src/spec/identifiers.ts"
import type { ParsedSpec } from "../../../src/spec/ParsedSpec.ts"
import { LocalStorage, type LocalStorageOptions } from "../../../src/storage/local/LocalStorage.ts"
import { Storage, type Timeline } from "../../../src/storage/Storage.ts"
import {
  cleanEnvironment,
  configOf,
  freePort,
  type Install,
  makeCluster,
  runAs,
  superuser,
  tail,
  temporaryFolder
} from "../../support/postgres.ts"
import { emptySpec } from "../../support/specs.ts"

const known = new Map<number, Install>()

/** An installation that the run-as user can execute. */
const installFor = (major: number): Effect.Effect<Install> =>
  Effect.suspend(() => {
    const install = known.get(major)
    return install === undefined
      ? Effect.scoped(
          Effect.map(makeCluster({ major }), (made) => {
            known.set(major, made.install)
            return made.install
          })
        )
      : Effect.succeed(install)
  })

const seedClusters = new Map<number, string>()
afterAll(() => {
  for (const folder of seedClusters.values()) fs.rmSync(folder, { recursive: true, force: true })
  seedClusters.clear()
})

/** initdb takes a second or two; its result is made once per test file, by the storage itself, and copied. */
const giveSeedCluster = (major: number, directory: string): void => {
  const from = seedClusters.get(major)
  if (from === undefined) return
  makeFolderFor(directory)
  execFileSync("cp", ["-a", path.join(from, "templates"), directory])
}

const keepSeedCluster = (major: number, directory: string): void => {
  if (seedClusters.has(major) || !fs.existsSync(path.join(directory, "templates"))) return
  const to = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-templates-"))
  execFileSync("cp", ["-a", path.join(directory, "templates"), to])
  seedClusters.set(major, to)
}

export interface WorldOptions extends Partial<Omit<LocalStorageOptions, "directory">> {
  readonly major?: number
  /** Begin without a seed cluster, so that the first start makes one. */
  readonly bare?: boolean
}

/** Everything about one timeline that outlives a start. */
export interface World {
  readonly folder: string
  readonly directory: string
  /** The timeline's own folder. */
  readonly root: string
  readonly pgdata: string
  readonly port: number
  readonly install: Install
  readonly storage: Storage["Service"]
  readonly durability: "os" | "process"
}

const tenant = emptySpec.tenant
const timeline = emptySpec.timeline

export const storageFor = (
  world: Pick<World, "directory" | "port" | "install">,
  options: WorldOptions = {}
): Effect.Effect<Storage["Service"], never, Scope.Scope> => {
  const install = Layer.succeed(
    PostgresInstall,
    PostgresInstall.of({
      postgres: world.install.postgres,
      initdb: world.install.initdb,
      pgDump: null,
      major: world.install.major,
      version: `${world.install.major}.test`,
      runAs
    } as PostgresInstall["Service"])
  )
  const admin = Admin.layer({
    host: "127.0.0.1",
    port: world.port,
    user: superuser,
    password: null,
    database: "postgres",
    options: null,
    applicationName: null
  })
  const { durability = "os", limits, lookEvery, stopBudget } = options
  const local = LocalStorage.layer({
    directory: world.directory,
    durability,
    ...(limits === undefined ? {} : { limits }),
    ...(lookEvery === undefined ? {} : { lookEvery }),
    ...(stopBudget === undefined ? {} : { stopBudget })
  })
  return Effect.map(
    Layer.build(Layer.provide(local, Layer.mergeAll(install, admin, Spawn.layer, ComputeState.layer))),
    (context) => Effect.runSync(Effect.provide(Storage, context))
  )
}

export const makeWorld: (options?: WorldOptions) => Effect.Effect<World, never, Scope.Scope> = Effect.fnUntraced(
  function* (options = {}) {
    const install = yield* installFor(options.major ?? 17)
    const folder = yield* temporaryFolder
    const port = yield* freePort
    const directory = path.join(folder, "storage")
    const world = {
      folder,
      directory,
      root: path.join(directory, tenant, timeline),
      pgdata: path.join(folder, "pgdata"),
      port,
      install
    }
    if (options.bare !== true) giveSeedCluster(install.major, directory)
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        killAll(world.folder)
        keepSeedCluster(install.major, directory)
      })
    )
    return { ...world, storage: yield* storageFor(world, options), durability: options.durability ?? "os" }
  }
)

const spec = ({ ancestor = null, timeline: id }: StartOptions) => ({
  ...emptySpec,
  ...(id === undefined ? {} : { timeline: id as TimelineId }),
  ancestor
})

/** Postgres processes whose working folder is below `folder`, also when it was removed. */
export const processesIn = (folder: string): ReadonlyArray<number> =>
  fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return (
          fs.readlinkSync(`/proc/${name}/cwd`).startsWith(folder) &&
          fs.readFileSync(`/proc/${name}/comm`, "utf8").trim() === "postgres"
        )
      } catch {
        return false
      }
    })
    .map(Number)

export const killAll = (folder: string): void => {
  for (const pid of processesIn(folder)) {
    try {
      process.kill(pid, "SIGKILL")
    } catch {
      // It went by itself.
    }
  }
}

/** Small System V segments of killed servers whose folder is gone: nobody else would ever remove them. */
const sharedMemory = new Set<string>()
const rememberSharedMemory = (pgdata: string): void => {
  const id = fs.readFileSync(path.join(pgdata, "postmaster.pid"), "utf8").split("\n")[6]?.trim().split(/\s+/)[1]
  if (id !== undefined && id !== "") sharedMemory.add(id)
}
afterAll(() => {
  for (const id of sharedMemory) {
    try {
      execFileSync("ipcrm", ["-m", id], { stdio: "ignore" })
    } catch {
      // A server that was stopped, or a later start in the same folder, has removed it.
    }
  }
  sharedMemory.clear()
})

export const until = async (what: string, is: () => boolean, withinMillis = 20_000): Promise<void> => {
  const deadline = performance.now() + withinMillis
  while (!is()) {
    if (performance.now() > deadline) throw new Error(`gave up waiting until ${what}`)
    await pause(2)
  }
}

const settings = (world: World, fsync: "on" | "off", extra: string) =>
  `
listen_addresses = '127.0.0.1'
port = ${world.port}
unix_socket_directories = ''
shared_buffers = 16MB
max_connections = 40
wal_level = replica
wal_keep_size = 2147483647
wal_recycle = off
fsync = ${fsync}
restart_after_crash = off
full_page_writes = on
dynamic_shared_memory_type = mmap
max_wal_size = 1GB
log_checkpoints = off
${extra}
`
const hba = { starting: `host all ${superuser} 127.0.0.1/32 trust\n`, open: "host all all 127.0.0.1/32 trust\n" }

const put = (file: string, content: string): void => {
  fs.writeFileSync(file, content, { mode: 0o600 })
  if (runAs !== null) fs.chownSync(file, runAs.uid, runAs.gid)
}

export interface Started {
  readonly timeline: Timeline
  readonly pid: number
  readonly child: ChildProcess
  /** From the end of the claim to the first query answered, and its parts. */
  readonly millis: {
    readonly claim: number
    readonly restore: number
    readonly postgres: number
    readonly secure: number
    readonly total: number
  }
  readonly log: () => string
  readonly rows: (sql: string) => Effect.Effect<ReadonlyArray<ReadonlyArray<string | null>>, unknown>
  /** kill -9 of everything, or only the postmaster; then the claim is let go, as the death of the program would. */
  readonly crash: (whom?: "group" | "postmaster") => Effect.Effect<void>
  /** SIGINT, the storage's `leave`, and the end of the claim. */
  readonly stop: Effect.Effect<void, unknown>
  /** Ends only the claim: Postgres stays, as when the program alone is killed. */
  readonly letGo: Effect.Effect<void>
}

export interface StartOptions {
  readonly pgdata?: string
  readonly timeline?: string
  readonly ancestor?: ParsedSpec["ancestor"]
  readonly storage?: Storage["Service"]
  readonly settings?: string
}

export const wireTo = (world: Pick<World, "port">): Effect.Effect<Wire, unknown, Scope.Scope> =>
  connect(configOf(world)())

const makeFolderFor = (pgdata: string): void => {
  fs.mkdirSync(pgdata, { recursive: true, mode: 0o700 })
  if (runAs !== null) fs.chownSync(pgdata, runAs.uid, runAs.gid)
}

export const start: (world: World, options?: StartOptions) => Effect.Effect<Started, unknown> = Effect.fnUntraced(
  function* (world, options = {}) {
    const pgdata = options.pgdata ?? world.pgdata
    const scope = yield* Scope.make()
    const letGo = Scope.close(scope, Exit.void)
    const began = performance.now()
    let launched = false
    return yield* Effect.gen(function* () {
      const claimed = yield* Effect.provideService(
        (options.storage ?? world.storage).claim(spec(options), pgdata),
        Scope.Scope,
        scope
      )
      const atClaimed = performance.now()
      makeFolderFor(pgdata)
      const source = claimed.source(yield* claimed.commitLsn("start"))
      if (source._tag !== "InPlace") throw new Error("local storage restores its files itself")
      const withRoom = claimed.room?.make ?? ((restored: Effect.Effect<void, Failure>) => restored)
      yield* withRoom(source.restore(pgdata))
      const atRestored = performance.now()
      put(path.join(pgdata, "postgresql.conf"), settings(world, "off", options.settings ?? ""))
      put(path.join(pgdata, "pg_hba.conf"), hba.starting)
      launched = true
      const child = spawn(world.install.postgres, ["-D", pgdata], {
        ...(runAs === null ? {} : { uid: runAs.uid, gid: runAs.gid }),
        cwd: "/",
        env: cleanEnvironment(),
        stdio: ["ignore", "ignore", "pipe", ...locksOf(pgdata)]
      })
      let log = ""
      child.stderr?.setEncoding("utf8").on("data", (text: string) => (log = (log + text).slice(-200_000)))
      const exited = new Promise<ExitStatus>((resolve) =>
        child.once("exit", (code, signal) =>
          resolve(signal === null ? { _tag: "Code", code: code ?? -1 } : { _tag: "Signal", signal })
        )
      )
      const status = () => {
        try {
          return fs.readFileSync(path.join(pgdata, "postmaster.pid"), "utf8").split("\n")[7]?.trim()
        } catch {
          return undefined
        }
      }
      yield* Effect.tryPromise(() =>
        until(
          "Postgres is ready",
          () => {
            if (child.exitCode !== null) throw new Error(`Postgres left:\n${tail(log)}`)
            return status() === "ready"
          },
          60_000
        )
      ).pipe(Effect.mapError((failure) => failure.cause))
      rememberSharedMemory(pgdata)
      const rows = (sql: string) => Effect.scoped(Effect.flatMap(wireTo(world), (wire) => wire.rows(sql)))
      yield* rows("select 1")
      const atReady = performance.now()
      put(
        path.join(pgdata, "postgresql.conf"),
        settings(world, world.durability === "os" ? "on" : "off", options.settings ?? "")
      )
      put(path.join(pgdata, "pg_hba.conf"), hba.open)
      child.kill("SIGHUP")
      yield* claimed.secure
      const atEnd = performance.now()
      const crash = (whom: "group" | "postmaster" = "group") =>
        Effect.promise(async () => {
          child.kill("SIGKILL")
          if (whom === "group") killAll(pgdata)
          await exited
          if (whom === "group") await until("all are dead", () => processesIn(pgdata).length === 0)
        }).pipe(Effect.andThen(letGo))
      const stop = Effect.gen(function* () {
        child.kill("SIGINT")
        const exit = yield* Effect.promise(() => exited)
        yield* claimed.leave(exit, Duration.zero)
        yield* letGo
      })
      return {
        timeline: claimed,
        pid: child.pid ?? 0,
        child,
        millis: {
          claim: atClaimed - began,
          restore: atRestored - atClaimed,
          postgres: atReady - atRestored,
          secure: atEnd - atReady,
          total: atEnd - began
        },
        log: () => log,
        rows,
        crash,
        stop,
        letGo
      } satisfies Started
    }).pipe(
      Effect.onError(() =>
        Effect.andThen(
          Effect.sync(() => (launched ? killAll(pgdata) : undefined)),
          letGo
        )
      )
    )
  }
)

/** Runs `keep` until the scope of the caller ends; a failure of it is a failure of the test. */
export const archiving = (started: Started): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(Effect.forkScoped(Effect.orDie(started.timeline.keep)))

/** Clients that insert one row after the other and remember each that was acknowledged. */
export const writers = (world: World, count: number) => {
  const acknowledged: Array<readonly [number, number]> = []
  let running = true
  const one = (writer: number, from: number) =>
    Effect.scoped(
      Effect.gen(function* () {
        const wire = yield* wireTo(world)
        for (let n = from; running; n++) {
          yield* wire.simple(`insert into acks values (${writer}, ${n}, repeat('x', ${20 + (n % 200)}))`)
          acknowledged.push([writer, n])
        }
      })
    ).pipe(Effect.ignore)
  return {
    acknowledged,
    run: (round: number) => {
      running = true
      return Effect.forEach(
        Array.from({ length: count }, (_, writer) => writer),
        (writer) => one(writer, round * 10_000_000),
        {
          concurrency: "unbounded",
          discard: true
        }
      )
    },
    end: () => void (running = false)
  }
}

/** How many of the acknowledged rows are not there. */
export const lost = Effect.fnUntraced(function* (
  started: Started,
  acknowledged: ReadonlyArray<readonly [number, number]>
) {
  const rows = yield* started.rows("select writer || ':' || n from acks")
  const there = new Set(rows.map(([key]) => key))
  return acknowledged.filter(([writer, n]) => !there.has(`${writer}:${n}`)).length
})

export const pgTimeline = (started: Started) =>
  Effect.map(started.rows("select timeline_id from pg_control_checkpoint()"), (rows) => Number(rows[0]?.[0]))
