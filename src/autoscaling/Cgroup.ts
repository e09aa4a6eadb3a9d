/**
 * A cgroup v2: reads its memory use, and makes a program that is about to start enter it.
 *
 * Reads files below the root and writes none: limits are the business of whoever made the group. A hybrid host, whose
 * memory controller is still version 1, is refused.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import * as path from "node:path"
import { CgroupUnusable } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import type { RunAs, SpawnRequest } from "../platform/Spawn.ts"

// -- names, memory.stat and commands, without touching a file

/** When the cgroup cannot be used: fail, go on but never give memory back, or go on as if none were named. */
export type CgroupPolicy = "refuse" | "deny-downscales" | "run-without"

/** Relative to the root, and staying below it. The root itself has no limits and does not count as a cgroup. */
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

/** What the host has that could move a program into a cgroup. */
export interface EntryTools {
  /** May the program's user write its own pid there? */
  readonly procsWritable: boolean
  readonly shell: string | null
  readonly cgexec: string | null
}

/** Exits with 126 when it cannot move. `exec` keeps the pid, so signals and postmaster.pid stay right. */
const enterAndRun =
  `echo "$$" > "$1" || { echo "compute_ctl: cannot enter the cgroup through $1" >&2; exit 126; }; ` +
  `shift; exec "$0" "$@"`

/** The same program, entering the cgroup before its first instruction; `None` when there is no way. */
export const commandInCgroup = (
  program: Program,
  procs: string,
  name: string,
  tools: EntryTools
): Option.Option<Program> => {
  if (tools.procsWritable && tools.shell !== null) {
    return Option.some({ command: tools.shell, args: ["-c", enterAndRun, program.command, procs, ...program.args] })
  }
  return tools.cgexec === null
    ? Option.none()
    : Option.some({ command: tools.cgexec, args: ["-g", `memory:${name}`, program.command, ...program.args] })
}

// -- files

export interface CgroupPath {
  /** Where cgroup v2 is mounted. */
  readonly root: string
  /** Relative to the root. */
  readonly name: string
}

export interface Cgroup {
  readonly folder: string
  /** Memory that cannot be reclaimed, in bytes, now. */
  readonly anonymous: Effect.Effect<number, CgroupUnusable>
}

export const defaultCgroupRoot = "/sys/fs/cgroup"

const folderOf = Effect.fnUntraced(function* ({ name, root }: CgroupPath): Effect.fn.Return<string, CgroupUnusable> {
  const folder = path.join(root, name)
  const unusable = (detail: string) => new CgroupUnusable({ cgroup: folder, detail })
  const checked = checkCgroupName(name)
  if (Result.isFailure(checked)) return yield* unusable(checked.failure)
  // Version 2 has this file in every group, version 1 in none.
  if (!fs.existsSync(path.join(root, "cgroup.controllers")))
    return yield* unusable(`${root} is not the root of a cgroup v2 hierarchy`)
  if (!fs.existsSync(folder)) return yield* unusable("there is no such cgroup")
  return folder
})

const readMemory = (folder: string): Effect.Effect<number, CgroupUnusable> =>
  Effect.tryPromise({
    try: () => fs.promises.readFile(path.join(folder, "memory.stat"), "latin1"),
    catch: (cause) =>
      new CgroupUnusable({
        cgroup: folder,
        detail: "its memory.stat cannot be read; is the memory controller on?",
        cause
      })
  }).pipe(
    Effect.flatMap((text) => Effect.fromResult(readAnonymous(text))),
    Effect.mapError((error) =>
      typeof error === "string" ? new CgroupUnusable({ cgroup: folder, detail: error }) : error
    )
  )

/** Succeeds only when memory.stat could be read once. */
export const openCgroup = Effect.fnUntraced(function* (at: CgroupPath): Effect.fn.Return<Cgroup, CgroupUnusable> {
  const folder = yield* folderOf(at)
  const anonymous = readMemory(folder)
  yield* anonymous
  return { folder, anonymous }
})

export interface CgroupEntry extends CgroupPath {
  readonly policy: CgroupPolicy
  /** The PATH of our environment: where `cgexec` is looked for. */
  readonly path: string | undefined
}

/** Whether a user can write a file, by its owner and mode; for ourselves the kernel is asked. */
const writable = (file: string, user: RunAs | null): boolean =>
  Result.getOrElse(
    Result.try(() => {
      if (user === null) {
        fs.accessSync(file, fs.constants.W_OK)
        return true
      }
      const { gid, mode, uid } = fs.statSync(file)
      return ((mode >> (uid === user.uid ? 6 : gid === user.gid ? 3 : 0)) & 0o2) !== 0
    }),
    () => false
  )

const executable = (file: string): boolean => Result.isSuccess(Result.try(() => fs.accessSync(file, fs.constants.X_OK)))

const shell = "/bin/sh"

const enter = Effect.fnUntraced(function* (
  at: CgroupEntry,
  request: SpawnRequest
): Effect.fn.Return<SpawnRequest, CgroupUnusable> {
  const folder = yield* folderOf(at)
  const procs = path.join(folder, "cgroup.procs")
  const cgexec = (at.path ?? "")
    .split(":")
    .map((one) => path.join(one, "cgexec"))
    .find((file) => path.isAbsolute(file) && executable(file))
  const program = commandInCgroup(request, procs, at.name, {
    procsWritable: writable(procs, request.runAs),
    shell: executable(shell) ? shell : null,
    cgexec: cgexec ?? null
  })
  if (Option.isSome(program)) return { ...request, ...program.value }
  const who = request.runAs === null ? "we" : request.runAs.name
  return yield* new CgroupUnusable({
    cgroup: folder,
    detail: `${who} may not write its cgroup.procs, and there is no cgexec`
  })
})

/**
 * The same request, made to enter the cgroup before the program begins. The pid stays the program's own. When the
 * group turns out to be closed only then (the kernel also looks at the common ancestor), the child exits with 126 and
 * says why. A cgroup that cannot be entered fails under `refuse`; otherwise the program runs outside of it, and the log
 * says so.
 */
export const cgroupCommand = Effect.fn("Vm.cgroupCommand")(function* (
  at: CgroupEntry,
  request: SpawnRequest
): Effect.fn.Return<SpawnRequest, CgroupUnusable> {
  return yield* Effect.catch(enter(at, request), (error) =>
    at.policy === "refuse"
      ? Effect.fail(error)
      : Effect.as(Effect.logWarning(`${request.command} runs outside of the cgroup: ${explain(error)}`), request)
  )
})
