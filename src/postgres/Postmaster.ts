/**
 * The one Postgres process this compute exists to keep.
 *
 * Starts it, knows when it is ready, makes it leave, and tells how it left. It does not start it again: a compute
 * whose Postgres died is over. When the scope of a start closes, the stop stages is climbed and nothing is left.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { type ExitStatus, type Failure, PostmasterNotReady, printExit } from "../errors/Failure.ts"
import { runStages, type ShutdownStage, shutdownStages } from "../platform/shutdownStages.ts"
import { type Child, Spawn, type SpawnRequest } from "../platform/Spawn.ts"
import { coreDumpsIn, crashReport, tellCoreDumps } from "./crashReport.ts"
import { type LogPipe, type LogSink, openLogPipe, stderrSink } from "./LogPipe.ts"
import { PostgresInstall } from "./PostgresInstall.ts"

// ---------------------------------------------------------------------------------------------------------------------
// What postmaster.pid says: whose it is and how far that Postgres has come.
//
// Postgres rewrites the file in place, so a reader may see any beginning of it; a line counts only once its end is
// there. Never throws.
// ---------------------------------------------------------------------------------------------------------------------

/** `standby` is a replica that does not accept connections yet; one that does says `ready`. */
export type PidFileStatus = "starting" | "ready" | "standby" | "stopping"

export interface PidFile {
  readonly pid: number
  readonly status: PidFileStatus
}

const statuses: ReadonlyArray<string> = [
  "starting",
  "ready",
  "standby",
  "stopping"
] satisfies ReadonlyArray<PidFileStatus>
const isStatus = (text: string): text is PidFileStatus => statuses.includes(text)

/** Line 1 is the pid, line 8 the status, padded with spaces. `null`: not all of it is there (yet). */
export const parsePidFile = (text: string): PidFile | null => {
  const lines = text.split("\n")
  const whole = lines.slice(0, -1)
  const [pid, status] = [whole[0]?.trim() ?? "", whole[7]?.trim() ?? ""]
  return /^\d+$/.test(pid) && isStatus(status) ? { pid: Number(pid), status } : null
}

// ---------------------------------------------------------------------------------------------------------------------
// Waits until postmaster.pid says that our Postgres is ready.
//
// The kernel tells of each change of PGDATA; a look every 50 ms makes up for file systems where it does not. Has no
// deadline of its own, and leaves no watcher behind when it is interrupted.
// ---------------------------------------------------------------------------------------------------------------------

const name = "postmaster.pid"
const look = "50 millis"

/** Empty where there is none. */
export const readPidFile = (pgdata: string): string => {
  try {
    return fs.readFileSync(path.join(pgdata, name), "utf8")
  } catch {
    return ""
  }
}

export interface Expected {
  readonly pgdata: string
  readonly pid: number
  /** The file's text before this Postgres was started: a dead one's, which may even have had the same pid. */
  readonly before: string
}

const isReady = ({ before, pgdata, pid }: Expected): boolean => {
  const text = readPidFile(pgdata)
  const said = text === before ? null : parsePidFile(text)
  return said !== null && said.pid === pid && said.status === "ready"
}

const watching = (expected: Expected): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const watcher = watch(expected.pgdata)
    const check = (file: string | null) => {
      if ((file !== null && file !== name) || !isReady(expected)) return
      watcher?.close()
      resume(Effect.void)
    }
    watcher?.on("change", (_, file) => check(file === null ? null : String(file)))
    check(null)
    return Effect.sync(() => watcher?.close())
  })

/** `null`: the kernel will not tell, for example because of too many watches on this host. The looks go on. */
const watch = (folder: string): fs.FSWatcher | null => {
  try {
    const watcher = fs.watch(folder)
    return watcher.on("error", () => watcher.close())
  } catch {
    return null
  }
}

const looking = (expected: Expected): Effect.Effect<void> =>
  Effect.suspend(() => (isReady(expected) ? Effect.void : Effect.andThen(Effect.sleep(look), looking(expected))))

