/**
 * Child processes: with a user and group of their own, an exit that is a code or a signal, and the bytes of stdout and
 * stderr as they came. `effect/process` signals process groups, knows no uid, and hides the signal (ADR 0004).
 *
 * A child never outlives the scope it was spawned in: its end runs the request's shutdown stages, SIGKILL last, and
 * takes along whom a child that had to be made to leave has left in its process group.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as ChildProcess from "node:child_process"
import { env as ours, kill } from "node:process"
import type { Readable } from "node:stream"
import { type ExitStatus, SpawnFailed } from "../errors/Failure.ts"
import { inheritable } from "./childEnvironment.ts"
import { runStages, type ShutdownStage } from "./shutdownStages.ts"
import { traceVariables } from "./tracing.ts"

/** The user that child processes drop to; `null` in a request means: stay who we are. */
export interface RunAs {
  readonly name: string
  readonly uid: number
  readonly gid: number
}

export interface SpawnRequest {
  readonly command: string
  readonly args: ReadonlyArray<string>
  /** Added to what is inherited of our environment (`childEnvironment.ts`). `undefined` takes a variable away. */
  readonly env?: Readonly<Record<string, string | undefined>>
  /** Ours by default; `/` for a child that drops to another user, who may not be able to enter ours. */
  readonly cwd?: string
  readonly runAs: RunAs | null
  /** Open files that it gets beside standard input and outputs, as descriptors 3, 4 and so on. */
  readonly inherit?: ReadonlyArray<number>
  /** How the scope's end makes a child leave that has not left. */
  readonly stages: ReadonlyArray<ShutdownStage>
}

export interface Child {
  readonly pid: number
  /** Any number may wait. Never fails, and is not delayed by orphans that hold the pipes. */
  readonly exit: Effect.Effect<ExitStatus>
  /** Does nothing once the child has left, so a recycled pid is never hit. */
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Each may be consumed once; unread output is bounded by the pipe, so read it. */
  readonly stdout: Stream.Stream<Uint8Array>
  readonly stderr: Stream.Stream<Uint8Array>
}

export class Spawn extends Context.Service<
  Spawn,
  {
    readonly spawn: (request: SpawnRequest) => Effect.Effect<Child, SpawnFailed, Scope.Scope>
  }
>()("compute/host/Spawn") {
  /** On `node:child_process`. */
  static readonly layer: Layer.Layer<Spawn> = Layer.succeed(Spawn, Spawn.of({ spawn: (request) => spawn(request) }))
}

type Process = ChildProcess.ChildProcess & { readonly stdout: Readable; readonly stderr: Readable }

interface Live {
  readonly process: Process
  readonly pid: number
  readonly exit: Effect.Effect<ExitStatus>
}

const spawn = (request: SpawnRequest) =>
  Effect.acquireRelease(
    Effect.flatMap(traceVariables, (trace) => begin(request, trace)),
    (live) => end(live, request)
  ).pipe(
    Effect.map(({ exit, pid, process }): Child => ({
      pid,
      exit,
      signal: (name) => Effect.sync(() => void process.kill(name)),
      stdout: bytesOf(process.stdout),
      stderr: bytesOf(process.stderr)
    }))
  )

const begin = (request: SpawnRequest, trace: Readonly<Record<string, string>>) =>
  Effect.callback<Live, SpawnFailed>((resume) => {
    const { command } = request
    const fail = (cause: unknown) => resume(Effect.fail(new SpawnFailed({ command, cause: withoutValues(cause) })))
    const exit = Deferred.makeUnsafe<ExitStatus>()
    let process: Process
    try {
      process = ChildProcess.spawn(command, request.args, {
        stdio: ["ignore", "pipe", "pipe", ...(request.inherit ?? [])],
        // A session of its own: Ctrl-C at a terminal goes to the whole foreground group, which Postgres must not be in.
        detached: true,
        env: { ...inheritable(ours), ...trace, ...request.env },
        // With a uid, libuv also drops the supplementary groups.
        ...(request.runAs === null ? {} : { uid: request.runAs.uid, gid: request.runAs.gid, cwd: "/" }),
        ...(request.cwd === undefined ? {} : { cwd: request.cwd })
        // Both outputs are pipes.
      }) as Process
    } catch (cause) {
      return fail(cause)
    }
    // `exit`, not `close`: an orphan that inherited a pipe delays `close` for as long as it lives.
    process.once("exit", (code, signal) => {
      const status: ExitStatus = signal === null ? { _tag: "Code", code: code ?? 0 } : { _tag: "Signal", signal }
      Deferred.doneUnsafe(exit, Effect.succeed(status))
    })
    for (const pipe of [process.stdout, process.stderr]) {
      pipe?.on("error", () => {})
      // Without a reader, Node throws away at the child's exit what is still in the pipe.
      pipe?.on("readable", () => {})
    }
    // Stays: a signal that could not be sent is an event here too, and would be thrown if nobody listened.
    process.on("error", fail)
    if (process.pid !== undefined) resume(Effect.succeed({ process, pid: process.pid, exit: Deferred.await(exit) }))
  })

/** Node's error about a bad argument or variable quotes its value, which may be a token. */
const withoutValues = (cause: unknown): unknown =>
  cause instanceof TypeError && "code" in cause
    ? new Error(`an argument or variable is not acceptable (${String(cause.code)})`)
    : cause

const end = Effect.fnUntraced(function* ({ exit, pid, process }: Live, request: SpawnRequest) {
  const hasLeft = process.exitCode !== null || process.signalCode !== null
  const left = yield* runStages({
    stages: request.stages,
    exit,
    signal: (name) => Effect.sync(() => void process.kill(name))
  })
  if (left === null) {
    yield* Effect.logError(`${request.command} (pid ${pid}) did not leave after SIGKILL; the kernel still holds it`)
  }
  if (!hasLeft) killGroup(pid)
  process.stdout.destroy()
  process.stderr.destroy()
})

/** One that was made to leave could not wait for its own children, such as what a wrapper script runs. */
const killGroup = (leader: number): void => {
  try {
    kill(-leader, "SIGKILL")
  } catch {
    // Nobody is left in it.
  }
}

/** Read as the reader asks, so a slow reader slows the child. A pipe that breaks is a pipe that ended. */
const bytesOf = (readable: Readable): Stream.Stream<Uint8Array> => {
  const pull = Effect.callback<readonly [Uint8Array], Cause.Done>((resume) => {
    const events = ["readable", "end", "close", "error"] as const
    const forget = () => {
      for (const event of events) readable.off(event, attempt)
    }
    const attempt = () => {
      const chunk: unknown = readable.read()
      if (chunk instanceof Uint8Array) {
        forget()
        resume(Effect.succeed([chunk]))
      } else if (readable.readableEnded || readable.destroyed) {
        forget()
        resume(Cause.done())
      }
    }
    for (const event of events) readable.on(event, attempt)
    attempt()
    return Effect.sync(forget)
  })
  return Stream.fromPull(Effect.succeed(pull))
}
