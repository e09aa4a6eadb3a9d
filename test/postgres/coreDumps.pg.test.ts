/**
 * Core dumps: new ones are found and handed to a debugger, if there is one; and a real one where the host makes them.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { Spawn } from "../../src/platform/Spawn.ts"
import { coreDumpsIn, type Debugger, liftCoreLimit, reportCoreDumps } from "../../src/postgres/coreDumps.ts"
import { makeCluster, runAs, temporaryFolder } from "../support/postgres.ts"
import { eventually } from "../support/waiting.ts"
import { postmasterOver } from "./clusters.ts"

const withLog = <A, E, R>(effect: (logged: () => string) => Effect.Effect<A, E, R>) => {
  const lines: Array<string> = []
  const logger = Logger.make((options) => void lines.push(`${options.logLevel} ${String(options.message)}`))
  return effect(() => lines.join("\n")).pipe(Effect.provide(Layer.merge(Logger.layer([logger]), Spawn.layer)))
}

/** Of this process, and so of the children it starts from now on. Whether that was possible. */
const limitCores = (limit: string): boolean => {
  try {
    execFileSync("prlimit", ["--pid", String(process.pid), `--core=${limit}`], { stdio: "ignore" })
    return true
  } catch {
    return false
  }
}

const missing: Debugger = { command: "no-such-debugger", args: () => [] }

const crashed = Effect.fnUntraced(function* () {
  const pgdata = yield* temporaryFolder
  fs.chmodSync(pgdata, 0o755)
  const debug = path.join(pgdata, "debugger")
  fs.writeFileSync(debug, '#!/bin/sh\necho "frame of $1"\necho a warning >&2\n', { mode: 0o755 })
  return { pgdata, postgres: "/postgres", runAs, debug: { command: debug, args: (_: string, core: string) => [core] } }
})

describe("core dumps", () => {
  it.live("that are new are handed to the first debugger there is", () =>
    withLog((logged) =>
      Effect.gen(function* () {
        const at = yield* crashed()
        fs.writeFileSync(path.join(at.pgdata, "core.1"), "old")
        const before = coreDumpsIn(at.pgdata)
        for (const name of ["core", "core.2", "corexit", "score.1"]) fs.writeFileSync(path.join(at.pgdata, name), "")
        fs.mkdirSync(path.join(at.pgdata, "core.folder"))
        yield* reportCoreDumps({ ...at, before, debuggers: [missing, at.debug] })
        assert.match(logged(), /Warn Postgres left 2 core dump\(s\)/)
        assert.match(logged(), new RegExp(`Warn core.2: frame of ${at.pgdata}/core.2\nWarn core.2: a warning`))
        assert.notMatch(logged(), /core\.1|corexit|score|folder/)
      })
    )
  )

  it.live("are reported once when there is no debugger", () =>
    withLog((logged) =>
      Effect.gen(function* () {
        const at = yield* crashed()
        for (const name of ["core.1", "core.2"]) fs.writeFileSync(path.join(at.pgdata, name), "")
        yield* reportCoreDumps({ ...at, before: new Set(), debuggers: [missing, missing] })
        assert.strictEqual(logged().split("no debugger is installed").length, 2)
      })
    )
  )

  it.live("that do not exist leave no line in the log", () =>
    withLog((logged) =>
      Effect.gen(function* () {
        const at = yield* crashed()
        yield* reportCoreDumps({ ...at, before: new Set() })
        yield* reportCoreDumps({ ...at, pgdata: "/no/such/folder", before: new Set() })
        assert.strictEqual(logged(), "")
      })
    )
  )

  it.live("of a real Postgres are reported when it has aborted", () =>
    withLog((logged) =>
      Effect.gen(function* () {
        const pattern = "/proc/sys/kernel/core_pattern"
        const dumps =
          fs.existsSync(pattern) &&
          fs.readFileSync(pattern, "utf8").startsWith("core") &&
          limitCores("unlimited:unlimited")
        yield* Effect.addFinalizer(() => Effect.sync(() => limitCores("0:unlimited")))
        const { start } = yield* Effect.flatMap(makeCluster(), postmasterOver)
        yield* Effect.scoped(
          Effect.gen(function* () {
            const running = yield* start({ token: null })
            yield* running.ready
            process.kill(running.pid, "SIGABRT")
            assert.deepStrictEqual(yield* running.exit, { _tag: "Signal", signal: "SIGABRT" })
          })
        )
        if (!dumps) return
        yield* eventually("the dump was reported", () => /left 1 core dump/.test(logged()))
        assert.match(logged(), /core[.\d]*: #\d+ |no debugger is installed/)
      })
    )
  )
})

/** Starts a shell with these limits, which says when it has them. */
const limited = Effect.fnUntraced(function* (soft: string, hard: string) {
  const { spawn } = yield* Spawn
  const child = yield* spawn({
    command: "/bin/sh",
    args: ["-c", `ulimit -S -c ${soft}; ulimit -H -c ${hard}; exec sleep 60`],
    runAs: null,
    stages: [{ signal: "SIGKILL", grace: Duration.seconds(5), meaning: "a test" }]
  })
  const limits = () =>
    /^Max core file size\s+(\S+)\s+(\S+)/m.exec(fs.readFileSync(`/proc/${child.pid}/limits`, "utf8"))?.slice(1)
  yield* eventually(
    "the child's own limit",
    () => fs.readFileSync(`/proc/${child.pid}/comm`, "utf8").trim() === "sleep" && limits() !== undefined
  )
  return { pid: child.pid, limits }
})

describe("the core limit", () => {
  it.live("of a process is raised where it may be, and what stays limited is told", () =>
    withLog((logged) =>
      Effect.gen(function* () {
        const { limits, pid } = yield* limited("0", "0")
        yield* liftCoreLimit(pid)
        const raised = limits()?.[1] === "unlimited"
        if (raised) assert.deepStrictEqual([limits(), logged()], [["unlimited", "unlimited"], ""])
        else assert.match(logged(), /^Warn a crash of Postgres leaves no core dump: the hard limit on core files is 0/)
        const without = yield* limited("0", "unlimited")
        yield* liftCoreLimit(without.pid)
        assert.strictEqual(without.limits()?.[0], "0", "the soft limit is the shell's affair")
      })
    )
  )

  it.live("that only root may raise is told, with what to do", () =>
    withLog((logged) =>
      Effect.gen(function* () {
        const { pid } = yield* limited("0", "0")
        const bytes = yield* limited("8", "8")
        const path = process.env["PATH"]
        yield* Effect.acquireUseRelease(
          Effect.sync(() => void (process.env["PATH"] = "/nowhere")),
          () => Effect.andThen(liftCoreLimit(pid), liftCoreLimit(bytes.pid)),
          () => Effect.sync(() => void (process.env["PATH"] = path))
        )
        const [none, some] = logged().split("\n")
        assert.match(none ?? "", /^Warn a crash of Postgres leaves no core dump: .* is 0, .*LimitCORE=infinity/)
        assert.match(some ?? "", /^Info a core dump of Postgres is cut off at \d+ bytes, .*LimitCORE=infinity/)
      })
    )
  )

  it.live("of a process that does not exist is no failure", () =>
    liftCoreLimit(2 ** 22 - 1).pipe(Effect.provide(Spawn.layer))
  )
})
