/**
 * `--storage volume` as its users meet it: killed at random, met by a second compute in another container, checked, and
 * with nothing in PGDATA but data that outlives a start.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as fs from "node:fs"
import {
  apart,
  apartWithInit,
  computeOf,
  initOf,
  lostOf,
  makeTable,
  postgresOf,
  start,
  where,
  write
} from "../storage/local/containers.ts"
import { freePort } from "../support/postgres.ts"
import { eventually } from "../support/waiting.ts"
import { killAll, launch, localArguments, type Place, place, type Program, rows } from "./harness.ts"
import { killCycles, killedSpec } from "./killCycles.ts"

const cycles = Number(process.env["VOLUME_KILL_CYCLES"] ?? 8)
const seed = process.env["KILL_SEED"] ?? String(process.pid)

/** The same arguments, with PGDATA as the volume. */
const volumeArguments = (at: Place, spec: unknown, more: ReadonlyArray<string> = []) =>
  localArguments(at, spec, more).map((arg) => (arg.startsWith("local:") ? "volume" : arg))

const running = (program: Program) => Effect.promise(() => program.reaches("running"))

it.live(
  `${cycles} kills of a compute on a volume lose nothing (seed ${seed})`,
  () =>
    Effect.scoped(Effect.flatMap(place, (at) => killCycles(at, volumeArguments(at, killedSpec), cycles, seed))).pipe(
      Random.withSeed(seed)
    ),
  10 * 60_000
)

/** `compute_ctl check` of the volume. */
const check = Effect.fnUntraced(function* (at: Place) {
  const program = yield* launch(["check", "--storage", "volume", "-D", `${at.directory}/pgdata`], at.httpPort)
  return { code: (yield* Effect.promise(() => program.exit)).code, output: program.output() }
})

describe("a compute on a volume", () => {
  it.live("has its rows and its spec after kill -9 and a person's edits, and check says what there is", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const pgdata = `${at.directory}/pgdata`
        const spec = {
          ...killedSpec,
          cluster: { ...killedSpec.cluster, settings: [{ name: "work_mem", value: "9MB", vartype: "string" }] }
        }
        const args = volumeArguments(at, spec)
        const files = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf"]
        const contents = () => files.map((name) => fs.readFileSync(`${pgdata}/${name}`, "utf8"))
        const first = yield* start(args, at)
        yield* running(first)
        yield* makeTable(at)
        yield* rows(at, "insert into kept values (1)")
        yield* rows(at, "alter system set work_mem = '77MB'")
        const before = contents()
        killAll([first.pid, ...postgresOf(at)], "SIGKILL")
        yield* Effect.promise(() => first.exit)
        for (const name of files) fs.appendFileSync(`${pgdata}/${name}`, "\n# edited by hand\n")
        fs.writeFileSync(`${pgdata}/standby.signal`, "")
        const killed = yield* check(at)
        assert.strictEqual(killed.code, 0, killed.output)
        assert.match(killed.output, /pgdata: whole\n.*tenant 0{32}, .*Postgres 17\n.*the next start recovers/s)

        const second = yield* start(args, at)
        yield* running(second)
        assert.include(second.output(), "settings by ALTER SYSTEM do not outlive a start; dropped: work_mem")
        assert.include(second.output(), "standby.signal is removed")
        assert.deepStrictEqual(yield* rows(at, "select n from kept"), [["1"]])
        assert.deepStrictEqual(yield* rows(at, "show work_mem"), [["9MB"]])
        assert.deepStrictEqual(
          yield* rows(at, "select current_setting('fsync'), current_setting('full_page_writes')"),
          [["on", "on"]]
        )
        assert.deepStrictEqual(contents(), [...before.slice(0, 3), ""])
        second.signal("SIGTERM")
        assert.deepStrictEqual(yield* Effect.promise(() => second.exit), { code: 0, signal: null })
        fs.rmSync(`${pgdata}/global/pg_control`)
        const damaged = yield* check(at)
        assert.strictEqual(damaged.code, 1)
        assert.match(damaged.output, /pgdata: DAMAGED\n.*pg_control is missing/s)
      })
    )
  )

  it.live("in another process namespace is kept out as long as the first one's Postgres lives", () =>
    where(
      apart,
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const program = yield* start(volumeArguments(at, killedSpec), at, apartWithInit)
          yield* running(program)
          yield* makeTable(at)
          const acknowledged: Array<number> = []
          yield* Effect.forkScoped(write(at, acknowledged))
          yield* eventually("acknowledged rows", () => acknowledged.length > 20)
          const rival: Place = { directory: at.directory, port: yield* freePort, httpPort: yield* freePort }
          const compute = computeOf(program)
          for (const mischief of [() => undefined, () => killAll([compute], "SIGKILL")]) {
            mischief()
            const other = yield* launch(volumeArguments(rival, killedSpec), rival.httpPort, {}, "none", apart)
            const { error } = yield* Effect.promise(() => other.reaches("failed"))
            assert.include(error ?? "", "runs on this timeline")
            killAll([computeOf(other)], "SIGTERM")
            assert.strictEqual((yield* Effect.promise(() => other.exit)).code, 1)
            const goal = acknowledged.length + 20
            yield* eventually("further acknowledged rows", () => acknowledged.length > goal)
          }
          killAll([initOf(program)], "SIGKILL")
          yield* Effect.promise(() => program.exit)
          const next = yield* start(volumeArguments(rival, killedSpec), rival, apart)
          yield* running(next)
          assert.strictEqual(yield* lostOf(rival, acknowledged), 0)
        })
      )
    )
  )
})
