/**
 * The postmaster: starts it, knows when it is ready, makes it leave, and knows how it left.
 *
 * Does not start it again: a compute whose Postgres died is over. When the scope of a start closes, the shutdown stages
 * are run and nothing is left.
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
import {
  type ExitStatus,
  type Failure,
  PostmasterNotReady,
  type PostgresPortTaken,
  printExit
} from "../errors/Failure.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import { locksOf } from "../platform/flock.ts"
import { runStages, type ShutdownStage, shutdownStages } from "../platform/shutdownStages.ts"
import { type Child, Spawn, type SpawnRequest } from "../platform/Spawn.ts"
import { collectedLog } from "./collectedLog.ts"
import { coreDumpsIn, reportCoreDumps, withCoreLimit } from "./coreDumps.ts"
import { crashReport } from "./crashReport.ts"
import { type LogPipe, type LogSink, openLogPipe, stderrSink } from "./LogPipe.ts"
import { ensureBound, ensurePortFree, proveOurs, refuseEverySession } from "./ownership.ts"
import { awaitReady, parsePidFile, type PostmasterStatus, readPidFile } from "./pidFile.ts"
import { PostgresInstall } from "./PostgresInstall.ts"
import { type RecoveryPosition, recoveryPosition, recoveryRange, startActivity } from "./recoveryProgress.ts"

export interface Running {
  readonly pid: number
  /**
   * postmaster.pid says `ready`. Fails when Postgres leaves first, when it has made no headway for a minute, or after
   * the limit of the options; then Postgres has been stopped.
   */
  readonly ready: Effect.Effect<void, Failure>
  /** Any number may wait. What Postgres wrote has been passed on by then, unless orphans still hold the pipe. */
  readonly exit: Effect.Effect<ExitStatus>
  /** Runs the shutdown stages until Postgres has left. Safe to call twice: both wait for the same end. */
  readonly stop: Effect.Effect<ExitStatus>
  /** The signal after which it left, where the first of the stages was not enough; `null`: it was. */
  readonly forcedBy: Effect.Effect<Forced | null>
  /** The next stage, now; the first one when nobody asked for a stop yet. */
  readonly escalate: Effect.Effect<void>
  /** The last line of postmaster.pid, as it is now; `null`: there is none, or it is not ours. */
  readonly status: Effect.Effect<PostmasterStatus | null>
  /** How far it has come with replaying WAL; `null` when it does not replay, or not visibly. */
  readonly recovery: Effect.Effect<RecoveryPosition | null>
  /** SIGHUP: Postgres reads its files again. */
  readonly reload: Effect.Effect<void>
  /** The last records Postgres wrote, oldest first; bounded. */
  readonly recentLog: Effect.Effect<ReadonlyArray<string>>
}

/** A stop that lost the shutdown checkpoint, or more. */
interface Forced {
  readonly signal: ShutdownStage["signal"]
  /** Somebody was in a hurry; otherwise the grace of the stage before was over. */
  readonly asked: boolean
}

export interface PostmasterOptions {
  readonly pgdata: string
  /** Where others reach it; by default where our own sessions do. */
  readonly at?: Pick<ConnString, "host" | "port">
  readonly extraEnv?: Readonly<Record<string, string | undefined>>
  /** Our stderr by default. */
  readonly sink?: LogSink
  readonly stages?: ReadonlyArray<ShutdownStage>
  /** The last change to how Postgres is started, such as inside a cgroup. */
  readonly enter?: (request: SpawnRequest) => Effect.Effect<SpawnRequest, Failure>
  /** For the whole start, recovery included; no limit by default, for recovery takes as long as it takes. */
  readonly readyWithin?: Duration.Duration | null
  /** A start that gets on neither with reading nor with writing for so long has failed; a minute by default. */
  readonly stillWithin?: Duration.Duration
}

export class Postmaster extends Context.Service<
  Postmaster,
  {
    /** Starts `postgres -D PGDATA`; the scope's end runs the shutdown stages. `token` becomes NEON_AUTH_TOKEN. */
    readonly start: (options: {
      readonly token: Redacted.Redacted<string> | null
    }) => Effect.Effect<Running, Failure, Scope.Scope>
  }
