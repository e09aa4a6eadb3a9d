/**
 * What can be known about a cgroup without a look: is its name fit to be a path, what does its memory.stat say, and
 * which command puts a program into it.
 */
import * as Option from "effect/Option"
import * as Result from "effect/Result"

/** What to do when the cgroup cannot be used: fail, go on but never give memory back, or go on as if none were named. */
export type CgroupPolicy = "refuse" | "deny-downscales" | "run-without"

/** Relative to the root, and staying below it. The root itself has no limits and is nobody's cgroup. */
export const checkCgroupName = (name: string): Result.Result<string, string> => {
  const parts = name.split("/")
  if (name.includes("\0") || name.length > 1024) return Result.fail("its name is not fit to be a path")
  return parts.some((part) => part === "" || part === "." || part === "..")
    ? Result.fail("its name must be a path below the root, such as neon-postgres")
    : Result.succeed(name)
}

const anonymous = ["active_anon", "inactive_anon"] as const

/**
 * Memory that cannot be reclaimed, in bytes: the anonymous pages of the group and the groups below it. A key that is
 * missing is a failure, because zero would let every downscale pass.
 */
export const readAnonymous = (memoryStat: string): Result.Result<number, string> => {
  const counts = anonymous.map((key) => new RegExp(`^${key} (\\d{1,15})$`, "m").exec(memoryStat)?.[1])
  const missing = anonymous[counts.indexOf(undefined)]
  return missing === undefined
    ? Result.succeed(counts.reduce((sum, count) => sum + Number(count), 0))
    : Result.fail(`its memory.stat has no ${missing}`)
}

export interface Program {
  readonly command: string
  readonly args: ReadonlyArray<string>
}

/** What the host has to move a program with. */
export interface Movers {
  /** May the program's user write its own pid there? */
  readonly procsWritable: boolean
  readonly shell: string | null
  readonly cgexec: string | null
}

/** Exits with 126 when it cannot move. `exec` keeps the pid, so signals and postmaster.pid stay right. */
const moveAndRun =
  `echo "$$" > "$1" || { echo "compute_ctl: cannot enter the cgroup through $1" >&2; exit 126; }; shift; exec "$0" "$@"`

/** The same program, entering the cgroup before its first instruction; `None` when there is no way. */
export const moved = (program: Program, procs: string, name: string, movers: Movers): Option.Option<Program> => {
  if (movers.procsWritable && movers.shell !== null) {
    return Option.some({ command: movers.shell, args: ["-c", moveAndRun, program.command, procs, ...program.args] })
  }
  return movers.cgexec === null
    ? Option.none()
    : Option.some({ command: movers.cgexec, args: ["-g", `memory:${name}`, program.command, ...program.args] })
}
