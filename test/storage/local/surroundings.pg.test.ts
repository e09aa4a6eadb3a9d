/**
 * Local storage where the program runs as users run it, and the machine is not the one it was made on: what helps it
 * to a lock, who it runs as, who owns PGDATA, what is left of its settings, and a standby that is not there.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { launch, localArguments, type Place, place, processesIn, type Program, rows } from "../../program/harness.ts"
import { least } from "../../support/fixtures.ts"
import { eventually } from "../../support/waiting.ts"
import { apart, computeOf, killCompute, locksHeldBy, postgresOf, start, where } from "./containers.ts"

/** Only root can mount, give files away and become somebody else. */
const whereRoot = (what: string, tests: () => void): void => {
  if (process.getuid?.() === 0) describe(what, tests)
}

const running = (program: Program) => Effect.promise(() => program.reaches("running"))

const stopped = Effect.fnUntraced(function* (program: Program) {
  program.signal("SIGTERM")
  assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
})

const lockIn = (at: Place): string => fs.globSync(`${at.directory}/storage/*/*/lock/flock`)[0] ?? assert.fail("a lock")

/** Where a program is, behind all that only stands for it; `null`: nowhere. */
const whereIs = (name: string): string | null => {
  const asked =
    name === "python3"
      ? spawnSync("python3", ["-c", "import sys; print(sys.executable)"], { encoding: "utf8" })
      : spawnSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" })
  return asked.status === 0 ? asked.stdout.trim() : null
}

describe("a lock that is taken with the help of", () => {
  for (const helper of ["flock", "busybox", "perl", "python3"]) {
    it.live(`${helper} alone keeps others out, and lasts as long as Postgres does`, () => {
      const found = whereIs(helper)
      const probe = found === null ? ["false"] : helper === "busybox" ? [found, "flock", "/"] : []
      const tested = Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const bin = `${at.directory}/bin`
          fs.mkdirSync(bin)
          fs.writeFileSync(`${bin}/${helper}`, `#!/bin/sh\nexec ${found} "$@"\n`, { mode: 0o755 })
          const args = localArguments(at, least)
          const alone = { PATH: bin }
          const first = yield* launch(args, at.httpPort, alone)
          yield* running(first)
          for (const pid of postgresOf(at)) assert.isAtLeast(locksHeldBy(pid), 1)
          yield* stopped(first)
          assert.deepStrictEqual(postgresOf(at), [])

          const holder = yield* start(args, at, ["flock", lockIn(at), "sleep", "1000"])
          yield* eventually("somebody's lock", () => locksHeldBy(holder.pid) === 1)
          const refused = yield* launch(args, at.httpPort, alone)
          const { error } = yield* Effect.promise(() => refused.reaches("failed"))
          assert.include(error ?? "", lockIn(at))
          assert.isTrue(fs.existsSync(`/proc/${holder.pid}`))
          assert.strictEqual(refused.output().includes("LockUnavailable"), false)
        })
      )
      return found === null ? where(["sh", "-c", `echo there is no ${helper} >&2; false`], tested) : where(probe, tested)
    })
  }
})
