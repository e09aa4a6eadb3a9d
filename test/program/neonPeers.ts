/**
 * Imitation storage for one compute: a pageserver and safekeepers that serve a real cluster, and the spec that names
 * them.
 */
import { assert } from "@effect/vitest"
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
import { startPostgres } from "../support/postgres.ts"
import { eventually, type Place, place, type Program } from "./harness.ts"

export const tenant = "3d1f7595b468230304e0b73cecbcb081"
export const timeline = "7f1a2c9be04d4d5c8a6e90b1f2c3d4e5"
export const token = "st0rage-t0ken"

/** A real cluster with a table in it, cleanly stopped, as the archive a pageserver would send. */
const cluster = Effect.scoped(
  Effect.gen(function* () {
    const postgres = yield* startPostgres({})
    yield* postgres.rows("create table kept as select g from generate_series(1, 1000) g")
    process.kill(postgres.pid, "SIGINT")
    yield* eventually(
      "a postmaster.pid",
      () => fs.existsSync(path.join(postgres.pgdata, "postmaster.pid")),
      (isThere) => !isThere
    )
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

/**
 * Asks a primary for its end. Stock Postgres has no `--sync-safekeepers`, so everything is in order but for the last
 * sync, and that is a failure.
 */
export const endsWithoutLastSync = Effect.fnUntraced(function* (program: Program) {
  program.signal("SIGTERM")
  assert.deepStrictEqual(yield* Effect.promise(() => program.exit), { code: 1, signal: null }, program.output())
  assert.match(program.output(), /the last sync failed: .*sync-safekeepers/)
  assert.match(program.output(), /to terminated: Postgres is gone/)
})
