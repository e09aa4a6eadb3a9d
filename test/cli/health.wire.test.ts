/**
 * `compute_ctl health` and `compute_ctl routes` as people run them: a process, its words and its exit code.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll } from "vitest"
import { leavePorts, portsOf } from "../../src/cli/portsFile.ts"
import { topCommand } from "../../src/cli/status.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { declared } from "../http/declared.ts"
import { inBackground, join, inMemoryServices, open, reach } from "../http/testServer.ts"
import { compiledOnce } from "../support/runFolder.ts"
import { startShipped } from "../support/shipped.ts"

/** A folder in which nobody has left ports yet. */
const runFolder = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-run-"))
afterAll(() => fs.rmSync(runFolder, { recursive: true }))

const [command, ...rest] = startShipped
const run = (...args: ReadonlyArray<string>) => start(command, [...rest, ...args])

/** What a HEALTHCHECK starts. */
const healthcheck = () => start(path.resolve(import.meta.dirname, "../../bin/compute_ctl_health"), [])

const start = (program: string, args: ReadonlyArray<string>) =>
  Effect.callback<{ readonly code: number; readonly out: string; readonly err: string }>((resume) => {
    const child = execFile(
      program,
      args,
      { env: { ...process.env, ...compiledOnce(), RUNTIME_DIRECTORY: runFolder } },
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
    "says the status, and exits 1 while Postgres accepts no connections",
    () =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        yield* reach("configuration")
        const { port } = yield* open()
        assert.deepStrictEqual(yield* run("health", "--http-port", String(port)), well("configuration"))
        yield* state.send("Broke", { error: "on purpose" })
        yield* state.note({ postgresAlive: false })
        assert.deepStrictEqual(yield* run("health", "--http-port", String(port)), unwell("on purpose"))
      }).pipe(Effect.provide(inMemoryServices)),
    30_000
  )

  it.live(
    "finds the compute by the ports that it left, as a HEALTHCHECK without Node does",
    () =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        yield* reach("configuration")
        const { port } = yield* open()
        const plain = { host: "127.0.0.1", port, tls: false }
        yield* leavePorts({ RUNTIME_DIRECTORY: runFolder }, { api: { ...plain, port: 1, tls: true }, probes: plain })
        const file = path.join(runFolder, `ports-${process.pid}`)
        // Whoever left this one is gone: its number has begun anew.
        const gone = fs.readFileSync(file, "utf8").replace(/^started=.*/m, "started=1")
        fs.writeFileSync(path.join(runFolder, "ports-1"), gone.replace(/^probe_port=.*/m, "probe_port=1"))
        assert.deepStrictEqual(yield* run("health"), well("configuration"))
        assert.deepStrictEqual(yield* healthcheck(), well("configuration"))
        yield* state.send("Broke", { error: "on purpose" })
        yield* state.note({ postgresAlive: false })
        assert.deepStrictEqual(yield* healthcheck(), unwell("on purpose"))
        yield* leavePorts({ RUNTIME_DIRECTORY: runFolder }, { api: plain, probes: { ...plain, port: 1 } })
        assert.deepStrictEqual(yield* healthcheck(), unwell("no compute answers on 127.0.0.1:1"))
        fs.copyFileSync(file, path.join(runFolder, "ports-2"))
        const several = yield* healthcheck()
        assert.strictEqual(several.code, 2)
        assert.match(several.err, /^several computes run here: name one by --http-port \(\d+, \d+\)\n$/)
      }).pipe(Effect.scoped, Effect.provide(inMemoryServices)),
    30_000
  )

  it("asks the port without TLS where there is one", () => {
    const listening = { httpPort: 5, internalHttpPort: 6 }
    const plain = { host: "127.0.0.1", port: 5, tls: false }
    assert.deepStrictEqual(portsOf({ httpHost: "::", httpTls: null }, listening), { api: plain, probes: plain })
    assert.deepStrictEqual(portsOf({ httpHost: "::", httpTls: {} }, listening), {
      api: { ...plain, tls: true },
      probes: { ...plain, port: 6 }
    })
    assert.isTrue(portsOf({ httpHost: "::", httpTls: {} }, { ...listening, internalHttpPort: null }).probes.tls)
  })

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
        assert.match(err, /^no compute answers on localhost:1: .*ECONNREFUSED/)
      }),
    30_000
  )
})

