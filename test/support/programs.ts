/**
 * Programs of the machine that tests meet for real when they are there, run as the tests' unprivileged user.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { runAs } from "./postgres.ts"

/** Where Debian puts servers is not on everybody's PATH. */
const folders = [
  ...(process.env["PATH"] ?? "").split(path.delimiter),
  "/usr/local/sbin",
  "/usr/sbin",
  "/usr/local/bin",
  "/usr/bin"
]

/** `null` on a machine without it. */
export const programAt = (name: string): string | null =>
  folders.map((folder) => path.join(folder, name)).find((file) => fs.existsSync(file)) ?? null

/** Tests of a real program; a machine without it says that they were not run. */
export const whereInstalled = (name: string, tests: (program: string) => void): void => {
  const program = programAt(name)
  if (program !== null) return tests(program)
  process.stderr.write(`${name} is not installed here: the tests of a real ${name} are NOT RUN\n`)
}

export interface Running {
  readonly pid: number
  readonly said: () => string
  readonly left: () => boolean
  readonly exit: Promise<void>
}

const follow = (child: ChildProcess): Running => {
  let text = ""
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (chunk: string) => (text = (text + chunk).slice(-200_000)))
  }
  return {
    pid: child.pid ?? -1,
    said: () => text,
    left: () => child.exitCode !== null || child.signalCode !== null,
    exit: once(child, "exit").then(() => {})
  }
}

/** A group of its own, which is killed when the scope ends. */
export const startProgram = (
  command: string,
  args: ReadonlyArray<string>,
  options: { readonly asRoot?: boolean; readonly env?: Readonly<Record<string, string>> } = {}
): Effect.Effect<Running, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(command, args, {
        ...(runAs === null || options.asRoot === true ? {} : { uid: runAs.uid, gid: runAs.gid }),
        cwd: "/",
        detached: true,
        stdio: ["ignore", "pipe", "pipe"],
        env: { ...process.env, ...options.env }
      })
      return follow(child)
    }),
    ({ exit, left, pid }) =>
      Effect.promise(async () => {
        try {
          process.kill(-pid, "SIGKILL")
        } catch {
          // The whole group has left.
        }
        if (!left()) await exit
      })
  )
