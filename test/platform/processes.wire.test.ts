/**
 * Processes that are not our children: which one a pid file means, whether it is alive, and how it is made to leave.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import {
  isAlive,
  pidInFile,
  processInFile,
  processOf,
  signalProcess,
  stopProcess
} from "../../src/platform/processes.ts"
import { temporaryFolder } from "../support/postgres.ts"

const hasProc = fs.existsSync("/proc/self/stat")

/** A process that lives until its scope ends. */
const sleeper = Effect.acquireRelease(
  Effect.promise(async () => {
    const child = spawn("sleep", ["600"], { stdio: "ignore" })
    await once(child, "spawn")
    return child
  }),
  (child) => Effect.sync(() => void child.kill("SIGKILL"))
)
const pidOf = (child: ChildProcess): number => child.pid ?? assert.fail("it has no pid")
const hasLeft = (child: ChildProcess) =>
  Effect.promise(async () => {
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit")
  })

describe("a pid", () => {
  it.live("is alive as long as its process is there", () =>
    Effect.gen(function* () {
      const child = yield* sleeper
      assert.isTrue(isAlive(pidOf(child)))
      child.kill("SIGKILL")
      yield* hasLeft(child)
      assert.isFalse(isAlive(pidOf(child)))
      assert.isNull(processOf(pidOf(child)))
    })
  )

  it("of a process that may not be signalled is alive", () => {
    assert.isTrue(isAlive(1))
  })
})

describe("a process", () => {
  it.live("is not another one that has its pid", () =>
    Effect.gen(function* () {
      if (!hasProc) return
      const found = processOf(pidOf(yield* sleeper))
      if (found === null) return assert.fail("it was not found")
      assert.isTrue(isAlive(found))
      const earlier = { ...found, startedAt: "1" }
      assert.isFalse(isAlive(earlier))
      assert.isFalse(yield* signalProcess(earlier, "SIGKILL"))
      assert.isTrue(isAlive(found))
    })
  )

  it.live("is stopped stage by stage", () =>
    Effect.gen(function* () {
      if (!hasProc) return
      const child = yield* sleeper
      const found = processOf(pidOf(child))
      if (found === null) return assert.fail("it was not found")
      const stages = [{ signal: "SIGTERM", grace: Duration.seconds(30), meaning: "a test" }] as const
      assert.isTrue(yield* stopProcess(found, stages))
      yield* hasLeft(child)
      assert.strictEqual(child.signalCode, "SIGTERM")
    })
  )
})

describe("a pid file", () => {
  it.live("means a live process of the expected name, and nothing else", () =>
    Effect.gen(function* () {
      if (!hasProc) return
      const file = path.join(yield* temporaryFolder, "pid")
      const pid = pidOf(yield* sleeper)
      fs.writeFileSync(file, `${pid}\n`)
      assert.strictEqual(processInFile(file, "sleep")?.pid, pid)
      assert.isNull(processInFile(file, "pgbouncer"))
      for (const text of ["", "0", "1", "-5", "12 34", "x", "99999999999"]) {
        fs.writeFileSync(file, text)
        assert.isNull(pidInFile(file), text)
      }
      assert.isNull(pidInFile(`${file}.missing`))
    })
  )
})
