/**
 * Starts and drops a Postgres of its own, while a VM waits for its spec, so that programs and libraries are in memory
 * when the real one starts (docs/reference/compute_ctl.md#warm-up-without-a-spec).
 *
 * Everything happens in `PGDATA.warmup`, which is gone afterwards, however it ends; it listens on a socket in there
 * and nowhere else. Every step is bounded.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import {
  type CommandFailed,
  FileFailed,
  PostgresUnusable,
  PostmasterNotReady,
  printExit,
  type SpawnFailed,
  TimedOut
} from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { runCommand } from "../platform/processes.ts"
import type { ShutdownStage } from "../platform/shutdownStages.ts"
import { Spawn } from "../platform/Spawn.ts"
import { parsePidFile, readPidFile } from "../postgres/pidFile.ts"
import { PostgresInstall } from "../postgres/PostgresInstall.ts"

/** What a Neon compute warms up with. */
const warmupSettings = "shared_buffers = 65536\nport = 51055\nshared_preload_libraries = 'neon'\n"

const initdbWithin = Duration.seconds(60)
const readyWithin = Duration.seconds(60)
const look = Duration.millis(20)

/** Nothing in it is worth a checkpoint. */
const stages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGQUIT", grace: Duration.seconds(10), meaning: "immediate: what it wrote is thrown away" },
  { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }
]

type WarmupFailed = FileFailed | PostgresUnusable | SpawnFailed | CommandFailed | TimedOut | PostmasterNotReady

const attempt = <A>(operation: string, at: string, work: () => A): Effect.Effect<A, FileFailed> =>
  Effect.try({ try: work, catch: (cause) => new FileFailed({ operation, path: at, cause }) })

const remove = (folder: string) => fs.promises.rm(folder, { recursive: true, force: true, maxRetries: 5 })

export const warmUp = Effect.fn("Host.warmUp")(function* (
  pgdata: string,
  settings: string = warmupSettings
): Effect.fn.Return<void, WarmupFailed, PostgresInstall | Spawn | Scope.Scope> {
  const { initdb, postgres, runAs } = yield* PostgresInstall
  const { spawn } = yield* Spawn
  const folder = `${pgdata.replace(/\/+$/, "")}.warmup`
  if (initdb === null) {
    return yield* new PostgresUnusable({
      binary: postgres,
      detail: "it has no initdb to warm up with",
      hint: "put initdb beside it"
    })
  }
  yield* Effect.acquireRelease(
    Effect.tryPromise({
      try: async () => {
        await remove(folder)
        fs.mkdirSync(folder, { recursive: true, mode: 0o700 })
        if (runAs !== null) fs.chownSync(folder, runAs.uid, runAs.gid)
      },
      catch: (cause) => new FileFailed({ operation: "make", path: folder, cause })
    }),
    () => Effect.ignore(Effect.tryPromise(() => remove(folder)))
  )
  yield* runCommand({ command: initdb, args: ["--pgdata", folder, "--no-sync"], runAs, cwd: "/" }, initdbWithin)
  const apart = "listen_addresses = ''\nunix_socket_directories = '.'\n"
  yield* attempt("write", folder, () => fs.writeFileSync(path.join(folder, "postgresql.conf"), `${settings}\n${apart}`))

  const child = yield* spawn({ command: postgres, args: ["-D", folder], runAs, cwd: "/", stages })
  const said: Array<string> = []
  yield* Effect.forkScoped(Stream.runDrain(child.stdout))
  yield* Effect.forkScoped(
    child.stderr.pipe(
      Stream.decodeText,
      Stream.splitLines,
      Stream.runForEach((line) => Effect.sync(() => void (said.push(line), said.splice(0, said.length - 10))))
    )
  )
  const left = yield* Effect.raceFirst(Effect.as(untilReady(folder), null), child.exit).pipe(
    Effect.timeoutOrElse({
      duration: readyWithin,
      orElse: () =>
        Effect.fail(new TimedOut({ what: "the warm-up of Postgres", millis: Duration.toMillis(readyWithin) }))
    })
  )
  if (left !== null) {
    return yield* new PostmasterNotReady({
      reason: `Postgres left the warm-up with ${printExit(left)}`,
      log: [...said]
    })
  }
  yield* Effect.logInfo("Postgres is warm")
}, Effect.scoped)

const isReady = (folder: string): boolean => parsePidFile(readPidFile(folder))?.status === "ready"

const untilReady = (folder: string): Effect.Effect<void> =>
  Effect.suspend(() => (isReady(folder) ? Effect.void : Effect.andThen(Effect.sleep(look), untilReady(folder))))

// ---------------------------------------------------------------------------------------------------------------------
// While a pooled compute waits for its spec, Postgres is started once and dropped
// (docs/reference/compute_ctl.md#warm-up-without-a-spec), so that the real start finds it in memory.
//
// Gives way as soon as there is something to do. A warm-up that fails costs time later and nothing else, so it is told
// and let be.
// ---------------------------------------------------------------------------------------------------------------------

const wanted = Effect.flatMap(ComputeState, (state) =>
  state.changes.pipe(
    Stream.filter(({ status }) => status !== "empty"),
    Stream.runHead,
    Effect.asVoid
  )
)

export const prewarm = (pgdata: string): Actor<ComputeState | PostgresInstall | Spawn> => ({
  name: "prewarm",
  kind: "auxiliary",
  run: Effect.raceFirst(wanted, Effect.scoped(warmUp(pgdata))).pipe(
    Effect.catch((failure) => Effect.logWarning(`Postgres could not be warmed up: ${explain(failure)}`))
  )
})
