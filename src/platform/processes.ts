/**
 * Processes that are not our children: which one a pid file means, and how it is made to leave.
 *
 * A pid is only a number that the kernel uses again, so a process is its pid and its start time, and it is looked at
 * again before every signal. Reads Linux's `/proc`; elsewhere nothing is ever found.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as fs from "node:fs"
import type { Rung } from "./stopLadder.ts"
import { climb } from "./climb.ts"

export interface Stranger {
  readonly pid: number
  /** What it calls itself, at most 15 characters. */
  readonly name: string
  /** Clock ticks since the machine started; with the pid, who it is. */
  readonly startedAt: string
}

/** `null` for a process that is not there, or that is dead and only waits to be reaped. */
export const processOf = (pid: number): Stranger | null => {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
    // The name may hold anything, also spaces and parentheses.
    const [, name, rest] = /^\d+ \((.*)\) (.*)$/s.exec(stat) ?? []
    const fields = rest?.split(" ") ?? []
    const [state, startedAt] = [fields[0], fields[19]]
    return name === undefined || startedAt === undefined || state === "Z" || state === "X" ? null : { pid, name, startedAt }
  } catch {
    return null
  }
}

export const isAlive = (stranger: Stranger): boolean => processOf(stranger.pid)?.startedAt === stranger.startedAt

/** The live process that a pid file names, if it goes by this name; a stale file's pid may be anybody's. */
export const processInFile = (pidFile: string, name: string): Stranger | null => {
  const found = pidInFile(pidFile)
  const stranger = found === null ? null : processOf(found)
  return stranger?.name === name ? stranger : null
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
export const signalStranger = (stranger: Stranger, signal: NodeJS.Signals): Effect.Effect<boolean> =>
  Effect.sync(() => {
    if (!isAlive(stranger)) return false
    try {
      return process.kill(stranger.pid, signal)
    } catch {
      return false
    }
  })

/** Somebody else's child cannot be waited for, only looked at. */
const lookEvery = Duration.millis(20)

const gone = (stranger: Stranger) =>
  Effect.sync(() => isAlive(stranger)).pipe(
    Effect.repeat({ schedule: Schedule.spaced(lookEvery), while: (alive) => alive }),
    Effect.as({ _tag: "Code", code: 0 } as const)
  )

/** Climbs the ladder; false when it is still there at the end. */
export const dismiss = (stranger: Stranger, ladder: ReadonlyArray<Rung>): Effect.Effect<boolean> =>
  climb({
    ladder,
    exit: gone(stranger),
    signal: (signal) => Effect.asVoid(signalStranger(stranger, signal))
  }).pipe(Effect.map((left) => left !== null))
