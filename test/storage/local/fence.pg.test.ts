/**
 * Two computes on one storage, whatever they can see of each other: never two writers, no acknowledged row is lost,
 * and once the first one is gone the next start succeeds. Real programs, in real namespaces, that are really killed.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { launch, killAll, localArguments, type Place, place, type Program, rows } from "../../program/harness.ts"
import { parentOf } from "../../../src/platform/processes.ts"
import { least } from "../../support/fixtures.ts"
import { atHand, freePort, installOf } from "../../support/postgres.ts"
import { eventually } from "../../support/waiting.ts"
import {
  apart,
  apartWithInit,
  beside,
  computeOf,
  initOf,
  killCompute,
  locksHeldBy,
  lostOf,
  makeTable,
  postgresOf,
  start,
  stateOf,
  where,
  withoutPtrace,
  write
} from "./containers.ts"

/** The same storage with ports of its own, and maybe another PGDATA. */
const rival = (at: Place, pgdata = "pgdata") =>
  Effect.all({ port: freePort, httpPort: freePort }).pipe(
    Effect.map((ports) => {
      const there: Place = { directory: at.directory, ...ports }
      const args = localArguments(there, least).map((arg) =>
        arg === `${at.directory}/pgdata` ? `${at.directory}/${pgdata}` : arg
      )
      return { at: there, args }
    })
  )

const running = (program: Program) => Effect.promise(() => program.reaches("running"))

/** A start that must be refused: its error, and its hint. Nothing may have been touched. */
const refused = Effect.fnUntraced(function* (
  at: Place,
  pgdata: string,
  under: ReadonlyArray<string>,
  env: Record<string, string> = {},
  more: ReadonlyArray<string> = []
) {
  const other = yield* rival(at, pgdata)
  const program = yield* launch([...other.args, ...more], other.at.httpPort, env, "none", under)
  const { error } = yield* Effect.promise(() => program.reaches("failed"))
  killAll([computeOf(program)], "SIGTERM")
  assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 1)
  return { error: error ?? "", output: program.output() }
})

/** Writes until `more` further rows are acknowledged. */
const acknowledging = (acknowledged: Array<number>, more = 50) => {
  const goal = acknowledged.length + more
  return eventually("further acknowledged rows", () => acknowledged.length >= goal)
}

/** A compute under `under`, with somebody writing to it. */
const written = Effect.fnUntraced(function* (under: ReadonlyArray<string>, more: ReadonlyArray<string> = []) {
  const at = yield* place
  const args = [...localArguments(at, least), ...more]
  const program = yield* start(args, at, under)
  yield* running(program)
  yield* makeTable(at)
  const acknowledged: Array<number> = []
  yield* Effect.forkScoped(write(at, acknowledged))
  yield* acknowledging(acknowledged)
  return { at, args, program, acknowledged }
})

/** The next start succeeds, has every row, and is alone. */
const succeeded = Effect.fnUntraced(function* (
  at: Place,
  args: ReadonlyArray<string>,
  acknowledged: ReadonlyArray<number>,
  under: ReadonlyArray<string> = []
) {
  const next = yield* start(args, at, under)
  yield* running(next)
  assert.strictEqual(yield* lostOf(at, acknowledged), 0)
  return next
})

/** Its number in its own namespace may be another. */
const postmasterOf = (at: Place): number => {
  const processes = postgresOf(at)
  return processes.find((pid) => !processes.includes(parentOf(pid) ?? 0)) ?? 0
}

const lockOf = (at: Place): string => {
  const [found] = fs.globSync(`${at.directory}/storage/*/*/lock/flock`)
  assert.isDefined(found)
  return found ?? ""
}

describe("a compute in another process namespace", () => {
  for (const pgdata of ["pgdata", "elsewhere"]) {
    it.live(`is kept out as long as the first one's Postgres lives (-D ${pgdata}), and starts afterwards`, () =>
      where(
        apart,
        Effect.scoped(
          Effect.gen(function* () {
            const { acknowledged, at, program } = yield* written(apartWithInit)
            const compute = computeOf(program)
            for (const mischief of [
              () => undefined,
              () => killAll([compute], "SIGSTOP"),
              () => killAll([compute], "SIGKILL")
            ]) {
              mischief()
              const before = postmasterOf(at)
              const { error, output } = yield* refused(at, pgdata, apart)
              assert.include(error, "runs on this timeline")
              assert.include(postgresOf(at), before)
              yield* acknowledging(acknowledged)
              if (!fs.existsSync(`/proc/${compute}`)) {
                assert.include(error, `${lockOf(at)} and cannot be seen from here`)
                assert.match(output, new RegExp(`hint: .*lsof ${lockOf(at)}`))
              }
            }
            killAll([program.pid], "SIGKILL")
            yield* Effect.promise(() => program.exit)
            const next = yield* rival(at, pgdata)
            yield* succeeded(next.at, next.args, acknowledged, apart)
          })
        )
      )
    )
  }
})

