/**
 * A compute on imitation storage: peers that serve a real cluster, the spec that names them, and the program's options
 * for a life inside the test's own process, where commands can be given that no route gives.
 */
import {
  basebackupOf,
  makeFakePageserver,
  makeFakeSafekeeper,
  type PageserverOptions,
  type SafekeeperMode
} from "compute-ctl/testing"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { startPostgres } from "../support/postgres.ts"
import { type Place, place } from "./harness.ts"

export const tenant = "3d1f7595b468230304e0b73cecbcb081"
export const timeline = "7f1a2c9be04d4d5c8a6e90b1f2c3d4e5"
export const token = "st0rage-t0ken"

/** A real cluster with a table in it, cleanly stopped, as the archive a pageserver would send. */
export const cluster = Effect.scoped(
  Effect.gen(function* () {
    const postgres = yield* startPostgres({})
    yield* postgres.rows("create table kept as select g from generate_series(1, 1000) g")
    process.kill(postgres.pid, "SIGINT")
    yield* Effect.promise(async () => {
      while (fs.existsSync(path.join(postgres.pgdata, "postmaster.pid"))) await pause(5)
    })
    return yield* basebackupOf(postgres.pgdata)
  })
)

export const setUp = Effect.fnUntraced(function* (
  modes: ReadonlyArray<SafekeeperMode>,
  fault: Partial<PageserverOptions> = {}
) {
  const at = yield* place
  const archive = yield* cluster
  const pageserver = yield* makeFakePageserver({ tenant, timeline, token, archive, ...fault })
  const safekeepers = yield* Effect.forEach(modes, (mode) =>
    makeFakeSafekeeper({ tenant, timeline, token, flush: 0x16b9188n, mode })
  )
  return { at, archive, pageserver, addresses: safekeepers.map(({ address }) => address) }
})

/** Storage addresses as fields, the way the cloud sends them. */
export const specOf = (at: Place, url: string, safekeepers: ReadonlyArray<string>) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  tenant_id: tenant,
  timeline_id: timeline,
  pageserver_connstring: url,
  safekeeper_connstrings: safekeepers,
  storage_auth_token: token,
  cluster: {
    roles: [{ name: "web" }],
    databases: [{ name: "shop", owner: "web" }],
    settings: [
      { name: "port", value: String(at.port), vartype: "integer" },
      { name: "unix_socket_directories", value: at.directory, vartype: "string" },
      { name: "fsync", value: "off", vartype: "bool" }
    ]
  }
})
