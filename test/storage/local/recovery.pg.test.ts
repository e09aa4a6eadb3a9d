/**
 * A recovery takes as long as it takes: only one that stands still is given up, and how far it is can be seen.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { printRecovery } from "../../../src/postgres/recoveryProgress.ts"
import { isGone, makePostmaster, postmasterOver, processesOf } from "../../postgres/clusters.ts"
import { connect } from "../../../src/pgwire/Wire.ts"
import { configOf } from "../../support/postgres.ts"
import { eventually } from "../../support/waiting.ts"

const fastStages = [
  { signal: "SIGINT", grace: Duration.millis(50), meaning: "a test" },
  { signal: "SIGKILL", grace: Duration.seconds(10), meaning: "a test" }
] as const
const noToken = { token: null }
const settings = { max_wal_size: "10GB", checkpoint_timeout: "1h", autovacuum: "off", fsync: "off" }

/** A cluster that was killed with some 300 MB of WAL to replay. */
const killed = Effect.gen(function* () {
  const { cluster, start } = yield* makePostmaster({ settings })
  const first = yield* start(noToken)
  yield* first.ready
  const wire = yield* connect(configOf(cluster)())
  yield* wire.simple("create table t (n int, x text)")
  yield* wire.simple("insert into t select n, repeat('x', 200) from generate_series(1, 900000) n", "2 minutes")
  process.kill(first.pid, "SIGKILL")
  yield* first.exit
  yield* eventually("the orphans left", () => processesOf(cluster.pgdata).length === 0)
  return cluster
})

const startupOf = (pgdata: string) =>
  processesOf(pgdata).find((pid) => /startup/.test(fs.readFileSync(`/proc/${pid}/cmdline`, "utf8")))

describe("recovery", () => {
  it.live("is waited for as long as it gets on, and says how far it is", () =>
    Effect.gen(function* () {
      const cluster = yield* killed
      const limited = yield* postmasterOver(cluster, { readyWithin: Duration.millis(300) })
      const given = yield* limited.start(noToken)
      const tooLate = yield* Effect.flip(given.ready)
      assert.match(tooLate.message, /not ready within 300 ms and was stopped/)
      assert.isTrue(isGone(given.pid))

      const { start } = yield* postmasterOver(cluster, { stillWithin: Duration.seconds(3) })
      const running = yield* start(noToken)
      const seen: Array<bigint> = []
      let sentence = ""
      const look = Effect.gen(function* () {
        while (true) {
          const position = yield* running.recovery
          if (position !== null) {
            seen.push(position.at)
            sentence = printRecovery(position, seen[0] ?? 0n, 1)
          }
          yield* Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
        }
      })
      yield* Effect.raceFirst(running.ready, look)
      assert.isAbove(new Set(seen).size, 3)
      assert.deepStrictEqual(
        seen,
        [...seen].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
      )
      assert.match(sentence, /^Postgres is recovering: WAL is replayed up to 0\/[0-9A-F]+, \d+ % \([\d.]+ MB\/s\), \d/)
      assert.isNull(yield* running.recovery)
      const wire = yield* connect(configOf(cluster)())
      assert.deepStrictEqual(yield* wire.rows("select count(*) from t"), [["900000"]])
    })
  )

  it.live("that stands still is given up, and says so", () =>
    Effect.gen(function* () {
      const cluster = yield* killed
      const { start } = yield* postmasterOver(cluster, { stillWithin: Duration.seconds(2), stages: fastStages })
      const running = yield* start(noToken)
      yield* eventually("it recovers", () => startupOf(cluster.pgdata) !== undefined)
      const startup = startupOf(cluster.pgdata) ?? assert.fail("there is a startup process")
      process.kill(startup, "SIGSTOP")
      // A stopped process outlives its postmaster.
      yield* Effect.addFinalizer(() => Effect.sync(() => isGone(startup) || process.kill(startup, "SIGKILL")))
      const failure = yield* Effect.flip(running.ready)
      assert.match(failure.message, /made no headway for 2000 ms, and was stopped/)
      assert.isTrue(isGone(running.pid))
    })
  )
})

describe("a sentence about a recovery", () => {
  const range = { from: 0x1000000n, to: 0x5000000n, segmentBytes: 0x1000000 }
  for (const [what, position, expected] of [
    ["half way", { at: 0x3000000n, range }, "WAL is replayed up to 0/3000000, 50 % (17 MB/s), 34 MB are left"],
    [
      "without an end in sight",
      { at: 0x3000000n, range: { ...range, from: null, to: null } },
      "WAL is replayed up to 0/3000000 (17 MB/s)"
    ]
  ] as const) {
    it(`says ${what}`, () =>
      assert.strictEqual(printRecovery(position, 0x1000000n, 2), `Postgres is recovering: ${expected}`))
  }
})
