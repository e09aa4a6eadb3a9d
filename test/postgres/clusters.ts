/**
 * What the postmaster's tests share: the real service over a fresh cluster, with the log in hand instead of on stderr.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import { Admin } from "../../src/pgwire/Admin.ts"
import { Spawn } from "../../src/platform/Spawn.ts"
import { PostgresInstall } from "../../src/postgres/PostgresInstall.ts"
import { Postmaster, type PostmasterOptions } from "../../src/postgres/Postmaster.ts"
import { type Cluster, type ClusterOptions, makeCluster, runAs, superuser } from "../support/postgres.ts"

export interface TestPostmaster {
  readonly cluster: Cluster
  readonly start: Postmaster["Service"]["start"]
  /** Its sessions are proven to be with the Postgres that was started. */
  readonly admin: Admin["Service"]
  /** What reached the sink so far. */
  readonly log: () => string
}

const installOf = (cluster: Cluster) =>
  Layer.succeed(
    PostgresInstall,
    PostgresInstall.of({
      postgres: cluster.install.postgres,
      initdb: cluster.install.initdb,
      pgDump: null,
      major: cluster.install.major,
      version: `${cluster.install.major}`,
      runAs
    })
  )

const adminOf = ({ port }: Cluster, host: string) =>
  Admin.layer({
    host,
    port,
    user: superuser,
    password: null,
    database: null,
    options: null,
    applicationName: null
  })

export const postmasterOver = (
  cluster: Cluster,
  options: Partial<PostmasterOptions> = {},
  host = "127.0.0.1"
): Effect.Effect<TestPostmaster, never, Scope.Scope> =>
  Effect.gen(function* () {
    let log = ""
    const sink = (text: string) => Effect.sync(() => void (log += text))
    const layer = Postmaster.layer({ pgdata: cluster.pgdata, sink, ...options }).pipe(
      Layer.provide([installOf(cluster), Spawn.layer]),
      Layer.provideMerge(adminOf(cluster, host))
    )
    const context = yield* Layer.build(layer)
    const { start } = yield* Effect.provide(Postmaster, context)
    return { cluster, start, admin: yield* Effect.provide(Admin, context), log: () => log }
  })

export const makePostmaster = (
  options: ClusterOptions = {},
  postmaster: Partial<PostmasterOptions> = {}
): Effect.Effect<TestPostmaster, never, Scope.Scope> =>
  Effect.flatMap(makeCluster(options), (cluster) => postmasterOver(cluster, postmaster))

/** Neither running nor a zombie. */
export const isGone = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return false
  } catch {
    return true
  }
}

/** Processes whose working folder is in PGDATA: every process of that Postgres. Empty where there is no /proc. */
export const processesOf = (pgdata: string): ReadonlyArray<number> =>
  fs.existsSync("/proc/self/cwd")
    ? fs
        .readdirSync("/proc")
        .filter((name) => /^\d+$/.test(name))
        .map(Number)
        .filter((pid) => {
          try {
            return fs.readlinkSync(`/proc/${pid}/cwd`).startsWith(pgdata)
          } catch {
            return false
          }
        })
    : []
