/**
 * Every status a process can be held in, and every wait before Postgres runs, × every way to ask for its end: it
 * ends in order and leaves no process.
 */
import { assert, describe, it } from "@effect/vitest"
import { makeFakeControlPlane, makeFakePageserver, makeFakeSafekeeper } from "compute-ctl/testing"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import { setTimeout as pause } from "node:timers/promises"
import { compiledOnce } from "../support/runFolder.ts"
import { startShipped } from "../support/shipped.ts"
import {
  eventually,
  gone,
  killAll,
  launch,
  localArguments,
  neonArguments,
  type Place,
  place,
  processesIn,
  type Program,
  rows,
  session,
  silentPort
} from "./harness.ts"

const spec = {
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: { roles: [{ name: "web" }], databases: [], settings: [] }
}

const post = (body: unknown): RequestInit => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body)
})

interface Held {
  readonly program: Program
  /** Exit codes that are right for an end in this status. */
  readonly code: number
  /** Lets go of what held it, once the end was asked for. */
  readonly release: Effect.Effect<void>
}

const nothing = Effect.void

/** Brings a process into the status, and holds it there with real means. */
const holds: Record<string, (at: Place) => Effect.Effect<Held, unknown, Scope.Scope>> = {
  empty: Effect.fnUntraced(function* (at) {
    const config = `${at.directory}/config.json`
    fs.writeFileSync(config, JSON.stringify({ spec: null, compute_ctl_config: { jwks: { keys: [] } } }))
    const args = localArguments(at, spec).flatMap((arg, index, all) =>
      arg === "-S"
        ? ["-c", config]
        : all[index - 1] === "-S"
          ? []
          : arg === "--http-port"
            ? ["--external-http-port"]
            : [arg]
    )
    // The 2024 apiVersion asks for no tokens, so that the test can look.
    const program = yield* launch([...args, "--api-dialect", "2024"], at.httpPort)
    yield* Effect.promise(() => program.reaches("empty"))
    return { program, code: 0, release: nothing }
  }),
  init: Effect.fnUntraced(function* (at) {
    const port = yield* silentPort
    const program = yield* launch(
      neonArguments(at, {
        ...spec,
        tenant_id: "1".repeat(32),
        timeline_id: "2".repeat(32),
        pageserver_connstring: `host=127.0.0.1 port=${port}`,
        safekeeper_connstrings: [],
        mode: "Replica"
      }),
      at.httpPort
    )
    yield* Effect.promise(() => program.reaches("init"))
    return { program, code: 0, release: nothing }
  }),
  running: Effect.fnUntraced(function* (at) {
    const program = yield* launch(localArguments(at, spec), at.httpPort)
    yield* Effect.promise(() => program.reaches("running"))
    return { program, code: 0, release: nothing }
  }),
  configuration: Effect.fnUntraced(function* (at) {
    const program = yield* launch(localArguments(at, spec), at.httpPort)
    yield* Effect.promise(() => program.reaches("running"))
    const locker = yield* session(at)
    yield* locker.simple("begin; lock table pg_catalog.pg_authid in access exclusive mode")
    yield* Effect.sync(() => void program.http("/configure", post({ spec })).catch(() => {}))
    yield* Effect.promise(() => program.reaches("configuration"))
    return { program, code: 0, release: nothing }
  }),
  failed: Effect.fnUntraced(function* (at) {
    const settings = [{ name: "shared_buffers", value: "a lot", vartype: "string" }]
    const program = yield* launch(localArguments(at, { ...spec, cluster: { ...spec.cluster, settings } }), at.httpPort)
    yield* Effect.promise(() => program.reaches("failed"))
    return { program, code: 1, release: nothing }
  }),
  termination_pending: Effect.fnUntraced(function* (at) {
    const program = yield* launch(localArguments(at, spec), at.httpPort)
    yield* Effect.promise(() => program.reaches("running"))
    const postmaster = Number(fs.readFileSync(`${at.directory}/pgdata/postmaster.pid`, "utf8").split("\n")[0])
    killAll([postmaster], "SIGSTOP")
    yield* Effect.sync(() => void program.http("/terminate", { method: "POST" }).catch(() => {}))
    yield* Effect.promise(() => program.reaches("termination_pending"))
    return { program, code: 0, release: Effect.sync(() => killAll([postmaster], "SIGCONT")) }
  })
}

const ways = ["SIGTERM", "SIGINT", "SIGQUIT", "/terminate"] as const

