/**
 * A real cluster, stopped, served by an imitation pageserver as a basebackup, built into a new PGDATA, and started.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import * as path from "node:path"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { printExit } from "../../src/errors/Failure.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import { shutdownStages } from "../../src/platform/shutdownStages.ts"
import { Spawn } from "../../src/platform/Spawn.ts"
import { Pgdata } from "../../src/postgres/Pgdata.ts"
import { parsePidFile, readPidFile } from "../../src/postgres/pidFile.ts"
import { PostgresInstall } from "../../src/postgres/PostgresInstall.ts"
import type { StartPlan } from "../../src/postgres/startPlan.ts"
import type { TenantId, TimelineId } from "../../src/spec/identifiers.ts"
import { NeonStorage } from "../../src/storage/neon/NeonStorage.ts"
import { Storage } from "../../src/storage/Storage.ts"
import { makeFakePageserver } from "../../src/testing/peers/FakePageserver.ts"
import { makeFakeSafekeeper } from "../../src/testing/peers/FakeSafekeeper.ts"
import { basebackupOf } from "../../src/testing/peers/NeonPeers.ts"
import { claimAndBegin, freePort, installs, runAs, startPostgres, temporaryFolder } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"
import { eventually } from "../support/waiting.ts"

const tenant = "a".repeat(32) as TenantId
const timeline = "b".repeat(32) as TimelineId

const planFor = (port: number, sockets: string): StartPlan => ({
  starting: [
    {
      name: "postgresql.conf",
      content: [
        `port = ${port}`,
        "listen_addresses = '127.0.0.1'",
        `unix_socket_directories = '${sockets}'`,
        "fsync = off",
        "shared_buffers = 16MB",
        ""
      ].join("\n")
    }
  ],
  opening: [],
  appended: [{ name: "pg_hba.conf", line: "host\tall\t\tall\t\tall\t\tmd5" }],
  signalFiles: [],
  linkDynshmem: true,
  applyCatalog: true,
  override: null
})

describe("a real cluster as a basebackup", () => {
  for (const { major } of installs) {
    it.live(`Postgres ${major}: what was written is there after the start`, () =>
      Effect.gen(function* () {
        const { archive, install } = yield* Effect.scoped(
          Effect.gen(function* () {
            const postgres = yield* startPostgres({ major })
            yield* postgres.rows("create table kept as select g from generate_series(1, 10000) g")
            process.kill(postgres.pid, "SIGINT")
            yield* eventually("the stop", () => !fs.existsSync(path.join(postgres.pgdata, "postmaster.pid")))
            return { archive: yield* basebackupOf(postgres.pgdata), install: postgres.install }
          })
        )
        const pageserver = yield* makeFakePageserver({ tenant, timeline, archive, token: "t0ken" })
        const safekeeper = yield* makeFakeSafekeeper({ tenant, timeline, token: "t0ken", flush: 0x16b9188n })
        const folder = yield* temporaryFolder
        const port = yield* freePort
        const plan = planFor(port, folder)
        const spec = {
          ...emptySpec,
          tenant,
          timeline,
          neon: {
            pageservers: {
              shardCount: 0,
              stripeSize: null,
              shards: [{ number: 0, pageservers: [{ libpqUrl: pageserver.url, grpcUrl: null }] }],
              preferProtocol: "libpq" as const
            },
            safekeepers: [safekeeper.address],
            safekeepersGeneration: null,
            token: Redacted.make("t0ken"),
            fromSettings: new Set<never>()
          }
        }
        const installed = Layer.succeed(PostgresInstall, { ...install, pgDump: null, version: `${major}.0`, runAs })
        const layers = Layer.mergeAll(
          NeonStorage.layer().pipe(Layer.provide([ComputeState.layer, Spawn.layer, installed])),
          Pgdata.layer({ directory: path.join(folder, "pgdata"), runAs }),
          Spawn.layer
        )
        yield* Effect.gen(function* () {
          const pgdata = yield* Pgdata
          const storage = yield* Storage
          const claimed = yield* storage.claim(spec, pgdata.directory)
          yield* claimAndBegin(pgdata, plan, "Archive")
          const source = claimed.source(yield* claimed.commitLsn("start"))
          const built = yield* pgdata.build(plan, source)
          assert.strictEqual(built.archiveBytes, archive.length)
          const { spawn } = yield* Spawn
          const exit = yield* Effect.scoped(
            Effect.gen(function* () {
              const stages = shutdownStages
              const child = yield* spawn({ command: install.postgres, args: ["-D", pgdata.directory], runAs, stages })
              yield* eventually("the start", () => parsePidFile(readPidFile(pgdata.directory))?.status === "ready")
              const wire = yield* connect({
                host: "127.0.0.1",
                port,
                user: "cloud_admin",
                database: "postgres",
                connectWithin: Duration.seconds(10)
              })
              assert.deepStrictEqual(yield* wire.rows("select count(*), sum(g) from kept"), [["10000", "50005000"]])
              assert.deepStrictEqual(yield* wire.rows("show shared_buffers"), [["16MB"]])
              yield* child.signal("SIGINT")
              return yield* child.exit
            })
          )
          assert.strictEqual(printExit(exit), "exit code 0")
        }).pipe(Effect.provide(layers))
        const [seen] = yield* pageserver.seen
        assert.strictEqual(seen?.command, `basebackup ${tenant} ${timeline} 0/16B9188 --gzip`)
      })
    )
  }
})
