/**
 * What a stop says and how long it may take: one that had to be forced is a failure, and a base is made only in time.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { ShutdownStage } from "../../../src/platform/shutdownStages.ts"
import { makePostmaster, processesOf } from "../../postgres/clusters.ts"
import { localArguments, launch, place, processesIn, rows } from "../../program/harness.ts"
import { eventually } from "../../support/waiting.ts"
import { makeWorld, start } from "./computes.ts"

const stage = (signal: ShutdownStage["signal"], millis: number): ShutdownStage => ({
  signal,
  grace: Duration.millis(millis),
  meaning: "a test"
})

const checkpointerOf = (pids: ReadonlyArray<number>) =>
  pids.find((pid) => fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").startsWith("postgres: checkpointer"))

describe("a stop", () => {
  it.live("knows by which signal it came about", () =>
    Effect.gen(function* () {
      const stages = [stage("SIGINT", 300), stage("SIGQUIT", 20_000), stage("SIGKILL", 5000)]
      const { cluster, start: startPostgres } = yield* makePostmaster({}, { stages })
      const first = yield* startPostgres({ token: null })
      yield* first.ready
      const checkpointer = checkpointerOf(processesOf(cluster.pgdata)) ?? assert.fail("there is a checkpointer")
      process.kill(checkpointer, "SIGSTOP")
      yield* first.stop
      assert.deepStrictEqual(yield* first.forcedBy, { signal: "SIGQUIT", asked: false })
      yield* eventually("all have left", () => processesOf(cluster.pgdata).length === 0)

      const second = yield* startPostgres({ token: null })
      yield* second.ready
      yield* second.stop
      assert.isNull(yield* second.forcedBy)
    })
  )

  it.live(
    "that needed SIGQUIT is a failure of the program: in its log, and exit code 1",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const spec = {
            format_version: 1,
            suspend_timeout_seconds: -1,
            cluster: { roles: [], databases: [], settings: [] }
          }
          const program = yield* launch(localArguments(at, spec), at.httpPort)
          yield* Effect.promise(() => program.reaches("running"))
          yield* rows(at, "select 1")
          const checkpointer =
            checkpointerOf(processesIn(`${at.directory}/pgdata`)) ?? assert.fail("there is a checkpointer")
          process.kill(checkpointer, "SIGSTOP")
          program.signal("SIGTERM")
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 1)
          assert.match(
            program.output(),
            /Postgres did not stop in order within \d+ s and was made to leave with SIGQUIT/
          )
          assert.match(program.output(), /hint: .*a slow disk under its last checkpoint/)
        })
      ),
    120_000
  )
})

describe("the stop budget", () => {
  const number = (root: string) => (JSON.parse(fs.readFileSync(`${root}/current.json`, "utf8")) as { n: number }).n

  it.live("leaves out a base for which there is no time, and the next start has everything", () =>
    Effect.scoped(
      Effect.gen(function* () {
        for (const [budget, bases] of [
          [Duration.zero, 1],
          [Duration.seconds(60), 2]
        ] as const) {
          const world = yield* makeWorld({ limits: { walBytes: 1 }, stopBudget: budget })
          const first = yield* start(world)
          yield* first.rows("create table t as select generate_series(1, 1000) n")
          yield* first.stop
          assert.strictEqual(number(world.root), bases)
          const second = yield* start(world)
          assert.deepStrictEqual(yield* second.rows("select count(*) from t"), [["1000"]])
          yield* second.crash()
        }
      })
    )
  )
})
