/**
 * What the program says of a Postgres that left, or was refused, by the hand of somebody else.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { parsePidFile, readPidFile } from "../../src/postgres/pidFile.ts"
import { least } from "../support/fixtures.ts"
import {
  eventually,
  killAll,
  launch,
  localArguments,
  neonArguments,
  type Place,
  place,
  rows,
  session
} from "./harness.ts"
import { setUp, specOf } from "./neonPeers.ts"

const withSettings = (settings: Readonly<Record<string, string>>) => ({
  ...least,
  cluster: {
    roles: [],
    databases: [],
    settings: Object.entries(settings).map(([name, value]) => ({ name, value, vartype: "string" }))
  }
})

/** As the kernel does it when memory runs out. */
const killBackend = (at: Place) =>
  Effect.gen(function* () {
    const wire = yield* session(at)
    const pid = Number((yield* wire.rows("select pg_backend_pid()"))[0]?.[0])
    killAll([pid], "SIGKILL")
    return pid
  })

describe("a Postgres that left", () => {
  it.live("because a backend was killed: the report names it, and the exit is a failure", () =>
    Effect.gen(function* () {
      const at = yield* place
      const program = yield* launch(localArguments(at, least), at.httpPort)
      yield* Effect.promise(() => program.reaches("running"))
      const pid = yield* killBackend(at)
      assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 1)
      assert.include(
        program.output(),
        `a backend (pid ${pid}) was terminated by signal 9: Killed, and restart_after_crash is off; ` +
          "it was killed outright: by the kernel if memory ran out"
      )
      assert.notInclude(program.output(), "its configuration")
    })
  )

  it.live("where it may restart after a crash, a killed backend is no end: the compute goes on", () =>
    Effect.gen(function* () {
      const { addresses, at, pageserver } = yield* setUp(["ok"])
      const program = yield* launch(neonArguments(at, specOf(at, pageserver.url, addresses)), at.httpPort)
      yield* Effect.promise(() => program.reaches("running"))
      const before = parsePidFile(readPidFile(`${at.directory}/pgdata`))?.pid
      yield* killBackend(at)
      yield* Effect.promise(() => program.prints(/all server processes terminated; reinitializing/))
      yield* eventually(
        "an answer after the crash",
        () => Effect.runPromise(rows(at, "select count(*) from kept")),
        ([row]) => row?.[0] === "1000"
      )
      assert.strictEqual((yield* Effect.promise(program.status)).status, "running")
      assert.strictEqual(parsePidFile(readPidFile(`${at.directory}/pgdata`))?.pid, before)
    })
  )

  it.live("with a logging_collector: it is a condition, and the last words are read before PGDATA is emptied", () =>
    Effect.gen(function* () {
      const at = yield* place
      const args = localArguments(at, withSettings({ logging_collector: "on" }))
      const program = yield* launch(args, at.httpPort)
      yield* Effect.promise(() => program.reaches("running"))
      const conditions = yield* Effect.promise(() => program.http("/conditions"))
      assert.match(conditions.text, /logging_collector.*which the next start empties/)
      const pid = yield* killBackend(at)
      yield* Effect.promise(() => program.exit)
      assert.include(program.output(), `a backend (pid ${pid}) was terminated by signal 9: Killed`)

      const next = yield* launch(args, at.httpPort)
      yield* Effect.promise(() => next.reaches("running"))
      assert.match(
        next.output(),
        new RegExp(`the last records of the Postgres that ran .* \\(PID ${pid}\\) was terminated by signal 9: Killed`)
      )
    })
  )

  it.live("because of an address that is not this machine's: its port is not suspected", () =>
    Effect.gen(function* () {
      const at = yield* place
      const program = yield* launch(localArguments(at, withSettings({ listen_addresses: "192.0.2.77" })), at.httpPort)
      const { error } = yield* Effect.promise(() => program.reaches("failed"))
      assert.include(error ?? "", "an address of listen_addresses is not one of this machine")
      assert.notInclude(error ?? "", "port is taken")
    })
  )
})
