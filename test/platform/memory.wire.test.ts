/**
 * The VM's tools as real executables: what they are called with, and what their failures mean.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { causesOf } from "../../src/errors/policy.ts"
import { resizeSwap, setDiskQuota } from "../../src/platform/memory.ts"
import { Spawn } from "../../src/platform/Spawn.ts"
import { temporaryFolder } from "../support/postgres.ts"

/** `sudo` writes down what it was asked to run, and runs it. */
const tooled = Effect.fnUntraced(function* (tool: string) {
  const folder = yield* temporaryFolder
  const write = (name: string, script: string) => {
    fs.writeFileSync(path.join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
    return path.join(folder, name)
  }
  const calls = path.join(folder, "calls")
  const tools = {
    sudo: write("sudo", `echo "$@" >> ${calls}; exec "$@"`),
    resizeSwap: write("resize-swap", tool),
    setDiskQuota: write("set-disk-quota", tool)
  }
  const called = () =>
    fs
      .readFileSync(calls, "utf8")
      .trim()
      .split("\n")
      .map((line) => line.replaceAll(`${folder}/`, ""))
  return { tools, called }
})

describe("swap and quota", () => {
  it.live("are set through sudo, once, with the arguments that the tools take", () =>
    Effect.gen(function* () {
      const { called, tools } = yield* tooled("exit 0")
      yield* resizeSwap(1_073_741_824, tools)
      yield* setDiskQuota(10_500, "/data", tools)
      assert.deepStrictEqual(called(), ["resize-swap --once 1073741824", "set-disk-quota 10 /data"])
    }).pipe(Effect.provide(Spawn.layer), Effect.scoped)
  )

  it.live("fail with what the tool said", () =>
    Effect.gen(function* () {
      const { tools } = yield* tooled("echo no space >&2; exit 3")
      assert.include(causesOf(yield* Effect.flip(resizeSwap(1, tools))).join(": "), "exit code 3: no space")
      assert.include(causesOf(yield* Effect.flip(setDiskQuota(1, "/data", tools))).join(": "), "exit code 3: no space")
    }).pipe(Effect.provide(Spawn.layer), Effect.scoped)
  )

  it.live("a swap tool that has removed itself is only a warning", () =>
    Effect.gen(function* () {
      const { tools } = yield* tooled('rm "$0"; exit 1')
      yield* resizeSwap(1, tools)
      yield* resizeSwap(1, tools)
      assert.isFalse(fs.existsSync(tools.resizeSwap))
    }).pipe(Effect.provide(Spawn.layer), Effect.scoped)
  )

  it.live("a sudo that is not there is a failure", () =>
    Effect.gen(function* () {
      const { tools } = yield* tooled("exit 0")
      assert.strictEqual((yield* Effect.flip(resizeSwap(1, { ...tools, sudo: "/nowhere/sudo" })))._tag, "SpawnFailed")
    }).pipe(Effect.provide(Spawn.layer), Effect.scoped)
  )
})
