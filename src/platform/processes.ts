/**
 * Helper programs, run to their end; and processes that are not our children: which one a pid file means, whether it
 * is alive, and how it is made to leave.
 *
 * A helper's outputs are read while it runs and only their tails are kept, so one that prints a lot neither hangs nor
 * fills our memory. Not for anything that lives as long as the compute.
 *
 * A pid is only a number that the kernel uses again, so a process is its pid and its start time, and it is looked at
 * again before every signal. Reads Linux's `/proc`; elsewhere nothing is ever found.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import { codeOf } from "../errors/errno.ts"
import { CommandFailed, type SpawnFailed, type TimedOut } from "../errors/Failure.ts"
import { within } from "../errors/within.ts"
import { helperStages, runStages, type ShutdownStage } from "./shutdownStages.ts"
import { Spawn, type SpawnRequest } from "./Spawn.ts"

// A helper program, run to its end.

export interface CommandOutput {
  readonly stdout: string
  readonly stderr: string
}

/** Bytes kept of each output. */
const kept = 256 * 1024
/** Characters of output that an error carries. */
const quoted = 2000
/** How long the output of a helper that has left is still read: its own children may hold the pipes for ever. */
const drain = Duration.seconds(1)

export type RunRequest = Omit<SpawnRequest, "stages"> & Partial<Pick<SpawnRequest, "stages">>

const keepTail = (tail: Buffer, chunk: Uint8Array): Buffer => {
  const all = Buffer.concat([tail, chunk])
  return all.length > kept ? all.subarray(all.length - kept) : all
}

/** Succeeds only for exit code 0. `duration` covers the whole run. */
export const runCommand = Effect.fnUntraced(function* (
  request: RunRequest,
  duration: Duration.Input
): Effect.fn.Return<CommandOutput, SpawnFailed | CommandFailed | TimedOut, Spawn> {
  const { spawn } = yield* Spawn
  return yield* Effect.scoped(
    Effect.gen(function* () {
      const child = yield* spawn({ stages: helperStages, ...request })
      const tails: Record<keyof CommandOutput, Buffer> = { stdout: Buffer.alloc(0), stderr: Buffer.alloc(0) }
      const read = (name: "stdout" | "stderr") =>
        Stream.runForEach(child[name], (chunk) => Effect.sync(() => void (tails[name] = keepTail(tails[name], chunk))))
      const reading = yield* Effect.forkScoped(Effect.all([read("stdout"), read("stderr")], { concurrency: 2 }))
      const exit = yield* child.exit
      yield* Effect.timeoutOption(Fiber.join(reading), drain)
      const output: CommandOutput = { stdout: tails.stdout.toString("utf8"), stderr: tails.stderr.toString("utf8") }
      if (exit._tag === "Code" && exit.code === 0) return output
      const text = output.stderr.trim() === "" ? output.stdout.trim() : output.stderr.trim()
      return yield* new CommandFailed({ command: request.command, exit, output: text.slice(-quoted) })
    })
  ).pipe(within(`waiting for ${request.command}`, duration))
})

// Processes that are not our children.

export interface OtherProcess {
  readonly pid: number
  /** What it calls itself, at most 15 characters. */
  readonly name: string
  /** Clock ticks since the machine started; with the pid, who it is. */
  readonly startedAt: string
}

interface Stat extends OtherProcess {
  readonly state: string
  readonly parent: number
}

/** The only reader of `/proc/PID/stat`. */
const statOf = (pid: number): Stat | null => {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
    // The name may hold anything, also spaces and parentheses.
    const [, name, rest] = /^\d+ \((.*)\) (.*)$/s.exec(stat) ?? []
    const fields = rest?.split(" ") ?? []
    const [state, parent, startedAt] = [fields[0], fields[1], fields[19]]
    return name === undefined || state === undefined || startedAt === undefined
      ? null
      : { pid, name, state, parent: Number(parent), startedAt }
  } catch {
    return null
  }
}

/** `null` for a process that is not there, or that is dead and only waits to be reaped. */
export const processOf = (pid: number): OtherProcess | null => {
  const stat = statOf(pid)
  if (stat === null || stat.state === "Z" || stat.state === "X") return null
  return { pid, name: stat.name, startedAt: stat.startedAt }
}

/** The parent of a process; `null`: there is no such process, or it cannot be seen. */
export const parentOf = (pid: number): number | null => statOf(pid)?.parent || null

/** Its arguments, or what it wrote over them as Postgres's processes do; `null`: none, or it cannot be seen. */
export const commandLineOf = (pid: number): string | null => {
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ")
  } catch {
    return null
  }
}

/** Of a bare number: whether any process has it now, also one that may not be signalled by us. */
export const isAlive = (other: OtherProcess | number): boolean =>
  typeof other === "number" ? hasPid(other) : processOf(other.pid)?.startedAt === other.startedAt

const hasPid = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch (cause) {
    return codeOf(cause) === "EPERM"
  }
}

/** The live process that a pid file names, if it goes by this name; a stale file's pid may be anybody's. */
export const processInFile = (pidFile: string, name: string): OtherProcess | null => {
  const found = pidInFile(pidFile)
  const other = found === null ? null : processOf(found)
  return other?.name === name ? other : null
}

export const pidInFile = (pidFile: string): number | null => {
  try {
    const [, digits] = /^\s*(\d{1,10})\s*$/.exec(fs.readFileSync(pidFile, "utf8")) ?? []
    const pid = Number(digits)
    return pid > 1 ? pid : null
  } catch {
    return null
  }
}

/** False when it is gone, or may not be signalled by us. */
export const signalProcess = (other: OtherProcess, signal: NodeJS.Signals): Effect.Effect<boolean> =>
  Effect.sync(() => {
    if (!isAlive(other)) return false
    try {
      return process.kill(other.pid, signal)
    } catch {
      return false
    }
  })

/** The exit of somebody else's child is not reported to us, so we look. */
const lookEvery = Duration.millis(20)

const gone = (other: OtherProcess) =>
  Effect.sync(() => isAlive(other)).pipe(
    Effect.repeat({ schedule: Schedule.spaced(lookEvery), while: (alive) => alive }),
    Effect.as({ _tag: "Code", code: 0 } as const)
  )

/** Stage by stage; false when it is still there at the end. */
export const stopProcess = (other: OtherProcess, stages: ReadonlyArray<ShutdownStage>): Effect.Effect<boolean> =>
  runStages({
    stages,
    exit: gone(other),
    signal: (signal) => Effect.asVoid(signalProcess(other, signal))
  }).pipe(Effect.map((left) => left !== null))

/** Changes with every boot of the kernel; `null` where the system has none, and then nothing relies on it. */
export const readBootId: Effect.Effect<string | null> = Effect.sync(() => {
  try {
    return fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()
  } catch (cause) {
    if (codeOf(cause) === "ENOENT" || codeOf(cause) === "EACCES") return null
    throw cause
  }
})