describe("a compute without CAP_SYS_PTRACE", () => {
  it.live("ends the Postgres that a killed one left, three times in a row, and keeps its rows", () =>
    where(
      withoutPtrace,
      Effect.scoped(
        Effect.gen(function* () {
          const { acknowledged, args, at, program } = yield* written(withoutPtrace)
          let last = program
          for (let round = 0; round < 3; round++) {
            const left = postgresOf(at)
            assert.isNotEmpty(left)
            yield* killCompute(last)
            last = yield* succeeded(at, args, acknowledged, withoutPtrace)
            assert.isEmpty(postgresOf(at).filter((pid) => left.includes(pid)))
            yield* Effect.forkScoped(write(at, acknowledged))
            yield* acknowledging(acknowledged)
          }
        })
      )
    )
  )
})

describe("the lock of a compute", () => {
  it.live("is held by every process of its Postgres: on the timeline, and on PGDATA", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { at } = yield* written([])
        // One that comes or goes meanwhile is looked at again.
        yield* eventually("both locks in every process of Postgres", () => {
          const held = postgresOf(at).map(locksHeldBy)
          return held.length > 4 && held.every((locks) => locks === 2)
        })
      })
    )
  )

  it.live("does not ask what Postgres's program is called", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const install = yield* Effect.promise(() => atHand(installOf(17)))
        const bin = path.dirname(install.postgres)
        const at = yield* place
        const folder = `${at.directory}/renamed`
        fs.mkdirSync(`${folder}/bin`, { recursive: true })
        for (const name of fs.readdirSync(path.dirname(bin))) {
          if (name !== "bin") fs.symlinkSync(path.join(path.dirname(bin), name), `${folder}/${name}`)
        }
        for (const [from, to] of [
          ["postgres", "pg17d"],
          ["postgres", "postgres"],
          ["initdb", "initdb"]
        ] as const) {
          fs.copyFileSync(path.join(bin, from), `${folder}/bin/${to}`)
        }
        const args = [...localArguments(at, least), "-b", `${folder}/bin/pg17d`]
        const program = yield* start(args, at)
        yield* running(program)
        yield* makeTable(at)
        const acknowledged: Array<number> = []
        yield* Effect.forkScoped(write(at, acknowledged))
        yield* acknowledging(acknowledged)
        const left = postgresOf(at)
        yield* killCompute(program)
        yield* succeeded(at, args, acknowledged)
        assert.isEmpty(postgresOf(at).filter((pid) => left.includes(pid)))
      })
    )
  )

  for (const [whom, victims] of [
    ["the compute", (compute: number) => [compute]],
    ["Postgres's first process", (_: number, postmaster: number) => [postmaster]],
    ["both", (compute: number, postmaster: number) => [compute, postmaster]]
  ] as const) {
    it.live(`kill -9 of ${whom} while a session commits in a loop: of two starts at once one succeeds`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { acknowledged, args, at, program } = yield* written([])
          const compute = computeOf(program)
          const postmaster = Number(fs.readFileSync(`${at.directory}/pgdata/postmaster.pid`, "utf8").split("\n")[0])
          yield* Effect.forkScoped(
            Effect.ignore(
              rows(at, "do $$ begin loop create table if not exists busy (n int); commit; end loop; end $$")
            )
          )
          yield* acknowledging(acknowledged)
          // Stopped first, so that it cannot put things in order between two kills.
          killAll([compute], "SIGSTOP")
          killAll(victims(compute, postmaster), "SIGKILL")
          killAll([compute], "SIGKILL")
          const other = yield* rival(at)
          const both = [
            { at, program: yield* start(args, at) },
            { at: other.at, program: yield* start(other.args, other.at) }
          ]
          const ends = yield* Effect.promise(() =>
            Promise.all(both.map(({ program }) => program.reaches("running", "failed")))
          )
          assert.deepStrictEqual(ends.map(({ status }) => status).sort(), ["failed", "running"])
          const winner = both[ends.findIndex(({ status }) => status === "running")]
          assert.strictEqual(yield* lostOf(winner?.at ?? at, acknowledged), 0)
        })
      )
    )
  }

  it.live("does not wait until the dead are reaped", () =>
    where(
      apart,
      Effect.scoped(
        Effect.gen(function* () {
          const { acknowledged, args, at, program } = yield* written(apartWithInit)
          const init = initOf(program)
          const compute = computeOf(program)
          killAll([compute, ...postgresOf(at)], "SIGKILL")
          yield* eventually("zombies", () => /^State:\s+Z/m.test(fs.readFileSync(`/proc/${compute}/status`, "utf8")))
          yield* succeeded(at, args, acknowledged, beside(init))
          assert.match(fs.readFileSync(`/proc/${compute}/status`, "utf8"), /^State:\s+Z/m)
        })
      )
    )
  )

  it.live("of a stopped compute whose socket takes nobody any more is held", () =>
    where(
      apart,
      Effect.scoped(
        Effect.gen(function* () {
          const { acknowledged, at, program } = yield* written([])
          killAll([computeOf(program)], "SIGSTOP")
          const folder = path.dirname(lockOf(at))
          const name = fs.readdirSync(folder).find((one) => one.endsWith(".sock")) ?? ""
          const handle = fs.openSync(folder, "r")
          const sockets: Array<net.Socket> = []
          const fill = async () => {
            for (;;) {
              const socket = net.connect({ path: `/proc/self/fd/${handle}/${name}` })
              sockets.push(socket)
              const answer = await Promise.race([
                once(socket, "connect").then(() => "connected"),
                once(socket, "error").then(() => "refused")
              ]).catch(() => "refused")
              if (answer === "refused") return
            }
          }
          yield* Effect.promise(fill)
          assert.isAbove(sockets.length, 100)
          const { error } = yield* refused(at, "elsewhere", apart)
          assert.include(error, "runs on this timeline")
          yield* acknowledging(acknowledged)
          for (const socket of sockets) socket.destroy()
          fs.closeSync(handle)
          killAll([computeOf(program)], "SIGCONT")
          killAll([computeOf(program)], "SIGTERM")
          yield* Effect.promise(() => program.exit)
          const next = yield* rival(at)
          yield* succeeded(next.at, next.args, acknowledged)
        })
      )
    )
  )

  it.live("that somebody else has taken is not fought for: a first start is refused, and touches nothing", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { args, at, program } = yield* written([])
        killAll([computeOf(program)], "SIGTERM")
        yield* Effect.promise(() => program.exit)
        const lock = lockOf(at)
        // A storage from a copy: the claims of its computes are not in it.
        for (const name of fs.readdirSync(path.dirname(lock)))
          if (name !== "flock") fs.rmSync(`${path.dirname(lock)}/${name}`)
        const holder = yield* start(args, at, ["flock", lock, "sh", "-c", "sleep 1000"])
        yield* eventually("somebody's lock", () => locksHeldBy(holder.pid) === 1)
        const before = stateOf(`${at.directory}/storage`)
        for (let round = 0; round < 2; round++) {
          const { error } = yield* refused(at, "pgdata", [])
          assert.include(error, lock)
          assert.isTrue(fs.existsSync(`/proc/${holder.pid}`))
        }
        assert.strictEqual(stateOf(`${at.directory}/storage`), before)
      })
    )
  )
})

