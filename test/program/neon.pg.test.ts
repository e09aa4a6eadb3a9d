/**
 * The program on Neon's storage, over the wire: imitation safekeepers and pageserver serve a real cluster, and the
 * program really starts on it. Stock Postgres has no `--sync-safekeepers`, so where the full sync is needed it fails
 * here as it does for somebody who pairs Neon's storage with the wrong Postgres.
 */
import { assert, describe, it } from "@effect/vitest"
import { basebackupOf, makeFakePageserver, makeFakeSafekeeper, type PageserverOptions, type SafekeeperMode } from "compute-ctl/testing"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { startPostgres } from "../support/postgres.ts"
import { gone, launch, neonArguments, type Place, place, rows } from "./harness.ts"

const tenant = "3d1f7595b468230304e0b73cecbcb081"
const timeline = "7f1a2c9be04d4d5c8a6e90b1f2c3d4e5"
const token = "st0rage-t0ken"

/** A real cluster with a table in it, cleanly stopped, as the archive a pageserver would send. */
const cluster = Effect.scoped(Effect.gen(function*() {
  const postgres = yield* startPostgres({})
  yield* postgres.rows("create table kept as select g from generate_series(1, 1000) g")
  process.kill(postgres.pid, "SIGINT")
  yield* Effect.promise(async () => {
    while (fs.existsSync(path.join(postgres.pgdata, "postmaster.pid"))) await pause(5)
  })
  return yield* basebackupOf(postgres.pgdata)
}))

const setUp = Effect.fnUntraced(function*(modes: ReadonlyArray<SafekeeperMode>, fault: Partial<PageserverOptions> = {}) {
  const at = yield* place
  const archive = yield* cluster
  const pageserver = yield* makeFakePageserver({ tenant, timeline, token, archive, ...fault })
  const safekeepers = yield* Effect.forEach(modes, (mode) => makeFakeSafekeeper({ tenant, timeline, token, flush: 0x16B9188n, mode }))
  return { at, pageserver, addresses: safekeepers.map(({ address }) => address) }
})

/** Storage addresses as fields, the way the cloud sends them. */
const specOf = (at: Place, url: string, safekeepers: ReadonlyArray<string>) => ({
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

/** The same without a field: only settings, the way docker-compose has it. */
const asSettings = ({ cluster, pageserver_connstring, safekeeper_connstrings, tenant_id, timeline_id, ...rest }: ReturnType<typeof specOf>) => ({
  ...rest,
  cluster: {
    ...cluster,
    settings: [
      ...cluster.settings,
      { name: "neon.pageserver_connstring", value: pageserver_connstring, vartype: "string" },
      { name: "neon.safekeepers", value: safekeeper_connstrings.join(","), vartype: "string" },
      { name: "neon.tenant_id", value: tenant_id, vartype: "string" },
      { name: "neon.timeline_id", value: timeline_id, vartype: "string" }
    ]
  }
})

describe("on Neon's storage", () => {
  for (const [how, write] of [["fields", (spec: ReturnType<typeof specOf>): unknown => spec], ["settings alone", asSettings]] as const) {
    it.live(`starts on the basebackup of a quorum that agrees, addresses as ${how}, and ends when asked`, () =>
      Effect.scoped(Effect.gen(function*() {
        const { addresses, at, pageserver } = yield* setUp(["ok", "ok", "hang"])
        const program = yield* launch(neonArguments(at, write(specOf(at, pageserver.url, addresses))), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
        assert.deepStrictEqual(yield* rows(at, "select 1", "shop"), [["1"]])
        const [asked] = yield* pageserver.seen
        assert.strictEqual(asked?.command, `basebackup ${tenant} ${timeline} 0/16B9188 --gzip`)
        assert.strictEqual(asked?.password, token)

        const ended = yield* Effect.promise(() => program.http("/terminate?mode=immediate", { method: "POST" }))
        assert.strictEqual(ended.status, 200)
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
        assert.match(program.said(), /the end could not be settled: .*sync-safekeepers/)
        assert.notInclude(program.said(), token)
        yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
      })))
  }

  it.live("a lagging and two silent safekeepers need the full sync, whose failure is told with Postgres's words", () =>
    Effect.scoped(Effect.gen(function*() {
      const { addresses, at, pageserver } = yield* setUp(["lag", "hang", "hang"])
      const program = yield* launch(neonArguments(at, specOf(at, pageserver.url, addresses)), at.httpPort)
      const failed = yield* Effect.promise(() => program.reaches("failed"))
      assert.match(failed.error ?? "", /cannot settle the safekeepers \(6 attempts\): .*sync-safekeepers/)
      assert.deepStrictEqual(yield* pageserver.seen, [], "no basebackup without a settled LSN")
      program.signal("SIGTERM")
      assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 1)
    })))

  for (const fault of ["cut", "error after the end", "reset", "corrupt gzip", "truncated tar"] as const) {
    it.live(`a basebackup that fails twice (${fault}) is fetched again into a clean PGDATA`, () =>
      Effect.scoped(Effect.gen(function*() {
        const { addresses, at, pageserver } = yield* setUp(["ok"], { fault, failFirst: 2 })
        const program = yield* launch(neonArguments(at, specOf(at, pageserver.url, addresses)), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
        assert.lengthOf(yield* pageserver.seen, 3)
        program.signal("SIGTERM")
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
      })))
  }

  it.live("a pageserver that takes no token fails the start at once, and says so without the token", () =>
    Effect.scoped(Effect.gen(function*() {
      const { addresses, at, pageserver } = yield* setUp(["ok"], { token: "an0ther" })
      const program = yield* launch(neonArguments(at, specOf(at, pageserver.url, addresses)), at.httpPort)
      const failed = yield* Effect.promise(() => program.reaches("failed"))
      assert.match(failed.error ?? "", /failed to get basebackup@0\/16B9188 \(1 attempts?\): .*28P01/)
      assert.notInclude(program.said(), token)
      program.signal("SIGTERM")
      yield* Effect.promise(() => program.exit)
    })))
})