const ask = (program: Program, way: (typeof ways)[number]): Effect.Effect<void> =>
  way === "/terminate"
    ? // It answers when the compute is terminated; what may break off is only the connection, at the process's exit.
      Effect.sync(() => void program.http("/terminate?mode=immediate", { method: "POST" }).catch(() => {}))
    : Effect.sync(() => program.signal(way))

for (const [status, hold] of Object.entries(holds)) {
  describe(`while ${status}`, () => {
    for (const way of ways) {
      it.live(`${way} ends it`, () =>
        Effect.scoped(
          Effect.gen(function* () {
            const at = yield* place
            const { code, program, release } = yield* hold(at)
            yield* ask(program, way)
            yield* release
            const exit = yield* Effect.promise(() => program.exit)
            assert.deepStrictEqual(exit, { code, signal: null }, program.output())
            if (status !== "failed") assert.match(program.output(), /to terminated: Postgres is gone/)
            yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
          })
        )
      )
    }
  })
}

/** The last of the signals that the program listens for is SIGHUP, whose bit is the lowest. */
const listensForSignals = (program: Pick<Program, "pid">) =>
  eventually(
    "a program that listens for signals",
    () => /^SigCgt:\s*(\w+)$/m.exec(fs.readFileSync(`/proc/${program.pid}/status`, "utf8"))?.[1] ?? "0",
    (caught) => (BigInt(`0x${caught}`) & 1n) === 1n
  )

const withoutSpec = (at: Place): ReadonlyArray<string> => {
  const args = localArguments(at, spec)
  return args.filter((arg, index) => arg !== "-S" && args[index - 1] !== "-S")
}

/** Whoever is in this process group, which a helper program's is its pid. */
const groupLives = (group: number): boolean => {
  try {
    return process.kill(-group, 0)
  } catch {
    return false
  }
}

interface Waiting {
  readonly program: Program
  /** What it said when it ended, beside the signal. */
  readonly says: RegExp
  /** Holds when nothing that it started is left. */
  readonly isClean: () => boolean
}

const tenant = "1".repeat(32)
const timeline = "2".repeat(32)
const nothingToStop = /, before there was anything to stop/
const isTerminated = /to terminated: Postgres is gone/

/** Brings a process into a wait before Postgres runs, and makes sure that it waits. */
const waits: Record<string, (at: Place) => Effect.Effect<Waiting, unknown, Scope.Scope>> = {
  "the control plane is asked, which nobody is": Effect.fnUntraced(function* (at) {
    const program = yield* launch([...withoutSpec(at), "-p", "http://127.0.0.1:9", "-i", "x"], at.httpPort)
    yield* Effect.promise(() => program.prints(/the next attempt is in/))
    return { program, says: isTerminated, isClean: () => true }
  }),
  "the control plane takes its time": Effect.fnUntraced(function* (at) {
    const { seen, uri } = yield* makeFakeControlPlane({ computeId: "x", answer: () => null, fault: "hang" })
    const program = yield* launch([...withoutSpec(at), "-p", uri, "-i", "x"], at.httpPort)
    yield* eventually(
      "a question to the control plane",
      () => Effect.runPromise(seen),
      (asked) => asked.length > 0
    )
    return { program, says: isTerminated, isClean: () => true }
  }),
  "standard input does not end": Effect.fnUntraced(function* (at) {
    const program = yield* launch([...withoutSpec(at), "-S", "-"], at.httpPort, {}, "silent")
    yield* listensForSignals(program)
    return { program, says: nothingToStop, isClean: () => true }
  }),
  "nobody writes to the FIFO of the spec": Effect.fnUntraced(function* (at) {
    const fifo = `${at.directory}/spec.fifo`
    execFileSync("mkfifo", [fifo])
    const program = yield* launch([...withoutSpec(at), "-S", fifo], at.httpPort)
    const open = `/proc/${program.pid}/fd`
    yield* eventually(
      "a FIFO that is open",
      () => fs.readdirSync(open).map((fd) => fs.readlinkSync(`${open}/${fd}`)),
      (files) => files.includes(fifo)
    )
    return { program, says: nothingToStop, isClean: () => true }
  }),
  "Postgres does not tell its version": Effect.fnUntraced(function* (at) {
    const [script, asked] = [`${at.directory}/postgres`, `${at.directory}/asked`]
    fs.writeFileSync(script, `#!/bin/sh\necho $$ > ${asked}\nsleep 99\n`, { mode: 0o755 })
    const program = yield* launch(localArguments(at, spec, ["-b", script]), at.httpPort)
    const group = yield* eventually(
      "a question for the version",
      () => Number(fs.readFileSync(asked, "utf8")),
      (pid) => pid > 0
    )
    return { program, says: isTerminated, isClean: () => !groupLives(group) }
  }),
  "the basebackup hangs": Effect.fnUntraced(function* (at) {
    // Never read: the pageserver accepts, and says nothing.
    const archive = new Uint8Array(0)
    const pageserver = yield* makeFakePageserver({ tenant, timeline, archive, fault: "hang" })
    const safekeeper = yield* makeFakeSafekeeper({ tenant, timeline, flush: 0x16b9188n, mode: "ok" })
    const program = yield* launch(
      neonArguments(at, {
        ...spec,
        tenant_id: tenant,
        timeline_id: timeline,
        pageserver_connstring: pageserver.url,
        safekeeper_connstrings: [safekeeper.address]
      }),
      at.httpPort
    )
    yield* eventually(
      "a basebackup that was asked for",
      () => Effect.runPromise(pageserver.seen),
      (seen) => seen.length > 0
    )
    return { program, says: isTerminated, isClean: () => true }
  })
}