>()("compute/postmaster/Postmaster") {
  static readonly layer = (
    options: PostmasterOptions
  ): Layer.Layer<Postmaster, never, Admin | Spawn | PostgresInstall> =>
    Layer.effect(
      Postmaster,
      Effect.gen(function* () {
        const install = yield* PostgresInstall
        const spawn = yield* Spawn
        const admin = yield* Admin
        yield* admin.guard(refuseEverySession)
        return Postmaster.of({
          start: ({ token }) => Effect.provideService(start(options, install, admin, token), Spawn, spawn)
        })
      })
    )
}

/** How long the log of a Postgres that has left is still read: its orphans may hold the pipe. */
const drain = Duration.seconds(1)
/** How long the scope's end waits for the report of core dumps. */
const reportWithin = Duration.seconds(30)
/** More escalations than there are stages mean nothing. */
const mostEscalations = 8

const start = Effect.fn("Postmaster.start")(function* (
  options: PostmasterOptions,
  install: PostgresInstall["Service"],
  admin: Admin["Service"],
  token: Redacted.Redacted<string> | null
) {
  const { pgdata } = options
  const stages = options.stages ?? shutdownStages
  const { spawn } = yield* Spawn
  const [pidFileBefore, coresBefore] = [readPidFile(pgdata), coreDumpsIn(pgdata)]
  const range = recoveryRange(pgdata)
  const request: SpawnRequest = withCoreLimit({
    command: install.postgres,
    args: ["-D", pgdata],
    env: { ...options.extraEnv, NEON_AUTH_TOKEN: token === null ? undefined : Redacted.value(token) },
    // Postgres goes to PGDATA by itself; until then it needs a folder that it can surely enter.
    cwd: "/",
    runAs: install.runAs,
    // Nobody else gets them before the last of its processes is gone.
    inherit: locksOf(pgdata),
    stages
  })
  const at = options.at ?? admin.at
  yield* ensurePortFree(at)
  const child = yield* spawn(options.enter === undefined ? request : yield* options.enter(request))
  yield* Effect.logInfo(`Postgres ${install.version} was started with pid ${child.pid}`)
  yield* admin.guard(proveOurs({ pid: child.pid, pgdata }))
  const log = yield* openLogPipe([child.stderr, child.stdout], options.sink ?? stderrSink)

  const exited = yield* Deferred.make<ExitStatus>()
  const dumpsReported = yield* Deferred.make<void>()
  yield* child.exit.pipe(
    Effect.tap(() => admin.guard(refuseEverySession)),
    Effect.tap(() => Effect.timeoutOption(log.drained, drain)),
    Effect.flatMap((exit) => Deferred.succeed(exited, exit)),
    Effect.andThen(reportCoreDumps({ pgdata, postgres: install.postgres, runAs: install.runAs, before: coresBefore })),
    Effect.ensuring(Deferred.succeed(dumpsReported, undefined)),
    Effect.forkScoped
  )
  const exit = Deferred.await(exited)
  const { escalate, forcedBy, stop } = yield* makeStop(child, stages, exit)

  const ready = yield* Deferred.make<void, PostmasterNotReady | PostgresPortTaken>()
  yield* untilReady(
    awaitReady({ pgdata, pid: child.pid, before: pidFileBefore }),
    exit,
    recentLog(log, pgdata),
    Effect.raceFirst(tooLate(options.readyWithin ?? null), standsStill(child.pid, options.stillWithin ?? stillWithin)),
    stop
  ).pipe(Effect.andThen(ensureBound(at, pgdata)), Deferred.into(ready), Effect.forkScoped({ startImmediately: true }))
  yield* Effect.addFinalizer(() =>
    Effect.andThen(stop, Effect.timeoutOption(Deferred.await(dumpsReported), reportWithin))
  )
  return {
    pid: child.pid,
    ready: Deferred.await(ready),
    exit,
    stop,
    escalate,
    forcedBy,
    status: Effect.sync(() => {
      const file = parsePidFile(readPidFile(pgdata))
      return file?.pid === child.pid ? file.status : null
    }),
    recovery: Effect.sync(() => recoveryPosition(child.pid, range)),
    reload: child.signal("SIGHUP"),
    recentLog: recentLog(log, pgdata)
  } satisfies Running
})

