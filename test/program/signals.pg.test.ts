/**
 * Every status a process can be held in × every way to ask for its end: it ends in order and leaves no process.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import { setTimeout as pause } from "node:timers/promises"
import {
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