describe("compute_ctl status", () => {
  it.live(
    "prints the compute's page, and top prints it once where there is no terminal",
    () =>
      Effect.gen(function* () {
        yield* reach("failed")
        const { port } = yield* open()
        const { code, out } = yield* run("status", "--http-port", String(port))
        assert.strictEqual(code, 0)
        for (const part of [/^compute_ctl \S+: failed for /, /^CONDITIONS$/m, /^START, /m, /^ACTIVITY/m])
          assert.match(out, part)
        assert.match((yield* run("top", "--http-port", String(port))).out, /^compute_ctl \S+: failed for /)
        const { code: none, err } = yield* run("status", "--http-port", "1")
        assert.strictEqual(none, 1)
        assert.match(err, /^no compute answers on localhost:1: .*ECONNREFUSED/)
      }).pipe(Effect.provide(inMemoryServices)),
    30_000
  )
})

describe("compute_ctl top", () => {
  it.live("fills the screen of a terminal and no more, also while nobody answers, until it is ended", () =>
    Effect.gen(function* () {
      yield* reach("failed")
      const { port } = yield* open()
      const at = (one: number) => ({ port: { host: "127.0.0.1", port: one, tls: false }, token: null })
      const shows = (one: number) =>
        Effect.callback<string>((resume) => {
          const terminal = {
            print: (text: string) => resume(Effect.succeed(text)),
            complain: assert.fail,
            rows: () => 5
          }
          const fiber = Effect.runFork(topCommand(at(one), terminal))
          return Fiber.interrupt(fiber)
        })
      const [clear = "", ...lines] = (yield* shows(port)).split(/(?=compute_ctl)/)
      assert.strictEqual(clear, "\x1b[H\x1b[2J\x1b[3J")
      assert.match(lines.join(""), /^compute_ctl \S+: failed for .*\n(.*\n?){3}$/)
      assert.match(yield* shows(1), /no compute answers on 127\.0\.0\.1:1: /)
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("compute_ctl doctor", () => {
  it.live(
    "names what is missing with its remedy and exits 1, and exits 0 when nothing is",
    () =>
      Effect.gen(function* () {
        const { port } = yield* open()
        const where = ["--storage", `local:${path.join(runFolder, "data")}`, "-C", `postgresql://a@localhost:${port}/b`]
        const wrong = yield* run("doctor", ...where, "-b", "/nowhere/postgres", "--http-port", String(port))
        assert.strictEqual(wrong.code, 1)
        assert.match(wrong.out, /^missing {2}Postgres: .*\/nowhere\/postgres.*\n +-> give the path of a postgres/m)
        assert.match(wrong.out, new RegExp(`^missing {2}HTTP: .*${port}\n +-> .*--http-port$`, "m"))
        assert.match(wrong.out, new RegExp(`^missing {2}Postgres's port: .*${port}\n +-> .*-C$`, "m"))
        assert.match(wrong.out, /^ok {7}flock: /m)
        assert.match(wrong.out, /\n3 of \d+ are missing\n$/)
        const right = yield* run("doctor", ...where.slice(0, 2), "--http-port", "0")
        assert.deepStrictEqual([right.code, right.err], [0, ""], right.out)
        assert.match(right.out, /^ok {7}Postgres: 1\d\./)
        assert.notInclude(fs.readdirSync(runFolder).join(), "doctor", "what it tried is gone")
      }).pipe(Effect.provide(inMemoryServices)),
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
