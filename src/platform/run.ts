/**
 * Runs a short helper program to its end and hands back what it said.
 *
 * Both outputs are read while it runs and only their tails are kept, so a talkative helper neither hangs nor fills
 * our memory. Not for anything that lives as long as the compute.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { CommandFailed, type SpawnFailed, TimedOut } from "../errors/Failure.ts"
import type { Rung } from "./stopLadder.ts"
import { Spawn, type SpawnRequest } from "./Spawn.ts"

export interface Said {
  readonly stdout: string
  readonly stderr: string
}

/** Bytes kept of each output. */
const kept = 256 * 1024
/** Characters of output that an error carries. */
const quoted = 2000
/** How long a helper that has left may still be heard: its own children may hold the pipes for ever. */
const drain = Duration.seconds(1)

/** How a helper that is no longer wanted is made to leave. */
export const helperLadder: ReadonlyArray<Rung> = [
  { signal: "SIGINT", grace: Duration.seconds(2), meaning: "interrupt" },
  { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }
]

export type RunRequest = Omit<SpawnRequest, "ladder"> & Partial<Pick<SpawnRequest, "ladder">>

const keepTail = (tail: Buffer, chunk: Uint8Array): Buffer => {
  const all = Buffer.concat([tail, chunk])
  return all.length > kept ? all.subarray(all.length - kept) : all
}

/** Succeeds only for exit code 0. `within` covers the whole run. */
export const runCommand = Effect.fnUntraced(function*(
  request: RunRequest,
  within: Duration.Input
): Effect.fn.Return<Said, SpawnFailed | CommandFailed | TimedOut, Spawn> {
  const { spawn } = yield* Spawn
  return yield* Effect.scoped(Effect.gen(function*() {
    const child = yield* spawn({ ladder: helperLadder, ...request })
    const heard: Record<keyof Said, Buffer> = { stdout: Buffer.alloc(0), stderr: Buffer.alloc(0) }
    const listen = (name: "stdout" | "stderr") =>
      Stream.runForEach(child[name], (chunk) => Effect.sync(() => void (heard[name] = keepTail(heard[name], chunk))))
    const listening = yield* Effect.forkScoped(Effect.all([listen("stdout"), listen("stderr")], { concurrency: 2 }))
    const exit = yield* child.exit
    yield* Effect.timeoutOption(Fiber.join(listening), drain)
    const said: Said = { stdout: heard.stdout.toString("utf8"), stderr: heard.stderr.toString("utf8") }
    if (exit._tag === "Code" && exit.code === 0) return said
    const words = said.stderr.trim() === "" ? said.stdout.trim() : said.stderr.trim()
    return yield* new CommandFailed({ command: request.command, exit, output: words.slice(-quoted) })
  })).pipe(Effect.timeoutOrElse({
    duration: within,
    orElse: () => Effect.fail(new TimedOut({ what: `waiting for ${request.command}`, millis: Duration.toMillis(within) }))
  }))
})