for (const [wait, hold] of Object.entries(waits)) {
  describe(`while ${wait}`, () => {
    for (const way of ["SIGTERM", "SIGINT", "SIGQUIT"] as const) {
      it.live(`${way} ends it, with exit code 0`, () =>
        Effect.scoped(
          Effect.gen(function* () {
            const at = yield* place
            const { isClean, program, says } = yield* hold(at)
            program.signal(way)
            const exit = yield* Effect.promise(() => program.exit)
            assert.deepStrictEqual(exit, { code: 0, signal: null }, program.output())
            assert.match(program.output(), new RegExp(`received \\d+ termination signal \\(${way}\\)`))
            assert.match(program.output(), says)
            assert.notInclude(program.output(), " ERROR ")
            yield* eventually("nothing that it started", isClean, (clean) => clean)
            yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
          })
        )
      )
    }
  })
}

describe("SIGHUP where a terminal hangs up", () => {
  it.live("ends it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const file = `${at.directory}/pid`
        const command = [...startShipped, ...withoutSpec(at), "-S", "-"].map((word) => `'${word}'`).join(" ")
        // `script` gives it a terminal; what it waits for is a spec that somebody types.
        const terminal = yield* Effect.acquireRelease(
          Effect.sync(() =>
            spawn("script", ["-qec", `echo $$ > ${file}; exec ${command}`, "/dev/null"], {
              stdio: ["pipe", "pipe", "inherit"],
              env: { ...process.env, ...compiledOnce() }
            })
          ),
          (child) => Effect.sync(() => void child.kill("SIGKILL"))
        )
        let output = ""
        terminal.stdout.on("data", (chunk: Buffer) => void (output += chunk.toString()))
        const exit = once(terminal, "exit")
        const pid = yield* eventually(
          "a pid",
          () => Number(fs.readFileSync(file, "utf8")),
          (found) => found > 0
        )
        yield* listensForSignals({ pid })
        process.kill(pid, "SIGHUP")
        assert.deepStrictEqual(yield* Effect.promise(() => exit), [0, null])
        assert.match(output, /received 1 termination signal \(SIGHUP\), before there was anything to stop/)
      })
    )
  )
})

describe("a further signal", () => {
  it.live("takes the next shutdown stage at once, SIGKILL last", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(localArguments(at, spec), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        killAll(processesIn(`${at.directory}/pgdata`), "SIGSTOP")
        program.signal("SIGTERM")
        yield* Effect.promise(() => program.prints(/with SIGINT/))
        program.signal("SIGINT")
        yield* Effect.promise(() => program.prints(/with SIGQUIT/))
        program.signal("SIGQUIT")
        yield* Effect.promise(() => program.prints(/with SIGKILL/))
        const { code } = yield* Effect.promise(() => program.exit)
        assert.strictEqual(code, 1, "a Postgres that was killed has no exit code of its own")
      })
    )
  )

  it.live("that is the same one at once, as npm and a terminal send it, counts as one Ctrl-C", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(localArguments(at, spec), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        program.signal("SIGINT")
        yield* Effect.promise(() => pause(1))
        program.signal("SIGINT")
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
        assert.notInclude(program.output(), "SIGQUIT")
        assert.deepStrictEqual(processesIn(`${at.directory}/pgdata`), [])
      })
    )
  )
})

describe("the end", () => {
  it.live("does not wait for an idle client", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(localArguments(at, spec), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        yield* session(at)
        assert.deepStrictEqual(yield* rows(at, "select 1"), [["1"]])
        program.signal("SIGTERM")
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
      })
    )
  )
})
