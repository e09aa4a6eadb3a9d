/**
 * Why Postgres left, in a sentence: from how it left and, where that says little, from its last words.
 *
 * Total: every code and every signal has a story, so that no death is told without one. A story is a diagnosis, not
 * a verdict; what to do is decided in `lifecycle/verdict.ts`.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import * as path from "node:path"
import type { CommandFailed, ExitStatus, SpawnFailed, TimedOut } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { runCommand, type CommandOutput } from "../platform/processes.ts"
import type { RunAs, Spawn } from "../platform/Spawn.ts"

// ---------------------------------------------------------------------------------------------------------------------
// After Postgres has left: backtraces of core dumps that appeared in PGDATA while it ran (reference section 6.5).
//
// Best effort by design: whatever goes wrong here is told as a warning, because the compute is ending anyway. The
// dumps stay where they are. Does not raise the limit on core dumps; that belongs to whoever starts us.
// ---------------------------------------------------------------------------------------------------------------------

export interface Debugger {
  readonly command: string
  readonly args: (postgres: string, core: string) => ReadonlyArray<string>
}

/** The first that is installed is used. */
export const debuggers: ReadonlyArray<Debugger> = [
  { command: "gdb", args: (postgres, core) => ["--batch", "-q", "-ex", "bt", postgres, core] },
  { command: "lldb", args: (_, core) => ["-c", core, "--batch", "-o", "bt all", "-o", "quit"] }
]

/** A debugger may load many symbols, but must not hold up the end. */
const within = "20 seconds"
/** A crash loop leaves many dumps that say the same. */
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

export interface Scene {
  readonly pgdata: string
  readonly postgres: string
  readonly runAs: RunAs | null
  /** What `coreDumpsIn` said when Postgres was started. */
  readonly before: ReadonlySet<string>
  readonly debuggers?: ReadonlyArray<Debugger>
}

export const tellCoreDumps = Effect.fnUntraced(function* (scene: Scene): Effect.fn.Return<void, never, Spawn> {
  const fresh = [...coreDumpsIn(scene.pgdata)]
    .filter((stamp) => !scene.before.has(stamp))
    .map((stamp) => path.join(scene.pgdata, stamp.slice(0, stamp.lastIndexOf("/"))))
  if (fresh.length === 0) return
  yield* Effect.logWarning(`Postgres left ${fresh.length} core dump(s): ${fresh.join(", ")}`)
  for (const core of fresh.slice(0, most)) {
    const said = yield* backtrace(scene, core, scene.debuggers ?? debuggers)
    if (said === null) return yield* Effect.logWarning("no debugger is installed, so core dumps are not looked into")
    for (const line of said.split("\n"))
      if (line.trim() !== "") yield* Effect.logWarning(`${path.basename(core)}: ${line}`)
  }
})

const backtrace = Effect.fnUntraced(function* (
  scene: Scene,
  core: string,
  tools: ReadonlyArray<Debugger>
): Effect.fn.Return<string | null, never, Spawn> {
  for (const tool of tools) {
    const said = yield* runCommand(
      {
        command: tool.command,
        args: tool.args(scene.postgres, core),
        runAs: scene.runAs,
        cwd: scene.pgdata,
        // A debugger of a compute does not fetch symbols from the internet.
        env: { DEBUGINFOD_URLS: "" }
      },
      within
    ).pipe(Effect.map(wordsOf), Effect.catch(excuse))
    if (said !== null) return said
  }
  return null
})

const wordsOf = ({ stderr, stdout }: CommandOutput): string => `${stdout}\n${stderr}`

/** `null`: this debugger is not there, try the next. */
const excuse = (failure: SpawnFailed | CommandFailed | TimedOut) =>
  Effect.succeed(failure._tag === "SpawnFailed" ? null : failure.message)

// ---------------------------------------------------------------------------------------------------------------------
// Lets child processes leave core dumps (reference section 1.3): raises our own limit, which they inherit.
//
// Node has no call for it, so `prlimit` does it to our pid. Where that is missing or not allowed it is told, and
// nothing else happens: a compute without core dumps is still a compute.
// ---------------------------------------------------------------------------------------------------------------------

const prlimit = (pid: number, ...args: ReadonlyArray<string>) =>
  Effect.result(runCommand({ command: "prlimit", args: ["--pid", String(pid), ...args], runAs: null }, "5 seconds"))

