/**
 * Child processes as they really are: how they fail to start, speak, leave, and refuse to leave.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { CommandFailed, SpawnFailed, TimedOut } from "../../src/errors/Failure.ts"
import { causesOf } from "../../src/errors/policy.ts"
import { runCommand } from "../../src/platform/processes.ts"
import type { ShutdownStage } from "../../src/platform/shutdownStages.ts"
import { Spawn, type SpawnRequest } from "../../src/platform/Spawn.ts"
import { isGone } from "../postgres/clusters.ts"
import { runAs, temporaryFolder } from "../support/postgres.ts"
import { eventually } from "../support/waiting.ts"

const stage = (signal: ShutdownStage["signal"], graceMillis: number): ShutdownStage => ({
  signal,
  grace: Duration.millis(graceMillis),
  meaning: "a test"
})
const stages = [stage("SIGINT", 100), stage("SIGQUIT", 100), stage("SIGKILL", 5000)]
const sh = (script: string, more: Partial<SpawnRequest> = {}): SpawnRequest => ({
  command: "/bin/sh",
  args: ["-c", script],
  runAs: null,
  stages,
  ...more
})
const spawn = (request: SpawnRequest) => Effect.flatMap(Spawn, (service) => service.spawn(request))
const text = (stream: Stream.Stream<Uint8Array>) =>
  Effect.map(Stream.runCollect(stream), (chunks) => Buffer.concat(chunks).toString("utf8"))

describe("a child", () => {
  it.live("gives its exit code to all who wait", () =>
    Effect.gen(function* () {
      const child = yield* spawn(sh("exit 7"))
      const exits = yield* Effect.all([child.exit, child.exit], { concurrency: 2 })
      assert.deepStrictEqual(exits, [
        { _tag: "Code", code: 7 },
        { _tag: "Code", code: 7 }
      ])
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("reports the signal it died of", () =>
    Effect.gen(function* () {
      const child = yield* spawn(sh("kill -SEGV $$"))
      assert.deepStrictEqual(yield* child.exit, { _tag: "Signal", signal: "SIGSEGV" })
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("can be read even if nobody read before it left", () =>
    Effect.gen(function* () {
      const child = yield* spawn(sh("echo out; echo err >&2"))
      yield* child.exit
      assert.deepStrictEqual([yield* text(child.stdout), yield* text(child.stderr)], ["out\n", "err\n"])
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("has left when it has left, although an orphan holds its pipes", () =>
    Effect.gen(function* () {
      const child = yield* spawn(sh("sleep 60 & echo $!"))
      assert.deepStrictEqual(yield* child.exit, { _tag: "Code", code: 0 })
      const orphan = Buffer.from(
        (yield* Stream.runHead(child.stdout)).pipe((head) => (head._tag === "Some" ? head.value : Buffer.alloc(0)))
      ).toString()
      process.kill(Number(orphan), "SIGKILL")
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("is signalled no more once it has left", () =>
    Effect.gen(function* () {
      const child = yield* spawn(sh("exit 0"))
      yield* child.exit
      yield* child.signal("SIGKILL")
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("is taken through its shutdown stages at the end of its scope, whatever it ignores", () =>
    Effect.gen(function* () {
      const pid = yield* Effect.scoped(
        Effect.gen(function* () {
          const child = yield* spawn(sh("trap '' INT QUIT; echo ready; while :; do sleep 1; done"))
          yield* Stream.runHead(child.stdout)
          return child.pid
        })
      )
      assert.isTrue(isGone(pid))
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("is killed even by stages without SIGKILL", () =>
    Effect.gen(function* () {
      const pid = yield* Effect.scoped(
        Effect.gen(function* () {
          const child = yield* spawn(
            sh("trap '' INT; echo ready; while :; do sleep 1; done", { stages: [stage("SIGINT", 50)] })
          )
          yield* Stream.runHead(child.stdout)
          return child.pid
        })
      )
      assert.isTrue(isGone(pid))
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("that has to be made to leave takes along what it started itself", () =>
    Effect.gen(function* () {
      const [child, its] = yield* Effect.scoped(
        Effect.gen(function* () {
          const { pid, stdout } = yield* spawn(sh("sleep 60 & echo $!; wait"))
          const line = yield* Stream.runHead(stdout)
          return [pid, Number(Buffer.from(Option.getOrThrow(line)).toString())] as const
        })
      )
      assert.isTrue(isGone(child))
      yield* eventually("the end of a killed orphan", () => isGone(its))
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("gets of our environment what is on the list, as amended", () =>
    Effect.gen(function* () {
      process.env["LC_TEST"] = "listed"
      process.env["COMPUTE_TEST_SECRET"] = "secret"
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          delete process.env["LC_TEST"]
          delete process.env["COMPUTE_TEST_SECRET"]
        })
      )
      const script = "echo ${LC_TEST-gone} ${COMPUTE_TEST_SECRET-gone} ${COMPUTE_TEST_OWN-gone}"
      const said = (env: Record<string, string | undefined>) =>
        Effect.flatMap(spawn(sh(script, { env })), (child) => text(child.stdout))
      assert.strictEqual(yield* said({}), "listed gone gone\n")
      assert.strictEqual(yield* said({ LC_TEST: undefined, COMPUTE_TEST_OWN: "own" }), "gone gone own\n")
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("gets the allocator's variables of whoever started us, and none that the launcher set for us", () =>
    Effect.gen(function* () {
      const set = { MALLOC_ARENA_MAX: "1", MALLOC_TOP_PAD_: "7", COMPUTE_CTL_OWN_VARIABLES: "MALLOC_ARENA_MAX" }
      Object.assign(process.env, set)
      yield* Effect.addFinalizer(() => Effect.sync(() => Object.keys(set).forEach((name) => delete process.env[name])))
      const child = yield* spawn(
        sh("echo ${MALLOC_ARENA_MAX-gone} ${MALLOC_TOP_PAD_-gone} ${COMPUTE_CTL_OWN_VARIABLES-gone}")
      )
      assert.strictEqual(yield* text(child.stdout), "gone 7 gone\n")
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("drops to the run-as user and to no group of ours", () =>
    Effect.gen(function* () {
      if (runAs === null) return
      const child = yield* spawn(sh("id -u; id -g; id -G; pwd", { runAs }))
      assert.strictEqual(yield* text(child.stdout), `${runAs.uid}\n${runAs.gid}\n${runAs.gid}\n/\n`)
    }).pipe(Effect.provide(Spawn.layer))
  )
})

describe("a child that cannot be", () => {
  const refused = (request: SpawnRequest) => Effect.flip(Effect.scoped(spawn(request)))

  it.live("is a failure with its reason", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const file = path.join(folder, "not-executable")
      fs.writeFileSync(file, "#!/bin/sh\n", { mode: 0o644 })
      for (const [command, code] of [
        ["/nowhere/at/all", "ENOENT"],
        [file, "EACCES"]
      ] as const) {
        const failure = yield* refused({ command, args: [], runAs: null, stages })
        assert.instanceOf(failure, SpawnFailed)
        assert.include(causesOf(failure).join(": "), code)
      }
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("does not print what it was given", () =>
    Effect.gen(function* () {
      const failure = yield* refused(sh("exit 0", { env: { TOKEN: "s3cret\0" } }))
      assert.notInclude(causesOf(failure).join(": "), "s3cret")
    }).pipe(Effect.provide(Spawn.layer))
  )
})

describe("runCommand", () => {
  it.live("hands back both outputs", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* runCommand(sh("echo out; echo err >&2"), "10 seconds"), {
        stdout: "out\n",
        stderr: "err\n"
      })
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("keeps the tail of a flood", () =>
    Effect.gen(function* () {
      const { stdout } = yield* runCommand(
        {
          command: process.execPath,
          args: ["-e", `for (let i = 0; i < 100000; i++) process.stdout.write("line " + i + "\\n")`],
          runAs: null
        },
        "20 seconds"
      )
      assert.isTrue(stdout.endsWith("line 99999\n"))
      assert.isAtMost(stdout.length, 256 * 1024)
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("fails with the helper's own words", () =>
    Effect.gen(function* () {
      const failure = yield* Effect.flip(runCommand(sh("echo it is broken >&2; exit 3"), "10 seconds"))
      if (!(failure instanceof CommandFailed)) return assert.fail(failure.message)
      assert.deepStrictEqual([failure.exit, failure.output], [{ _tag: "Code", code: 3 }, "it is broken"])
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("does not wait for ever", () =>
    Effect.gen(function* () {
      const failure = yield* Effect.flip(runCommand(sh("exec sleep 60"), "100 millis"))
      assert.instanceOf(failure, TimedOut)
    }).pipe(Effect.provide(Spawn.layer))
  )
})