export const awaitReady = (expected: Expected): Effect.Effect<void> =>
  Effect.raceFirst(watching(expected), looking(expected))

// ---------------------------------------------------------------------------------------------------------------------

export interface Running {
  readonly pid: number
  /** postmaster.pid says `ready`. Fails when Postgres leaves first, or after 60 s; then Postgres has been stopped. */
  readonly ready: Effect.Effect<void, Failure>
  /** Any number may wait. What Postgres wrote has been passed on by then, unless orphans still hold the pipe. */
  readonly exit: Effect.Effect<ExitStatus>
  /** Climbs the stop stages until Postgres has left. Safe to call twice: both wait for the same end. */
  readonly stop: Effect.Effect<ExitStatus>
  /** The next stage of the stages, now; the first one when nobody asked for a stop yet. */
  readonly escalate: Effect.Effect<void>
  /** SIGHUP: Postgres reads its files again. */
  readonly reload: Effect.Effect<void>
  /** The last records Postgres wrote, oldest first; bounded. */
  readonly recentLog: Effect.Effect<ReadonlyArray<string>>
}

export interface PostmasterOptions {
  readonly pgdata: string
  readonly extraEnv?: Readonly<Record<string, string | undefined>>
  /** Our stderr by default. */
  readonly sink?: LogSink
  readonly stages?: ReadonlyArray<ShutdownStage>
  /** The last word on how Postgres is started, such as inside a cgroup. */
  readonly enter?: (request: SpawnRequest) => Effect.Effect<SpawnRequest, Failure>
  /** Recovery after a crash counts in, hence 60 s by default. */
  readonly readyWithin?: Duration.Duration
}

export class Postmaster extends Context.Service<
  Postmaster,
  {
    /** Starts `postgres -D PGDATA`; the scope's end climbs the stop stages. `token` becomes NEON_AUTH_TOKEN. */
    readonly start: (options: {
      readonly token: Redacted.Redacted<string> | null
    }) => Effect.Effect<Running, Failure, Scope.Scope>
  }
>()("compute/postmaster/Postmaster") {
  static readonly layer = (options: PostmasterOptions): Layer.Layer<Postmaster, never, Spawn | PostgresInstall> =>
    Layer.effect(
      Postmaster,
      Effect.gen(function* () {
        const install = yield* PostgresInstall
        const spawn = yield* Spawn
        return Postmaster.of({
          start: ({ token }) => Effect.provideService(start(options, install, token), Spawn, spawn)
        })
      })
    )
}

/** How long a Postgres that has left may still be heard: its orphans may hold the log pipe. */
const drain = Duration.seconds(1)
/** How long the scope's end waits for the last words about core dumps. */
const autopsy = Duration.seconds(30)
/** More hurry than the stages has rungs means nothing. */
const mostHurry = 8