/** Soft and hard limit to unlimited; where only root may, the soft limit to the hard one. */
export const liftCoreLimit: (pid: number) => Effect.Effect<void, never, Spawn> = Effect.fn("Host.liftCoreLimit")(
  function* (pid) {
    const lifted = yield* prlimit(pid, "--core=unlimited:unlimited")
    if (Result.isSuccess(lifted)) return
    const asked = yield* prlimit(pid, "--core", "--output=HARD", "--noheadings", "--raw")
    const hard = Result.isSuccess(asked) ? asked.success.stdout.trim() : "0"
    const raised = hard === "0" ? lifted : yield* prlimit(pid, `--core=${hard}:`)
    if (Result.isFailure(raised)) {
      yield* Effect.logWarning(`core dumps stay limited as they were: ${causesOf(raised.failure).join(": ")}`)
    } else {
      yield* Effect.logInfo(`core dumps may have ${hard} bytes; only root can allow more`)
    }
  }
)

// ---------------------------------------------------------------------------------------------------------------------

/** `log` holds Postgres's last records, oldest first. */
export const crashReport = (exit: ExitStatus, log: ReadonlyArray<string> = []): string => {
  const story = exit._tag === "Code" ? codeStory(exit.code) : signalStory(exit.signal)
  const clue = clueOf(log)
  return clue === null ? story : `${story}; ${clue}`
}

const codes: Readonly<Record<number, string>> = {
  0: "it shut down in an orderly way",
  1: "it gave up on a fatal error: its configuration, its data directory or its recovery",
  2: "it was told to stop at once, or refused its arguments, or one of its processes crashed",
  3: "its recovery ended without reaching what it was told to reach",
  126: "the program may not be executed",
  127: "the program or one of its libraries could not be found"
}

const codeStory = (code: number): string => {
  const known = codes[code]
  if (known !== undefined) return known
  const name = code > 128 ? signalNames[code - 128] : undefined
  if (name !== undefined) return `a process of it died: ${signalStory(name)}`
  return `it left with code ${code}, which Postgres gives no meaning`
}

/** Numbers that are the same on Linux and macOS; others differ and are not guessed. */
const signalNames: Readonly<Record<number, string>> = {
  1: "SIGHUP",
  2: "SIGINT",
  3: "SIGQUIT",
  4: "SIGILL",
  5: "SIGTRAP",
  6: "SIGABRT",
  8: "SIGFPE",
  9: "SIGKILL",
  11: "SIGSEGV",
  13: "SIGPIPE",
  14: "SIGALRM",
  15: "SIGTERM"
}

const signals: Readonly<Record<string, string>> = {
  SIGKILL: "it was killed outright: by the kernel if memory ran out (the kernel's log would say so), or by an operator",
  SIGABRT: "it aborted itself: an assertion or a PANIC, whose text is in its log",
  SIGSEGV: "it touched memory that is not its own: a bug in Postgres or in a loaded library",
  SIGBUS: "memory or a mapped file was taken from under it: a full /dev/shm or a truncated file",
  SIGILL: "it was built for another processor",
  SIGFPE: "it made an arithmetic error: a bug in Postgres or in a loaded library",
  SIGTRAP: "it hit a breakpoint or was being debugged",
  SIGSYS: "it made a system call that the sandbox it runs in forbids",
  SIGXCPU: "it used up the processor time it was allowed",
  SIGXFSZ: "it wrote a file larger than it was allowed",
  SIGQUIT: "it was told to stop at once before it could listen",
  SIGINT: "it was told to stop before it could listen",
  SIGTERM: "it was told to stop before it could listen"
}

const signalStory = (signal: string): string => signals[signal] ?? `somebody sent it ${signal}`

/** What a record's words betray. The first that matches the newest record wins. */
const clues: ReadonlyArray<readonly [RegExp, string]> = [
  [/No space left on device/i, "the disk is full"],
  [/Cannot allocate memory|out of memory/i, "memory ran out"],
  [/could not (bind|create any TCP\/IP sockets)|Address already in use/i, "its port is taken"],
  [/lock file .*already exists|another (server|postmaster)/i, "another Postgres holds this data directory or port"],
  [
    /unrecognized configuration parameter|configuration file .* contains errors|invalid value for parameter/i,
    "its configuration has an error"
  ],
  [/could not access file|could not load library/i, "a library it shall load is missing or broken"],
  [/has invalid permissions|wrong ownership|Permission denied/i, "it may not use one of its files"],
  [
    /incompatible with server|database files are incompatible/i,
    "the data directory was made by another version or build"
  ],
  [
    /could not (locate|find) a valid checkpoint|invalid (primary )?checkpoint record/i,
    "the data directory has no checkpoint to recover from"
  ]
]

const clueOf = (log: ReadonlyArray<string>): string | null => {
  for (const record of log.toReversed()) {
    const clue = clues.find(([pattern]) => pattern.test(record))
    if (clue !== undefined) return clue[1]
  }
  return null
}
