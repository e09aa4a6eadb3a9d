/**
 * Who else may be on a volume: a compute that lives, the Postgres of one that died, a Postgres that somebody started by
 * hand, a backup that was put in its place.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import { isAlive } from "../../../src/platform/processes.ts"
import { cleanEnvironment, freePort, runAs } from "../../support/postgres.ts"
import { eventually } from "../../support/waiting.ts"
import { killAll, lost, processesIn, type Started, wireTo, writers } from "../local/computes.ts"
import { apart, where } from "../local/containers.ts"
import { makeVolume, put, refused, start, storageFor, type Volume } from "./volumes.ts"

const pidFile = (volume: Volume): string => {
  const file = `${volume.pgdata}/postmaster.pid`
  return fs.existsSync(file) ? fs.readFileSync(file, "utf8") : ""
}

/** Starts Postgres as a person would, without any compute. */
const byHand = Effect.fnUntraced(function* (volume: Volume, under: ReadonlyArray<string> = []) {
  const before = pidFile(volume)
  const as = runAs === null ? [] : ["setpriv", `--reuid=${runAs.uid}`, `--regid=${runAs.gid}`, "--clear-groups"]
  const [command = "", ...args] = [...under, ...as, volume.install.postgres, "-D", volume.pgdata]
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => spawn(command, args, { cwd: "/", env: cleanEnvironment(), stdio: "ignore" })),
    (child) =>
      Effect.promise(async () => {
        if (child.exitCode !== null || child.signalCode !== null) return
        child.kill("SIGKILL")
        killAll(volume.pgdata)
        await once(child, "exit")
      })
  )
  yield* eventually("the Postgres that was started by hand", () => {
    const now = pidFile(volume)
    return now !== before && now.includes("ready")
  })
  return child
})

/** Whatever stands above Postgres leaves with it. */
const ended = (volume: Volume, child: ChildProcess, signal: NodeJS.Signals) =>
  Effect.promise(async () => {
    const exit = once(child, "exit")
    if (signal === "SIGKILL") killAll(volume.pgdata)
    else child.kill(signal)
    await exit
  })

const killed = Effect.fnUntraced(function* (volume: Volume) {
  const started = yield* start(volume)
  yield* started.rows("create table kept (n int)")
  yield* started.rows("insert into kept select generate_series(1, 100)")
  yield* started.crash()
})

const hasAll = Effect.fnUntraced(function* (volume: Volume) {
  const started = yield* start(volume)
  assert.deepStrictEqual(yield* started.rows("select count(*) from kept"), [["100"]])
  yield* started.crash()
})

describe("a compute on the same volume", () => {
  it.live("is refused while the first one lives, and ends what a dead one left, with every acknowledged row", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        const first = yield* start(volume)
        yield* first.rows("create table acks (writer int, n int, t text)")
        const { message, tag } = yield* refused(volume)
        assert.strictEqual(tag, "TimelineBusy")
        assert.include(message, "runs on this timeline")
        const { acknowledged, run } = writers(volume, 3)
        yield* Effect.forkScoped(run(1))
        yield* eventually("acknowledged rows", () => acknowledged.length > 50)
        const left = processesIn(volume.pgdata)
        // As when the program alone is killed: its Postgres goes on acknowledging.
        yield* first.letGo
        const second = yield* start(volume)
        assert.isEmpty(left.filter((pid) => isAlive(pid)))
        assert.strictEqual(yield* lost(second, acknowledged), 0)
        yield* second.crash()
      })
    )
  )
})

describe("a Postgres that somebody started by hand", () => {
  it.live("is neither touched nor joined; after its end the next start has every row", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        yield* killed(volume)
        const child = yield* byHand(volume)
        const { message, tag } = yield* refused(volume)
        assert.strictEqual(tag, "PgdataBusy")
        assert.match(message, /in use by Postgres with pid \d+, which no dead compute left behind/)
        assert.isNull(child.exitCode)
        yield* ended(volume, child, "SIGINT")
        yield* hasAll(volume)
      })
    )
  )

  it.live("is refused by its postmaster.pid where it cannot be seen, until a person says that it is gone", () =>
    where(
      apart,
      Effect.scoped(
        Effect.gen(function* () {
          const volume = yield* makeVolume()
          yield* killed(volume)
          const child = yield* byHand(volume, apart)
          const left = pidFile(volume)
          // Seen from here it would be in PGDATA; all that another container sees of it is its file.
          yield* ended(volume, child, "SIGKILL")
          yield* eventually("its processes are gone", () => processesIn(volume.pgdata).length === 0)
          const { hint, message, tag } = yield* refused(volume)
          assert.strictEqual(tag, "PgdataBusy")
          assert.match(message, /Postgres with pid \d+, started by somebody else, as .*postmaster.pid says/)
          assert.include(hint, `remove ${volume.pgdata}/postmaster.pid alone`)
          assert.strictEqual(pidFile(volume), left)
          fs.rmSync(`${volume.pgdata}/postmaster.pid`)
          yield* hasAll(volume)
        })
      )
    )
  )
})

