/**
 * Core dumps: found, told apart from old ones, handed to a debugger or to nobody; and a real one where the host makes them.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { Spawn } from "../../src/platform/Spawn.ts"
import { coreDumpsIn, type Debugger, tellCoreDumps } from "../../src/postgres/crashReport.ts"
import { makeCluster, runAs, temporaryFolder } from "../support/postgres.ts"
import { eventually, houseOver } from "./clusters.ts"

const hearing = <A, E, R>(effect: (said: () => string) => Effect.Effect<A, E, R>) => {
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

const scene = Effect.fnUntraced(function* () {
  const pgdata = yield* temporaryFolder
  fs.chmodSync(pgdata, 0o755)
  const debug = path.join(pgdata, "debugger")
  fs.writeFileSync(debug, '#!/bin/sh\necho "frame of $1"\necho complaint >&2\n', { mode: 0o755 })
  return { pgdata, postgres: "/postgres", runAs, debug: { command: debug, args: (_: string, core: string) => [core] } }
})

describe("core dumps", () => {
  it.live("that are new are looked into, by the first debugger there is", () =>
    hearing((said) =>
      Effect.gen(function* () {
        const at = yield* scene()
        fs.writeFileSync(path.join(at.pgdata, "core.1"), "old")
        const before = coreDumpsIn(at.pgdata)
        for (const name of ["core", "core.2", "corexit", "score.1"]) fs.writeFileSync(path.join(at.pgdata, name), "")
        fs.mkdirSync(path.join(at.pgdata, "core.folder"))
        yield* tellCoreDumps({ ...at, before, debuggers: [missing, at.debug] })
        assert.match(said(), /Warn Postgres left 2 core dump\(s\)/)
        assert.match(said(), new RegExp(`Warn core.2: frame of ${at.pgdata}/core.2\nWarn core.2: sqlError`))
        assert.notMatch(said(), /core\.1|corexit|score|folder/)
      })
    )
  )

  it.live("are told once when there is no debugger", () =>
    hearing((said) =>
      Effect.gen(function* () {
        const at = yield* scene()
        for (const name of ["core.1", "core.2"]) fs.writeFileSync(path.join(at.pgdata, name), "")
        yield* tellCoreDumps({ ...at, before: new Set(), debuggers: [missing, missing] })
        assert.strictEqual(said().split("no debugger is installed").length, 2)
      })
    )
  )

  it.live("that are not there are no news", () =>
    hearing((said) =>
      Effect.gen(function* () {
        const at = yield* scene()
        yield* tellCoreDumps({ ...at, before: new Set() })
        yield* tellCoreDumps({ ...at, pgdata: "/no/such/folder", before: new Set() })
        assert.strictEqual(said(), "")
      })
    )
  )

  it.live("of a real Postgres are told when it has aborted", () =>
    hearing((said) =>
      Effect.gen(function* () {
        const pattern = "/proc/sys/kernel/core_pattern"
        const dumps =
          fs.existsSync(pattern) &&
          fs.readFileSync(pattern, "utf8").startsWith("core") &&
          limitCores("unlimited:unlimited")
        yield* Effect.addFinalizer(() => Effect.sync(() => limitCores("0:unlimited")))
        const { start } = yield* Effect.flatMap(makeCluster(), houseOver)
        yield* Effect.scoped(
          Effect.gen(function* () {
            const running = yield* start({ token: null })
            yield* running.ready
            process.kill(running.pid, "SIGABRT")
            assert.deepStrictEqual(yield* running.exit, { _tag: "Signal", signal: "SIGABRT" })
          })
        )
        if (!dumps) return
        yield* eventually("the dump was told", () => /left 1 core dump/.test(said()))
        assert.match(said(), /core[.\d]*: #\d+ |no debugger is installed/)
      })
    )
  )
})
