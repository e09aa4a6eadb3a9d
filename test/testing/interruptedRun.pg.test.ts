/**
 * A test run that ends before its computes could: whatever ends it, nothing of them is left.
 *
 * Each run is a process in a group of its own that starts a compute by `compute-ctl/promise`, says where it is, and
 * waits to be told how to end. What is left is looked at from outside: processes that work in its folder or were
 * started for it, the folder, and the System V segment of its Postgres.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import * as readline from "node:readline"
import { Compute } from "../../src/testing/Compute.ts"
import { compiledOnce } from "../support/runFolder.ts"
import { eventually } from "../support/waiting.ts"

const program = path.join(import.meta.dirname, "heldCompute.ts")

interface Run {
  readonly child: ChildProcess
  readonly folder: string
  readonly segment: string
}

const linesOf = (child: ChildProcess) => readline.createInterface({ input: child.stdout! })[Symbol.asyncIterator]()

const begin = (how: string) =>
  Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, [program, how], {
        detached: true,
        env: { ...process.env, ...compiledOnce() },
        stdio: ["pipe", "pipe", "ignore"]
      })
    ),
    (child) => Effect.sync(() => void child.kill("SIGKILL"))
  )

/** A run whose compute has a folder, and no Postgres yet. */
const beginStart = Effect.fnUntraced(function* (how: string) {
  const child = yield* begin(how)
  const lines = linesOf(child)
  const first = yield* Effect.promise(() => lines.next())
  const [, folder] = /^folder (.*)$/.exec(String(first.value)) ?? assert.fail(`the run said ${first.value}`)
  return { child, folder: folder ?? "", lines }
})

/** A run whose compute serves. */
const startRun: (how: string) => Effect.Effect<Run, never, Scope.Scope> = Effect.fnUntraced(function* (how) {
  const { child, folder, lines } = yield* beginStart(how)
  const second = yield* Effect.promise(() => lines.next())
  assert.strictEqual(second.value, "ready")
  const pidFile = fs.readFileSync(`${folder}/pgdata/postmaster.pid`, "utf8").split("\n")
  const segment = pidFile[6]?.trim().split(/\s+/)[1] ?? assert.fail("postmaster.pid names no segment")
  return { child, folder, segment }
})

const readOr = (look: () => string): string => {
  try {
    return look()
  } catch {
    return ""
  }
}

const processesOf = (folder: string): ReadonlyArray<number> =>
  fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter(
      (pid) =>
        readOr(() => fs.readlinkSync(`/proc/${pid}/cwd`)).startsWith(folder) ||
        readOr(() => fs.readFileSync(`/proc/${pid}/cmdline`, "utf8")).includes(folder)
    )
    .map(Number)

const segments = (): ReadonlyArray<string> =>
  fs
    .readFileSync("/proc/sysvipc/shm", "utf8")
    .split("\n")
    .map((line) => line.trim().split(/\s+/)[1] ?? "")

const leftoversOf = ({ folder, segment }: Pick<Run, "folder"> & Partial<Run>): ReadonlyArray<string> => [
  ...processesOf(folder).map((pid) => `process ${pid}`),
  ...(fs.existsSync(folder) ? [folder] : []),
  ...(segment !== undefined && segments().includes(segment) ? [`segment ${segment}`] : [])
]

const nothingLeft = (run: Pick<Run, "folder"> & Partial<Run>) =>
  eventually(
    "the end of what is left",
    () => leftoversOf(run).length === 0,
    () => leftoversOf(run).join("\n")
  )

const tell = (word: string) => (child: ChildProcess) => void child.stdin?.write(`${word}\n`)

const endings: Record<string, (child: ChildProcess) => void> = {
  "Ctrl-C, which the whole process group gets": ({ pid = 0 }) => process.kill(-pid, "SIGINT"),
  SIGTERM: (child) => void child.kill("SIGTERM"),
  "SIGKILL of the whole process group": ({ pid = 0 }) => process.kill(-pid, "SIGKILL"),
  "an error that nobody catches": tell("throw"),
  "the end of the worker thread that the tests run in": tell("worker")
}

describe("a run of tests that is interrupted", () => {
  it.live("leaves no process, no folder and no shared memory, whatever ends it", () =>
    Effect.forEach(
      Object.entries(endings),
      Effect.fnUntraced(function* ([name, end]) {
        const run = yield* startRun(name.includes("worker") ? "worker" : "main")
        assert.isAbove(leftoversOf(run).length, 5, `${name}: a compute that serves is seen`)
        end(run.child)
        yield* nothingLeft(run)
      }, Effect.scoped),
      { concurrency: 3, discard: true }
    )
  )

  it.live("leaves nothing of a start that was cut short either", () =>
    Effect.gen(function* () {
      const { child, folder } = yield* beginStart("main")
      child.kill("SIGKILL")
      yield* nothingLeft({ folder })
    })
  )

  it.live("leaves to the next start what its watchdog could not do, because it was killed as well", () =>
    Effect.gen(function* () {
      const run = yield* startRun("main")
      const living = yield* startRun("main")
      for (const pid of [run.child.pid ?? 0, ...processesOf(run.folder)]) process.kill(pid, "SIGKILL")
      // At once: any start nearby may take it away.
      assert.includeMembers([...leftoversOf(run)], [run.folder, `segment ${run.segment}`])
      yield* eventually("the end of the run", () => run.child.signalCode !== null)
      yield* Effect.asVoid(Effect.scoped(Compute)).pipe(Effect.provide(Compute.layer()))
      yield* nothingLeft(run)
      assert.isAbove(leftoversOf(living).length, 5, "a compute whose process lives is left alone")
      // process.exit, which is an end like the others.
      tell("exit")(living.child)
      yield* nothingLeft(living)
    })
  )
})