describe("where there is no such lock", () => {
  for (const [what, program] of [
    ["the file system has none", "#!/bin/sh\necho 'flock: 3: No locks available' >&2\nexit 71\n"],
    ["no program can take it", null]
  ] as const) {
    it.live(`because ${what}: a start is refused with a hint, and --allow-unfenced goes on, loudly`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const bin = `${at.directory}/bin`
          fs.mkdirSync(bin)
          if (program !== null) fs.writeFileSync(`${bin}/flock`, program, { mode: 0o755 })
          const PATH = program === null ? bin : `${bin}:${process.env["PATH"]}`
          const { error, output } = yield* refused(at, "pgdata", [], { PATH })
          assert.include(error, "no second compute can be kept out with a lock on")
          assert.include(error, program === null ? "there is no flock, busybox, perl, python3" : "No locks available")
          assert.match(output, /hint: use a file system with flock, .*--allow-unfenced/)
          assert.isFalse(fs.existsSync(`${at.directory}/pgdata/PG_VERSION`))
          const args = [...localArguments(at, least), "--allow-unfenced"]
          const allowed = yield* launch(args, at.httpPort, { PATH })
          yield* running(allowed)
          assert.match(allowed.output(), /WARN.*--allow-unfenced: .* committed data will be lost/)
        })
      )
    )
  }
})

describe("a storage that is not there", () => {
  it.live("is announced as a new timeline, and refused with --require-existing", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const storage = `${at.directory}/storage`
        const there = fs.existsSync(storage)
        const { error, output } = yield* refused(at, "pgdata", [], {}, ["--require-existing"])
        assert.include(error, `the storage in ${storage} is not there`)
        assert.include(output, "hint: mount the volume")
        assert.strictEqual(fs.existsSync(storage), there)
        assert.isEmpty(fs.globSync(`${storage}/*/*/lock`))
        const args = localArguments(at, least)
        const first = yield* start(args, at)
        yield* running(first)
        assert.match(
          first.output(),
          new RegExp(`WARN.*a new and empty timeline is begun in the local storage ${storage}`)
        )
        first.signal("SIGTERM")
        yield* Effect.promise(() => first.exit)
        const second = yield* start([...args, "--require-existing"], at)
        yield* running(second)
        assert.notInclude(second.output(), "new and empty timeline")
      })
    )
  )
})