const start = Effect.fn("Postmaster.start")(function* (
  options: PostmasterOptions,
  install: PostgresInstall["Service"],
  token: Redacted.Redacted<string> | null
) {
  const { pgdata } = options
  const stages = options.stages ?? shutdownStages
  const { spawn } = yield* Spawn
  const [pidFileBefore, coresBefore] = [readPidFile(pgdata), coreDumpsIn(pgdata)]
  const request: SpawnRequest = {
    command: install.postgres,
    args: ["-D", pgdata],
    // Secrets of ours that Postgres, and whoever can run code in it, has no use for.
    env: {
      NEON_CONTROL_PLANE_TOKEN: undefined,
      PGBOUNCER_PASSWORD: undefined,
      ...options.extraEnv,
      NEON_AUTH_TOKEN: token === null ? undefined : Redacted.value(token)
    },
    // Postgres goes to PGDATA by itself; until then it needs a folder that it can surely enter.
    cwd: "/",
    runAs: install.runAs,
    stages
  }
  const child = yield* spawn(options.enter === undefined ? request : yield* options.enter(request))
  yield* Effect.logInfo(`Postgres ${install.version} was started with pid ${child.pid}`)
  const log = yield* openLogPipe([child.stderr, child.stdout], options.sink ?? stderrSink)

  const exited = yield* Deferred.make<ExitStatus>()
  const autopsied = yield* Deferred.make<void>()
  yield* child.exit.pipe(
    Effect.tap(() => Effect.timeoutOption(log.drained, drain)),
    Effect.flatMap((exit) => Deferred.succeed(exited, exit)),
    Effect.andThen(tellCoreDumps({ pgdata, postgres: install.postgres, runAs: install.runAs, before: coresBefore })),
    Effect.ensuring(Deferred.succeed(autopsied, undefined)),
    Effect.forkScoped
  )
  const exit = Deferred.await(exited)
  const { escalate, stop } = yield* stopper(child, stages, exit)

  const ready = yield* Deferred.make<void, PostmasterNotReady>()
  const readyWithin = options.readyWithin ?? Duration.seconds(60)
  yield* untilReady(awaitReady({ pgdata, pid: child.pid, before: pidFileBefore }), exit, log, readyWithin, stop).pipe(
    Deferred.into(ready),
    Effect.forkScoped({ startImmediately: true })
  )
  yield* Effect.addFinalizer(() => Effect.andThen(stop, Effect.timeoutOption(Deferred.await(autopsied), autopsy)))
  return {
    pid: child.pid,
    ready: Deferred.await(ready),
    exit,
    stop,
    escalate,
    reload: child.signal("SIGHUP"),
    recentLog: log.recent
  } satisfies Running
})

/** One runStages, however many ask for it, and one that an interrupted caller does not take along. */
const stopper = Effect.fnUntraced(function* (
  child: Child,
  stages: ReadonlyArray<ShutdownStage>,
  exit: Effect.Effect<ExitStatus>
) {
  const asked = yield* Latch.make()
  const hurry = yield* Queue.dropping<void>(mostHurry)
  const undying = yield* Deferred.make<ExitStatus>()
  yield* asked.await.pipe(
    Effect.andThen(
      runStages({
        stages,
        exit: child.exit,
        signal: child.signal,
        escalate: Queue.take(hurry),
        onStage: ({ meaning, signal }) => Effect.logInfo(`asking Postgres to leave with ${signal} (${meaning})`)
      })
    ),
    Effect.flatMap((left) =>
      left !== null
        ? Effect.void
        : Effect.andThen(
            Effect.logError(`Postgres (pid ${child.pid}) does not even leave for SIGKILL; the kernel still holds it`),
            Deferred.succeed(undying, { _tag: "Signal", signal: "SIGKILL" })
          )
    ),
    Effect.forkScoped
  )
  const stop = Effect.andThen(asked.open, Effect.raceFirst(exit, Deferred.await(undying)))
  const escalate = Effect.suspend(() => (asked.isOpen() ? Queue.offer(hurry, undefined) : asked.open)).pipe(
    Effect.asVoid
  )
  return { stop, escalate }
})

const untilReady = Effect.fnUntraced(function* (
  becameReady: Effect.Effect<void>,
  exit: Effect.Effect<ExitStatus>,
  log: LogPipe,
  within: Duration.Duration,
  stop: Effect.Effect<ExitStatus>
): Effect.fn.Return<void, PostmasterNotReady> {
  const first = yield* Effect.raceFirst(Effect.as(becameReady, "ready" as const), exit).pipe(
    Effect.timeoutOrElse({ duration: within, orElse: () => Effect.succeed("late" as const) })
  )
  if (first === "ready") return
  // A Postgres that nobody waits for any more must not go on and serve.
  if (first === "late") yield* stop
  const records = yield* log.recent
  const reason =
    first === "late"
      ? `Postgres was not ready within ${Duration.toMillis(within)} ms and was stopped`
      : `Postgres left before it was ready, with ${printExit(first)}: ${crashReport(first, records)}`
  return yield* new PostmasterNotReady({ reason, log: records.slice(-quoted) })
})

/** Records that a failure carries; `recentLog` has more. */
const quoted = 10