/** With a logging_collector, the last words are in its file. */
const recentLog = (log: LogPipe, pgdata: string) =>
  Effect.map(log.recent, (records) => [...records, ...collectedLog(pgdata)])

/** One run of the stages, however many ask for it, and one that an interrupted caller does not take along. */
const makeStop = Effect.fnUntraced(function* (
  child: Child,
  stages: ReadonlyArray<ShutdownStage>,
  exit: Effect.Effect<ExitStatus>
) {
  const requested = yield* Latch.make()
  const escalations = yield* Queue.dropping<void>(mostEscalations)
  const unkillable = yield* Deferred.make<ExitStatus>()
  let last: ShutdownStage["signal"] | null = null
  let asked = false
  yield* requested.await.pipe(
    Effect.andThen(
      runStages({
        stages,
        exit: child.exit,
        signal: child.signal,
        escalate: Queue.take(escalations),
        onStage: ({ meaning, signal }) => {
          last = signal
          return Effect.logInfo(`asking Postgres to leave with ${signal} (${meaning})`)
        }
      })
    ),
    Effect.flatMap((left) =>
      left !== null
        ? Effect.void
        : Effect.andThen(
            Effect.logError(`Postgres (pid ${child.pid}) does not even leave for SIGKILL; the kernel still holds it`),
            Deferred.succeed(unkillable, { _tag: "Signal", signal: "SIGKILL" })
          )
    ),
    Effect.forkScoped
  )
  const stop = Effect.andThen(requested.open, Effect.raceFirst(exit, Deferred.await(unkillable)))
  const escalate = Effect.suspend(() =>
    requested.isOpen()
      ? Effect.andThen(
          Effect.sync(() => (asked = true)),
          Queue.offer(escalations, undefined)
        )
      : requested.open
  ).pipe(Effect.asVoid)
  const forcedBy = Effect.sync(() => (last === null || last === stages[0]?.signal ? null : { signal: last, asked }))
  return { stop, escalate, forcedBy }
})

/** Succeeds with why the start is given up. */
const tooLate = (within: Duration.Duration | null): Effect.Effect<string> =>
  within === null
    ? Effect.never
    : Effect.as(Effect.sleep(within), `Postgres was not ready within ${Duration.toMillis(within)} ms and was stopped`)

const stillWithin = Duration.minutes(1)

/** As `tooLate`, once nothing of the start has moved for so long. */
const standsStill = (pid: number, within: Duration.Duration): Effect.Effect<string> =>
  Effect.gen(function* () {
    let before = startActivity(pid)
    for (let looks = 0; looks < looksWhileStill; looks++) {
      yield* Effect.sleep(Duration.millis(Duration.toMillis(within) / looksWhileStill))
      const now = startActivity(pid)
      if (now === null || now !== before) looks = -1
      before = now
    }
    return `Postgres was not ready, made no headway for ${Duration.toMillis(within)} ms, and was stopped`
  })

const looksWhileStill = 20

const untilReady = Effect.fnUntraced(function* (
  becameReady: Effect.Effect<void>,
  exit: Effect.Effect<ExitStatus>,
  recent: Effect.Effect<ReadonlyArray<string>>,
  givenUp: Effect.Effect<string>,
  stop: Effect.Effect<ExitStatus>
): Effect.fn.Return<void, PostmasterNotReady> {
  const first = yield* Effect.raceAllFirst([Effect.as(becameReady, null), exit, givenUp])
  if (first === null) return
  // A Postgres that nobody waits for any more must not go on and serve.
  if (typeof first === "string") yield* stop
  const records = yield* recent
  const reason =
    typeof first === "string"
      ? first
      : `Postgres left before it was ready, with ${printExit(first)}: ${crashReport(first, records)}`
  return yield* new PostmasterNotReady({ reason, log: records.slice(-quoted) })
})

/** Records that a failure carries; `recentLog` has more. */
const quoted = 10