/** As if the compute that was killed here had found no lock to take. */
const forgetLock = (volume: Volume): void => {
  const folder = `${volume.ours}/lock`
  const claim = fs.readdirSync(folder).find((name) => /^\d+$/.test(name)) ?? ""
  const holder = JSON.parse(fs.readFileSync(`${folder}/${claim}`, "utf8")) as object
  fs.writeFileSync(`${folder}/${claim}`, JSON.stringify({ ...holder, released: false, startTime: "0", fenced: false }))
}

describe("a compute that ran without the lock", () => {
  it.live("is not taken for dead without proof, until a person says so or the machine has started again", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        yield* killed(volume)
        forgetLock(volume)
        const { message, tag } = yield* refused(volume)
        assert.strictEqual(tag, "PgdataBusy")
        assert.include(message, "started by a compute that ran without the lock")
        const [left, note] = [pidFile(volume), fs.readFileSync(`${volume.ours}/postmaster`, "utf8")]

        const unfenced = yield* storageFor(volume, { allowUnfenced: true })
        const second = yield* start(volume, { storage: unfenced })
        assert.deepStrictEqual(yield* second.rows("select count(*) from kept"), [["100"]])
        yield* second.crash()

        forgetLock(volume)
        put(volume, "postmaster.pid", left)
        put(volume, "compute_ctl/postmaster", JSON.stringify({ ...JSON.parse(note), bootId: "the boot before" }))
        yield* hasAll(volume)
      })
    )
  )
})

/** The same volume in another place. */
const elsewhere = Effect.fnUntraced(function* (volume: Volume, name: string) {
  const pgdata = `${volume.folder}/${name}`
  const there = { ...volume, pgdata, ours: `${pgdata}/compute_ctl`, port: yield* freePort }
  return { ...there, storage: yield* storageFor(there) }
})

describe("a volume that was copied while a compute ran on it", () => {
  it.live("starts beside the original, which runs on, starts again meanwhile, and is moved once it has stopped", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        const first = yield* start(volume)
        yield* first.rows("create table kept as select generate_series(1, 100) n")
        yield* first.rows("checkpoint")
        const copy = yield* elsewhere(volume, "copy")
        execFileSync("cp", ["-a", volume.pgdata, copy.pgdata])
        const second = yield* start(copy)
        const count = (started: Started) => started.rows("select count(*) from kept")
        assert.deepStrictEqual(yield* count(second), [["100"]])
        yield* second.rows("insert into kept values (101)")
        assert.deepStrictEqual(yield* count(first), [["100"]])
        yield* first.crash()
        const third = yield* start(volume)
        assert.deepStrictEqual(yield* count(third), [["100"]])
        assert.deepStrictEqual(yield* count(second), [["101"]])
        yield* third.stop
        const moved = yield* elsewhere(volume, "moved")
        fs.renameSync(volume.pgdata, moved.pgdata)
        const fourth = yield* start(moved)
        assert.deepStrictEqual(yield* count(fourth), [["100"]])
        yield* fourth.crash()
        yield* second.crash()
      })
    )
  )
})

describe("a backup that is put in place", () => {
  it.live("is replayed from its backup_label to the end of its WAL", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const [volume, restored] = [yield* makeVolume(), yield* makeVolume()]
        const first = yield* start(volume)
        yield* first.rows("create table kept (n int)")
        yield* first.rows("insert into kept select generate_series(1, 50)")
        const label = yield* Effect.scoped(
          Effect.gen(function* () {
            const wire = yield* wireTo(volume)
            yield* wire.rows("select pg_backup_start('by hand', true)")
            execFileSync("cp", ["-a", volume.pgdata, restored.pgdata])
            yield* first.rows("insert into kept select generate_series(51, 100)")
            yield* first.rows("checkpoint")
            const rows = yield* wire.rows("select labelfile from pg_backup_stop(false)")
            return rows[0]?.[0] ?? ""
          })
        )
        execFileSync("cp", ["-a", `${volume.pgdata}/pg_wal/.`, `${restored.pgdata}/pg_wal/`])
        yield* first.stop
        fs.rmSync(`${restored.pgdata}/postmaster.pid`)
        put(restored, "backup_label", label)
        put(restored, "standby.signal", "")
        yield* hasAll(restored)
        assert.isFalse(fs.existsSync(`${restored.pgdata}/backup_label`))
      })
    )
  )
})
