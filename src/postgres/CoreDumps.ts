/**
 * After Postgres has left: backtraces of core dumps that appeared in PGDATA while it ran (reference section 6.5).
 *
 * Best effort by design: whatever goes wrong here is told as a warning, because the compute is ending anyway. The
 * dumps stay where they are. Does not raise the limit on core dumps; that belongs to whoever starts us.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import type { CommandFailed, SpawnFailed, TimedOut } from "../errors/Failure.ts"
import { runCommand, type Said } from "../platform/run.ts"
import type { RunAs, Spawn } from "../platform/Spawn.ts"

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
    return new Set(names.filter((name) => fs.statSync(path.join(pgdata, name)).isFile()).map((name) => stampOf(pgdata, name)))
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

export const tellCoreDumps = Effect.fnUntraced(function*(scene: Scene): Effect.fn.Return<void, never, Spawn> {
  const fresh = [...coreDumpsIn(scene.pgdata)].filter((stamp) => !scene.before.has(stamp))
    .map((stamp) => path.join(scene.pgdata, stamp.slice(0, stamp.lastIndexOf("/"))))
  if (fresh.length === 0) return
  yield* Effect.logWarning(`Postgres left ${fresh.length} core dump(s): ${fresh.join(", ")}`)
  for (const core of fresh.slice(0, most)) {
    const said = yield* backtrace(scene, core, scene.debuggers ?? debuggers)
    if (said === null) return yield* Effect.logWarning("no debugger is installed, so core dumps are not looked into")
    for (const line of said.split("\n")) if (line.trim() !== "") yield* Effect.logWarning(`${path.basename(core)}: ${line}`)
  }
})

const backtrace = Effect.fnUntraced(function*(
  scene: Scene,
  core: string,
  tools: ReadonlyArray<Debugger>
): Effect.fn.Return<string | null, never, Spawn> {
  for (const tool of tools) {
    const said = yield* runCommand({
      command: tool.command,
      args: tool.args(scene.postgres, core),
      runAs: scene.runAs,
      cwd: scene.pgdata,
      // A debugger of a compute does not fetch symbols from the internet.
      env: { DEBUGINFOD_URLS: "" }
    }, within).pipe(Effect.map(wordsOf), Effect.catch(excuse))
    if (said !== null) return said
  }
  return null
})

const wordsOf = ({ stderr, stdout }: Said): string => `${stdout}\n${stderr}`

/** `null`: this debugger is not there, try the next. */
const excuse = (failure: SpawnFailed | CommandFailed | TimedOut) =>
  Effect.succeed(failure._tag === "SpawnFailed" ? null : failure.message)
