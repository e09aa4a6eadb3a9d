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
import { supplementaryGroups } from "../platform/users.ts"

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
  /** The PATH of our environment: where `cgexec` and `setpriv` are looked for. */
  readonly path: string | undefined
  /** Groups of a user beside its own; by default those of the machine's /etc/group. */
  readonly groupsOf?: (user: RunAs) => ReadonlyArray<number>
}

/**
 * As whom a file can be written, by its owner and mode: as the user, as the user with its other groups, or not at all.
 * For ourselves the kernel is asked.
 */
const writableBy = (file: string, user: RunAs | null, groups: ReadonlyArray<number>): "user" | "group" | null =>
  Result.getOrElse(
    Result.try(() => {
      if (user === null) {
        fs.accessSync(file, fs.constants.W_OK)
        return "user"
      }
      const { gid, mode, uid } = fs.statSync(file)
      const may = (shift: number) => ((mode >> shift) & 0o2) !== 0
      if (uid === user.uid) return may(6) ? "user" : null
      if (gid === user.gid) return may(3) ? "user" : null
      if (groups.includes(gid)) return may(3) ? "group" : null
      return may(0) ? "user" : null
    }),
    () => null
  )

const executable = (file: string): boolean => Result.isSuccess(Result.try(() => fs.accessSync(file, fs.constants.X_OK)))

const shell = "/bin/sh"

/**
 * Whoever is spawned with a uid is in none of its other groups any more. `setpriv`, which we start as root, becomes the
 * user and keeps them; the pid stays.
 */
const withGroups = (request: SpawnRequest, { gid, uid }: RunAs, groups: ReadonlyArray<number>, setpriv: string) => ({
  ...request,
  command: setpriv,
  args: [`--reuid=${uid}`, `--regid=${gid}`, `--groups=${groups.join(",")}`, "--", request.command, ...request.args],
  runAs: null,
  cwd: request.cwd ?? "/"
})

const enter = Effect.fnUntraced(function* (
  at: CgroupEntry,
  request: SpawnRequest
): Effect.fn.Return<SpawnRequest, CgroupUnusable> {
  const folder = yield* folderOf(at)
  const procs = path.join(folder, "cgroup.procs")
  const found = (name: string) =>
    (at.path ?? "")
      .split(":")
      .map((one) => path.join(one, name))
      .find((file) => path.isAbsolute(file) && executable(file)) ?? null
  const user = request.runAs
  const groups = user === null ? [] : (at.groupsOf ?? supplementaryGroups)(user)
  const setpriv = found("setpriv")
  const as = writableBy(procs, user, groups)
  const program = commandInCgroup(request, procs, at.name, {
    procsWritable: as === "user" || (as === "group" && setpriv !== null),
    shell: executable(shell) ? shell : null,
    cgexec: found("cgexec")
  })
  if (Option.isSome(program)) {
    const entering = { ...request, ...program.value }
    return as === "group" && user !== null && setpriv !== null ? withGroups(entering, user, groups, setpriv) : entering
  }
  const who = request.runAs === null ? "we" : request.runAs.name
  return yield* new CgroupUnusable({
    cgroup: folder,
    detail:
      as === "group"
        ? `${who} may write its cgroup.procs only as one of a group, which needs setpriv, and there is none`
        : `${who} may not write its cgroup.procs, and there is no cgexec`
  })
})

/** What a start would fail with, asked before there is anything to start. */
export const checkEntry = Effect.fn("Vm.checkEntry")(function* (
  at: CgroupEntry,
  request: SpawnRequest
): Effect.fn.Return<void, CgroupUnusable> {
  if (at.policy === "refuse") yield* enter(at, request)
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
