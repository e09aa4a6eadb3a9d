/**
 * `compute_ctl health` and `compute_ctl routes` as people run them: a process, its words and its exit code.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { declared } from "../http/declared.ts"
import { inBackground, join, inMemoryServices, open, reach } from "../http/testServer.ts"
import { compiledOnce } from "../support/runFolder.ts"
import { shipped } from "../support/shipped.ts"

const run = (...args: ReadonlyArray<string>) =>
  Effect.callback<{ readonly code: number; readonly out: string; readonly err: string }>((resume) => {
    const child = execFile(
      process.execPath,
      ["--conditions=source", shipped, ...args],
      { env: { ...process.env, ...compiledOnce() } },
      (error, out, err) =>
        resume(
          Effect.succeed({ code: error === null ? 0 : typeof error.code === "number" ? error.code : -1, out, err })
        )
    )
    return Effect.sync(() => void child.kill("SIGKILL"))
  })

const well = (out: string) => ({ code: 0, out: `${out}\n`, err: "" })
const unwell = (err: string) => ({ code: 1, out: "", err: `${err}\n` })

describe("compute_ctl health", () => {
  it.live(
    "says the status and exits 0 when it lives, whatever Postgres does",
    () =>
      Effect.gen(function* () {
        yield* reach("failed")
        const { port } = yield* open()
        assert.deepStrictEqual(yield* run("health", "--http-port", String(port)), well("failed"))
        assert.deepStrictEqual(
          yield* run("health", "--http-port", String(port), "--wait", "ready", "--timeout", "0s"),
          unwell("compute status is failed")
        )
      }).pipe(Effect.provide(inMemoryServices)),
    30_000
  )

  it.live(
    "waits until it is ready, and for running no less",
    () =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        yield* reach("configuration")
        const { port } = yield* open()
        assert.deepStrictEqual(
          yield* run("health", "--http-port", String(port), "--wait", "ready"),
          well("configuration")
        )
        const waiting = yield* inBackground(run("health", "--http-port", String(port), "--wait", "running"))
        yield* state.send("ConfigureDone")
        assert.deepStrictEqual(yield* join(waiting), well("running"))
      }).pipe(Effect.provide(inMemoryServices)),
    30_000
  )

  it.live(
    "exits 1 when nobody answers",
    () =>
      Effect.gen(function* () {
        const { code, err, out } = yield* run("health", "--http-port", "1")
        assert.deepStrictEqual([code, out], [1, ""])
        assert.match(err, /ECONNREFUSED/)
      }),
    30_000
  )
})

describe("compute_ctl routes", () => {
  it.live(
    "prints every route with its listener and who may ask",
    () =>
      Effect.gen(function* () {
        const { code, out } = yield* run("routes", "--api-dialect", "head")
        assert.strictEqual(code, 0)
        for (const { method, path: route } of declared)
          assert.match(out, new RegExp(`^${method} +${route.replaceAll(".", "\\.")} `, "m"))
        assert.match(out, /^GET +\/livez +external, internal +anybody$/m)
        assert.match(out, /^POST +\/configure +external +a token/m)
        assert.match(out, /^POST +\/grants +internal +this machine$/m)
      }),
    30_000
  )
})
