/**
 * Core dumps: the limit on them, raised for Postgres, and backtraces of those that Postgres left in PGDATA while it ran
 * (docs/reference/compute_ctl.md#core-limit and docs/reference/compute_ctl.md#core-dumps).
 *
 * Best effort by design: whatever goes wrong here is a line in the log, because a compute without core dumps is still
 * a compute, and one that left some is ending anyway. The dumps stay where they are.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import * as path from "node:path"
import type { CommandFailed, SpawnFailed, TimedOut } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { type CommandOutput, runCommand } from "../platform/processes.ts"
import type { RunAs, Spawn, SpawnRequest } from "../platform/Spawn.ts"

interface CoreLimit {
  /** As `/proc` has them: `unlimited`, or bytes. */
  readonly soft: string
  readonly hard: string
}

/** `null`: there is no such process, or no `/proc`. */
const coreLimitOf = (pid: number): CoreLimit | null => {
  try {
    const found = /^Max core file size\s+(\S+)\s+(\S+)/m.exec(fs.readFileSync(`/proc/${pid}/limits`, "utf8"))
    return found === null ? null : { soft: found[1] ?? "", hard: found[2] ?? "" }
  } catch {
    return null
  }
}

const toAllowMore = "start compute_ctl with a higher one (LimitCORE=infinity, docker run --ulimit core=-1)"

/**
 * Raises both limits of a process, which its children inherit, where the hard one is not unlimited. Only root may, and
 * Node has no call for it, so `prlimit` does it. What stays limited is told.
 */
export const liftCoreLimit: (pid: number) => Effect.Effect<void, never, Spawn> = Effect.fn("Host.liftCoreLimit")(
  function* (pid) {
    const before = coreLimitOf(pid)
    if (before === null || before.hard === "unlimited") return
    const args = ["--pid", String(pid), "--core=unlimited:unlimited"]
    const lifted = yield* Effect.result(runCommand({ command: "prlimit", args, runAs: null }, "5 seconds"))
    if (Result.isSuccess(lifted)) return
    const why = causesOf(lifted.failure).join(": ")
    yield* before.hard === "0"
      ? Effect.logWarning(
          `a crash of Postgres leaves no core dump: the hard limit on core files is 0, and could not be raised ` +
            `(${why}); ${toAllowMore}`
        )
      : Effect.logInfo(
          `a core dump of Postgres is cut off at ${before.hard} bytes, the hard limit on core files, which could not ` +
            `be raised (${why}); ${toAllowMore}`
        )
  }
)

const shell = "/bin/sh"

/**
 * The same request, by a shell that raises the soft limit to the hard one and becomes the program: every user may, and
 * needs no other program for it. `bin/compute_ctl` has done it already for what it starts.
 */
export const withCoreLimit = (request: SpawnRequest): SpawnRequest => {
  const ours = coreLimitOf(process.pid)
  if (ours === null || ours.soft === ours.hard || !fs.existsSync(shell)) return request
  const script = 'ulimit -S -c "$(ulimit -H -c)"; exec "$0" "$@"'
  return { ...request, command: shell, args: ["-c", script, request.command, ...request.args] }
}

export interface Debugger {
  readonly command: string
  readonly args: (postgres: string, core: string) => ReadonlyArray<string>
}

/** The first that is installed is used. */
const debuggers: ReadonlyArray<Debugger> = [
  { command: "gdb", args: (postgres, core) => ["--batch", "-q", "-ex", "bt", postgres, core] },
  { command: "lldb", args: (_, core) => ["-c", core, "--batch", "-o", "bt all", "-o", "quit"] }
]

/** A debugger may load many symbols, but must not hold up the end. */
const debuggerWithin = "20 seconds"
/** A crash loop leaves many dumps with the same backtrace. */
const most = 3

/** Names and times of the dumps in PGDATA, to tell new ones from old ones. */
export const coreDumpsIn = (pgdata: string): ReadonlySet<string> => {
  try {
    const names = fs.readdirSync(pgdata).filter((name) => /^core(\..*)?$/.test(name))
    return new Set(
      names.filter((name) => fs.statSync(path.join(pgdata, name)).isFile()).map((name) => stampOf(pgdata, name))
    )
  } catch {
    return new Set()
  }
}

const stampOf = (pgdata: string, name: string) => `${name}/${fs.statSync(path.join(pgdata, name)).mtimeMs}`

export interface LeftBehind {
  readonly pgdata: string
  readonly postgres: string
  readonly runAs: RunAs | null
  /** What `coreDumpsIn` found when Postgres was started. */
  readonly before: ReadonlySet<string>
  readonly debuggers?: ReadonlyArray<Debugger>
}

export const reportCoreDumps = Effect.fnUntraced(function* (left: LeftBehind): Effect.fn.Return<void, never, Spawn> {
  const fresh = [...coreDumpsIn(left.pgdata)]
    .filter((stamp) => !left.before.has(stamp))
    .map((stamp) => path.join(left.pgdata, stamp.slice(0, stamp.lastIndexOf("/"))))
  if (fresh.length === 0) return
  yield* Effect.logWarning(`Postgres left ${fresh.length} core dump(s): ${fresh.join(", ")}`)
  for (const core of fresh.slice(0, most)) {
    const text = yield* backtrace(left, core, left.debuggers ?? debuggers)
    if (text === null) return yield* Effect.logWarning("no debugger is installed, so core dumps are not looked into")
    for (const line of text.split("\n"))
      if (line.trim() !== "") yield* Effect.logWarning(`${path.basename(core)}: ${line}`)
  }
})

const backtrace = Effect.fnUntraced(function* (
  left: LeftBehind,
  core: string,
  tools: ReadonlyArray<Debugger>
): Effect.fn.Return<string | null, never, Spawn> {
  for (const tool of tools) {
    const text = yield* runCommand(
      {
        command: tool.command,
        args: tool.args(left.postgres, core),
        runAs: left.runAs,
        cwd: left.pgdata,
        // A debugger of a compute does not fetch symbols from the internet.
        env: { DEBUGINFOD_URLS: "" }
      },
      debuggerWithin
    ).pipe(Effect.map(textOf), Effect.catch(unlessMissing))
    if (text !== null) return text
  }
  return null
})

const textOf = ({ stderr, stdout }: CommandOutput): string => `${stdout}\n${stderr}`

/** `null`: this debugger is not there, try the next. */
const unlessMissing = (failure: SpawnFailed | CommandFailed | TimedOut) =>
  Effect.succeed(failure._tag === "SpawnFailed" ? null : failure.message)
