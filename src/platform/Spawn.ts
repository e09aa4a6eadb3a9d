/**
 * Our own port for child processes: user and group, exit told as code or signal, bytes of stderr unspoiled.
 *
 * `effect/process` signals process groups, knows no uid, and hides the signal a child died of (ADR 0004). A child
 * never outlives the scope it was spawned in: its end climbs the request's stages, whose last stage is SIGKILL.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import * as ChildProcess from "node:child_process"
import { env as inherited } from "node:process"
import type { Readable } from "node:stream"
import { type ExitStatus, SpawnFailed } from "../errors/Failure.ts"

// ---------------------------------------------------------------------------------------------------------------------
// How Postgres is asked to leave: firmly, then roughly, then not asked.
//
// There is no SIGTERM stage. Postgres reads it as a smart stop, which waits for every client to leave of its own
// accord.
// ---------------------------------------------------------------------------------------------------------------------

export interface ShutdownStage {
  /** `SIGTERM` is for helper programs; the postmaster never gets it. */
  readonly signal: "SIGTERM" | "SIGINT" | "SIGQUIT" | "SIGKILL"
  readonly grace: Duration.Duration
  readonly meaning: string
}

export const shutdownStages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGINT", grace: Duration.seconds(60), meaning: "fast: roll back, write the shutdown checkpoint" },
  { signal: "SIGQUIT", grace: Duration.seconds(10), meaning: "immediate: drop everything, recover on the next start" },
  { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }
]

// ---------------------------------------------------------------------------------------------------------------------
// Climbs a stages of signals until a process has left. Every stage has its grace, so the runStages ends.
// ---------------------------------------------------------------------------------------------------------------------

export interface Escalation {
  readonly stages: ReadonlyArray<ShutdownStage>
  readonly exit: Effect.Effect<ExitStatus>
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Completes when the current grace shall be cut short. Taken anew for each stage. */
  readonly escalate?: Effect.Effect<void>
  /** Told before each signal but not when the process had left already. */
  readonly onRung?: (stage: ShutdownStage) => Effect.Effect<void>
}

/** A stages that stops short of SIGKILL would leave a child behind. */
const lastResort: ShutdownStage = { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }

/** How the process left, or `null` when not even SIGKILL made it leave within its grace. */
export const runStages = Effect.fnUntraced(function* (options: Escalation): Effect.fn.Return<ExitStatus | null> {
  const { exit, escalate = Effect.never, stages, onRung = () => Effect.void, signal } = options
  const rungs = stages.some((stage) => stage.signal === "SIGKILL") ? stages : [...stages, lastResort]
  const already = yield* Effect.timeoutOption(exit, 0)
  if (Option.isSome(already)) return already.value
  for (const [index, stage] of rungs.entries()) {
    yield* onRung(stage)
    yield* signal(stage.signal)
    const cut = index === rungs.length - 1 ? Effect.never : escalate
    const left = yield* Effect.raceFirst(Effect.asSome(exit), Effect.as(cut, Option.none())).pipe(
      Effect.timeoutOrElse({ duration: stage.grace, orElse: () => Effect.succeedNone })
    )
    if (Option.isSome(left)) return left.value
  }
  return null
})

// ---------------------------------------------------------------------------------------------------------------------
// Does anybody follow our trace? Without a collector and without a caller's trace, ids of spans are noise: they are
// then neither logged nor handed to children.
// ---------------------------------------------------------------------------------------------------------------------

export const Tracing: Context.Reference<boolean> = Context.Reference<boolean>("compute/host/Tracing", {
  defaultValue: () => false
})

/** The span around, whether anybody follows it or not. */
export const nearestSpan = (context: Context.Context<never>): Tracer.AnySpan | undefined =>
  Context.getOrUndefined(context, Tracer.ParentSpan)

/** The span around, when it is followed. */
export const spanIn = (context: Context.Context<never>): Tracer.AnySpan | undefined =>
  Context.get(context, Tracing) ? nearestSpan(context) : undefined

/** W3C: version, trace, parent, flags. */
export const traceparentOf = (span: Tracer.AnySpan): string =>
  `00-${span.traceId.padStart(32, "0")}-${span.spanId}-${span.sampled ? "01" : "00"}`

/** What a child process is told of our trace; nothing when nobody follows it. */
export const traceVariables: Effect.Effect<{ readonly TRACEPARENT?: string }> = Effect.map(
  Effect.context<never>(),
  (context) => {
    const span = spanIn(context)
    return span === undefined ? {} : { TRACEPARENT: traceparentOf(span) }
  }
)

// ---------------------------------------------------------------------------------------------------------------------

/** The user that child processes drop to; `null` in a request means: stay who we are. */
export interface RunAs {
  readonly name: string
  readonly uid: number
  readonly gid: number
}

export interface SpawnRequest {
  readonly command: string
  readonly args: ReadonlyArray<string>
  /** Added to our own environment. `undefined` takes a variable away. */
  readonly env?: Readonly<Record<string, string | undefined>>
  /** Ours by default; `/` for a child that drops to another user, who may not be able to enter ours. */
  readonly cwd?: string
  readonly runAs: RunAs | null
  /** How the scope's end makes a child leave that has not left: stage by stage. */
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
  /** On `node:child_process`. Children inherit this process's environment, as the request amends it. */
  static readonly layer: Layer.Layer<Spawn> = Layer.succeed(Spawn, Spawn.of({ spawn: (request) => spawn(request) }))
}

type Process = ChildProcess.ChildProcessByStdio<null, Readable, Readable>

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
    const refuse = (cause: unknown) => resume(Effect.fail(new SpawnFailed({ command, cause: withoutValues(cause) })))
    const exit = Deferred.makeUnsafe<ExitStatus>()
    let process: Process
    try {
      process = ChildProcess.spawn(command, request.args, {
        stdio: ["ignore", "pipe", "pipe"],
        // A session of its own: Ctrl-C at a terminal goes to the whole foreground group, and Postgres leaves by our stages.
        detached: true,
        env: { ...inherited, ...trace, ...request.env },
        // With a uid, libuv also drops the supplementary groups.
        ...(request.runAs === null ? {} : { uid: request.runAs.uid, gid: request.runAs.gid, cwd: "/" }),
        ...(request.cwd === undefined ? {} : { cwd: request.cwd })
      })
    } catch (cause) {
      return refuse(cause)
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
    // Stays: a signal that could not be sent is told here too, and would be thrown if nobody listened.
    process.on("error", refuse)
    if (process.pid !== undefined) resume(Effect.succeed({ process, pid: process.pid, exit: Deferred.await(exit) }))
  })

/** Node's sqlError about a bad argument or variable quotes its value, which may be a token. */
const withoutValues = (cause: unknown): unknown =>
  cause instanceof TypeError && "code" in cause
    ? new Error(`an argument or variable is not acceptable (${String(cause.code)})`)
    : cause

const end = Effect.fnUntraced(function* ({ exit, pid, process }: Live, request: SpawnRequest) {
  const left = yield* runStages({
    stages: request.stages,
    exit,
    signal: (name) => Effect.sync(() => void process.kill(name))
  })
  if (left === null) {
    yield* Effect.logError(`${request.command} (pid ${pid}) did not leave after SIGKILL; the kernel still holds it`)
  }
  process.stdout.destroy()
  process.stderr.destroy()
})

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
