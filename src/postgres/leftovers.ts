/**
 * Postgres processes that still live in a data directory: what a killed compute left behind is ended, so that its
 * files are not emptied under it; a Postgres that is anybody else's keeps its data directory.
 *
 * Ends nothing unless the caller knows that it is a leftover. Without `/proc` processes cannot be listed: then a live
 * process in postmaster.pid is somebody else's. Ending the leftovers of a timeline on local storage is its fence's.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as fs from "node:fs"
import * as path from "node:path"
import { PgdataBusy } from "../errors/Failure.ts"
import { isAlive, type OtherProcess, processOf, signalProcess, stopProcess } from "../platform/processes.ts"
import type { ShutdownStage } from "../platform/shutdownStages.ts"
import { parsePidFile, readPidFile } from "./pidFile.ts"

const orNull = <A>(look: () => A): A | null => {
  try {
    return look()
  } catch {
    // The process went away while we looked, or belongs to somebody whose processes we may not look into.
    return null
  }
}

/** Also one that goes by its version, as `postgres-17`. */
export const isPostgres = (pid: number): boolean => {
  const exe = orNull(() => fs.readlinkSync(`/proc/${pid}/exe`))
  const name = exe === null ? (processOf(pid)?.name ?? null) : path.basename(exe)
  return name !== null && /^postgres(?![a-z])/.test(name)
}

/** `pgdata` is a real path. Each process of a Postgres stays in its data directory, also when that is removed. */
const livesIn = (pid: number, pgdata: string): boolean => {
  if (orNull(() => fs.readlinkSync(`/proc/${pid}/cwd`))?.replace(/ \(deleted\)$/, "") === pgdata) return true
  const [theirs, ours] = [orNull(() => fs.statSync(`/proc/${pid}/cwd`)), orNull(() => fs.statSync(pgdata))]
  return theirs !== null && ours !== null && theirs.dev === ours.dev && theirs.ino === ours.ino
}

/** Does a Postgres live in `pgdata` that has this port? Where it may not be looked into, nothing is known of it. */
export const livesOnPort = (pgdata: string, port: number): boolean => {
  const text = readPidFile(pgdata)
  const pid = parsePidFile(text)?.pid
  if (pid === undefined || Number(text.split("\n")[3]) !== port) return false
  return isPostgres(pid) && livesIn(pid, orNull(() => fs.realpathSync(pgdata)) ?? pgdata)
}

const postgresIn = (pgdata: string): ReadonlyArray<OtherProcess> =>
  (orNull(() => fs.readdirSync("/proc")) ?? []).flatMap((name) => {
    const pid = /^\d+$/.test(name) ? Number(name) : 0
    const other = pid > 0 && isPostgres(pid) && livesIn(pid, pgdata) ? processOf(pid) : null
    return other === null ? [] : [other]
  })

/** The live process of postmaster.pid, where processes cannot be listed or looked into. */
const unseenPostmaster = (pgdata: string): number | null => {
  const pid = parsePidFile(readPidFile(pgdata))?.pid ?? null
  if (pid === null || pid === process.pid || pid === process.ppid || !isAlive(pid)) return null
  const cwd = fs.existsSync("/proc/self/cwd") ? orNull(() => fs.readlinkSync(`/proc/${pid}/cwd`)) : null
  // Its folder can be read, and is another one: the pid was used again.
  return cwd === null && (!fs.existsSync("/proc/self/cwd") || isPostgres(pid)) ? pid : null
}

/** Immediate, so that a postmaster takes its processes, sockets and shared memory along. */
const stages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGQUIT", grace: Duration.seconds(5), meaning: "immediate" },
  { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }
]
const goneWithin = Duration.seconds(10)

const busyWith = (pgdata: string, holder: string) => new PgdataBusy({ directory: pgdata, holder })

/** Fails when the process in postmaster.pid may be somebody else's Postgres in `pgdata`, and may not be looked into. */
export const refuseUnseen = Effect.fnUntraced(function* (pgdata: string): Effect.fn.Return<void, PgdataBusy> {
  const unseen = unseenPostmaster(pgdata)
  if (unseen !== null) {
    return yield* busyWith(pgdata, `Postgres with pid ${unseen}, which may not be looked into`)
  }
})

/**
 * Returns when no Postgres lives in `pgdata` (a real path). `leftBehind`: the compute that used it died, so what lives
 * there is its Postgres and is ended; anything else is left alone, and a failure.
 */
export const endLeftovers = Effect.fn("Pgdata.endLeftovers")(function* (
  pgdata: string,
  leftBehind: boolean
): Effect.fn.Return<void, PgdataBusy> {
  const busy = (holder: string) => busyWith(pgdata, holder)
  yield* refuseUnseen(pgdata)
  const found = postgresIn(pgdata)
  const [first] = found
  if (first === undefined) return
  const postmaster = parsePidFile(readPidFile(pgdata))?.pid
  const main = found.find(({ pid }) => pid === postmaster) ?? first
  if (!leftBehind) return yield* busy(`Postgres with pid ${main.pid}, which no dead compute left behind`)
  yield* Effect.logWarning(`ending Postgres (pid ${main.pid}) in ${pgdata}, left behind by a compute that was killed`)
  if (main.pid === postmaster) yield* stopProcess(main, stages)
  const left = yield* Effect.repeat(killAllIn(pgdata), {
    schedule: Schedule.spaced("5 millis").pipe(Schedule.upTo({ duration: goneWithin })),
    until: (first) => first === undefined
  })
  if (left !== undefined) return yield* busy(`Postgres with pid ${left.pid}, which does not die`)
})

const killAllIn = (pgdata: string) =>
  Effect.gen(function* () {
    const found = postgresIn(pgdata)
    for (const other of found) yield* signalProcess(other, "SIGKILL")
    return found[0]
  })
