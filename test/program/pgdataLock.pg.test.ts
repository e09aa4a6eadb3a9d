/**
 * One data directory, two programs: the second is refused before it touches anything, and what a killed program left
 * behind is ended before its files are.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { processOf } from "../../src/platform/processes.ts"
import { parsePidFile, readPidFile } from "../../src/postgres/pidFile.ts"
import { least } from "../support/fixtures.ts"
import { freePort, startPostgres } from "../support/postgres.ts"
import {
  killAll,
  launch,
  localArguments,
  neonArguments,
  place,
  type Place,
  processesIn,
  rows,
  runAsArguments,
  silentPort
} from "./harness.ts"
import { setUp, specOf } from "./neonPeers.ts"

const postmaster = (at: Place) => parsePidFile(readPidFile(`${at.directory}/pgdata`))?.pid ?? 0

/** Line 7 of postmaster.pid: key and id of its System V segment. */
const segment = (at: Place) => readPidFile(`${at.directory}/pgdata`).split("\n")[6]?.trim().split(/\s+/)[1] ?? ""
const segments = () =>
  fs
    .readFileSync("/proc/sysvipc/shm", "utf8")
    .split("\n")
    .slice(1)
    .map((line) => line.trim().split(/\s+/)[1])

/** The same data directory, with ports of its own. */
const beside = (at: Place) =>
  Effect.all({ port: freePort, httpPort: freePort }).pipe(
    Effect.map((ports): Place => ({ directory: at.directory, ...ports }))
  )

const anotherTimeline = { timeline_id: "0".repeat(31) + "1" }

describe("a data directory", () => {
  it.live("of a running compute is refused to a second one with another timeline", () =>
    Effect.gen(function* () {
      const { addresses, at, pageserver } = yield* setUp(["ok"])
      const spec = specOf(at, pageserver.url, addresses)
      const first = yield* launch(neonArguments(at, spec), at.httpPort)
      yield* Effect.promise(() => first.reaches("running"))

      const other = yield* beside(at)
      for (const args of [
        () => neonArguments(other, { ...specOf(other, pageserver.url, addresses), ...anotherTimeline }),
        () => localArguments(other, least)
      ]) {
        const second = yield* launch(args(), other.httpPort)
        const { error } = yield* Effect.promise(() => second.reaches("failed"))
        assert.match(error ?? "", new RegExp(`${first.pid}|Postgres with pid ${postmaster(at)}`))
        assert.include(error ?? "", `${at.directory}/pgdata`)
        second.signal("SIGTERM")
        assert.strictEqual((yield* Effect.promise(() => second.exit)).code, 1)
      }
      assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
      assert.strictEqual((yield* Effect.promise(first.status)).status, "running")
    })
  )

  it.live("of a compute whose Postgres does not run yet is refused, too", () =>
    Effect.gen(function* () {
      const { addresses, at, pageserver } = yield* setUp(["ok"])
      const port = yield* silentPort
      const spec = specOf(at, pageserver.url, addresses)
      const first = yield* launch(
        neonArguments(at, { ...spec, pageserver_connstring: `host=127.0.0.1 port=${port}` }),
        at.httpPort
      )
      yield* Effect.promise(() => first.reaches("init"))
      yield* Effect.promise(() => first.prints(/already synced/))
      const other = yield* beside(at)
      for (const args of [
        () => neonArguments(other, { ...specOf(other, pageserver.url, addresses), ...anotherTimeline }),
        () => localArguments(other, least)
      ]) {
        const second = yield* launch(args(), other.httpPort)
        const { error } = yield* Effect.promise(() => second.reaches("failed"))
        assert.include(
          error ?? "",
          `the data directory ${at.directory}/pgdata is in use by another compute (pid ${first.pid})`
        )
        second.signal("SIGTERM")
        yield* Effect.promise(() => second.exit)
        assert.match(second.output(), /hint: stop it, or give this compute a data directory of its own with -D/)
      }
    })
  )

  for (const [what, victims] of [
    ["the program alone", (pid: number) => [pid]],
    ["everything", (pid: number, at: Place) => [pid, ...processesIn(`${at.directory}/pgdata`)]]
  ] as const) {
    it.live(`after kill -9 of ${what} it is free again at once, and nothing is left behind`, () =>
      Effect.gen(function* () {
        const { addresses, at, pageserver } = yield* setUp(["ok"])
        const { cluster, ...spec } = specOf(at, pageserver.url, addresses)
        // In PGDATA: Postgres takes the lock of a socket for held while nobody has reaped its dead postmaster.
        const settings = cluster.settings.map((setting) =>
          setting.name === "unix_socket_directories" ? { ...setting, value: `${at.directory}/pgdata` } : setting
        )
        const args = neonArguments(at, { ...spec, cluster: { ...cluster, settings } })
        const first = yield* launch(args, at.httpPort)
        yield* Effect.promise(() => first.reaches("running"))
        const [pid, shared] = [postmaster(at), segment(at)]
        assert.include(segments(), shared)
        killAll(victims(first.pid, at), "SIGKILL")
        yield* Effect.promise(() => first.exit)

        const second = yield* launch(args, at.httpPort)
        yield* Effect.promise(() => second.reaches("running"))
        assert.notStrictEqual(postmaster(at), pid)
        assert.isNull(processOf(pid))
        assert.notInclude(segments(), shared)
        assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
      })
    )
  }

  it.live("of a Postgres that is none of ours is left alone", () =>
    Effect.gen(function* () {
      const { addresses, at, pageserver } = yield* setUp(["ok"])
      const foreign = yield* startPostgres({})
      yield* foreign.rows("create table theirs as select 1")
      const args = neonArguments(at, specOf(at, pageserver.url, addresses)).map((arg) =>
        arg === `${at.directory}/pgdata` ? foreign.pgdata : arg
      )
      assert.isTrue(runAsArguments.every((arg) => args.includes(arg)))
      const program = yield* launch(args, at.httpPort)
      const { error } = yield* Effect.promise(() => program.reaches("failed"))
      assert.include(
        error ?? "",
        `the data directory ${foreign.pgdata} is in use by Postgres with pid ${foreign.pid}, ` +
          "which no dead compute left behind"
      )
      assert.deepStrictEqual(yield* foreign.rows("select * from theirs"), [["1"]])
    })
  )
})

describe("two computes that start at the same moment", () => {
  const volumeArguments = (at: Place) =>
    localArguments(at, least).map((arg) => (arg.startsWith("local:") ? "volume" : arg))
  for (const [kind, argumentsOf] of [
    ["local storage", (at: Place) => localArguments(at, least)],
    ["a volume", volumeArguments]
  ] as const) {
    it.live(`on one data directory with ${kind}: one of them runs, the other is refused and names it`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          for (let round = 0; round < 3; round++) {
            const places = [yield* beside(at), yield* beside(at)]
            const programs = yield* Effect.all(places.map((one) => launch(argumentsOf(one), one.httpPort)))
            const ends = yield* Effect.promise(() =>
              Promise.all(programs.map((program) => program.reaches("running", "failed")))
            )
            assert.deepStrictEqual(ends.map(({ status }) => status).toSorted(), ["failed", "running"])
            assert.match(ends.map(({ error }) => error ?? "").join(""), /another compute \(pid \d+\)/)
            for (const program of programs) program.signal("SIGTERM")
            for (const program of programs) yield* Effect.promise(() => program.exit)
          }
        })
      )
    )
  }
})
