/**
 * The warm-up of a real Postgres, and the OOM scores of a real one's processes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import * as path from "node:path"
import { causesOf } from "../../src/errors/policy.ts"
import { warmUp } from "../../src/lifecycle/warmUp.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import { oomEnvironment, protectFromOom } from "../../src/platform/memory.ts"
import { Spawn } from "../../src/platform/Spawn.ts"
import { PostgresInstall } from "../../src/postgres/PostgresInstall.ts"
import { postmasterOver } from "../postgres/clusters.ts"
import { configOf, makeCluster, runAs } from "../support/postgres.ts"
import { eventually } from "../support/waiting.ts"

const withCluster = Effect.map(makeCluster(), (cluster) => {
  const parts = Layer.mergeAll(
    Spawn.layer,
    Layer.succeed(
      PostgresInstall,
      PostgresInstall.of({
        postgres: cluster.install.postgres,
        initdb: cluster.install.initdb,
        pgDump: null,
        major: 17,
        version: "17",
        runAs
      })
    )
  )
  return { cluster, parts, warmup: `${cluster.pgdata}.warmup` }
})

const modest = "shared_buffers = 16MB\nport = 51055\ndynamic_shared_memory_type = mmap\n"

describe("the warm-up", () => {
  it.live("starts a Postgres and leaves nothing of it, whatever was there before", () =>
    Effect.gen(function* () {
      const { cluster, parts, warmup } = yield* withCluster
      fs.mkdirSync(path.join(warmup, "old"), { recursive: true })
      yield* Effect.provide(warmUp(cluster.pgdata, modest), parts)
      assert.isFalse(fs.existsSync(warmup))
      assert.isTrue(fs.existsSync(path.join(cluster.pgdata, "PG_VERSION")))
    }).pipe(Effect.scoped)
  )

  it.live("says why Postgres did not start, and leaves nothing of it either", () =>
    Effect.gen(function* () {
      const { cluster, parts, warmup } = yield* withCluster
      const failure = yield* Effect.flip(
        Effect.provide(warmUp(cluster.pgdata, `${modest}shared_preload_libraries = 'neon'`), parts)
      )
      assert.match(causesOf(failure).join(": "), /left the warm-up with exit code 1.*could not access file "neon"/)
      assert.isFalse(fs.existsSync(warmup))
    }).pipe(Effect.scoped)
  )

  it.live("that is interrupted leaves nothing running", () =>
    Effect.gen(function* () {
      const { cluster, parts, warmup } = yield* withCluster
      const begun = eventually("its postmaster.pid", () => fs.existsSync(path.join(warmup, "postmaster.pid")))
      yield* Effect.raceFirst(Effect.provide(warmUp(cluster.pgdata, modest), parts), begun)
      assert.isFalse(fs.existsSync(warmup))
    }).pipe(Effect.scoped)
  )
})

describe("the OOM score", () => {
  const scoreOf = (pid: number) => fs.readFileSync(`/proc/${pid}/oom_score_adj`, "utf8").trim()

  it.live("of the postmaster is lowered, and its backends have ours", () =>
    Effect.gen(function* () {
      const { cluster } = yield* withCluster
      const house = yield* postmasterOver(cluster, { extraEnv: yield* oomEnvironment })
      const running = yield* house.start({ token: null })
      yield* running.ready
      // Lower than ours takes a capability that tests may lack, so it is first raised, and then protected down to ours.
      const ours = Number(scoreOf(process.pid))
      fs.writeFileSync(`/proc/${running.pid}/oom_score_adj`, String(ours + 50))
      const wire = yield* connect(configOf(cluster)())
      assert.strictEqual(scoreOf(wire.backendPid), String(ours))
      assert.isTrue(yield* protectFromOom(running.pid, ours))
      assert.strictEqual(scoreOf(running.pid), String(ours))

      const protectedNow = yield* protectFromOom(running.pid)
      assert.strictEqual(scoreOf(running.pid), protectedNow ? "-900" : String(ours))
      const later = yield* connect(configOf(cluster)())
      assert.strictEqual(scoreOf(later.backendPid), String(ours))
    }).pipe(Effect.scoped)
  )

  it.live("of a process that is gone is nobody's", () =>
    Effect.map(protectFromOom(2 ** 22 - 1), (done) => assert.isFalse(done))
  )
})
