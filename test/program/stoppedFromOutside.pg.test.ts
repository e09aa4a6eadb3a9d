/**
 * What others do to the Postgres of a compute: one that is stopped in order ends the compute in order, and one that
 * takes no new session is not ready.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { installs, runAs } from "../support/postgres.ts"
import {
  eventually,
  gone,
  killAll,
  launch,
  localArguments,
  neonArguments,
  type Place,
  place,
  session
} from "./harness.ts"
import { setUp, specOf } from "./neonPeers.ts"

const spec = {
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: { roles: [{ name: "web" }], databases: [], settings: [] }
}

const isTerminated = /to terminated: Postgres is gone/

const started = Effect.fnUntraced(function* (at: Place) {
  const program = yield* launch([...localArguments(at, spec), "--api-dialect", "2024"], at.httpPort)
  yield* Effect.promise(() => program.reaches("running"))
  const postmaster = Number(fs.readFileSync(`${at.directory}/pgdata/postmaster.pid`, "utf8").split("\n")[0])
  return { program, postmaster }
})

/** Of the installation that the program finds by itself: the first that tests have. */
const pgCtlStop = (at: Place, mode: "fast" | "smart"): void => {
  const pgCtl = path.join(path.dirname(installs.find(({ embedded }) => embedded)?.postgres ?? ""), "pg_ctl")
  const user = runAs === null ? {} : { uid: runAs.uid, gid: runAs.gid, cwd: "/" }
  execFileSync(pgCtl, ["stop", "--no-wait", "-m", mode, "-D", `${at.directory}/pgdata`], { ...user, stdio: "ignore" })
}

const stops: Record<string, (at: Place, postmaster: number) => void> = {
  "a SIGTERM to the postmaster (smart)": (_, postmaster) => killAll([postmaster], "SIGTERM"),
  "a SIGINT to the postmaster (fast)": (_, postmaster) => killAll([postmaster], "SIGINT"),
  "pg_ctl stop -m smart": (at) => pgCtlStop(at, "smart"),
  "pg_ctl stop -m fast": (at) => pgCtlStop(at, "fast")
}

describe("a Postgres that somebody else stops in order ends the compute in order", () => {
  for (const [how, stop] of Object.entries(stops)) {
    it.live(`${how}, although a session stays open`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const { postmaster, program } = yield* started(at)
          const wire = yield* session(at)
          assert.deepStrictEqual(yield* wire.rows("select 1"), [["1"]])
          stop(at, postmaster)
          const exit = yield* Effect.promise(() => program.exit)
          assert.deepStrictEqual(exit, { code: 0, signal: null }, program.output())
          assert.match(program.output(), /Postgres was told to stop by somebody else, so the compute ends in order/)
          assert.match(program.output(), isTerminated)
          assert.match(program.output(), /database system is shut down/)
          assert.notInclude(program.output(), "to failed")
          yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
        })
      )
    )
  }

  it.live("and on Neon's storage, where the last sync is not left out", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { addresses, at, pageserver } = yield* setUp(["ok"])
        const program = yield* launch(neonArguments(at, specOf(at, pageserver.url, addresses)), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        pgCtlStop(at, "fast")
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 1, "stock Postgres cannot sync")
        assert.match(program.output(), /the last sync failed: .*sync-safekeepers/)
        assert.match(program.output(), isTerminated)
      })
    )
  )
})

describe("a Postgres that takes no new session", () => {
  it.live("is not ready, with the reason as a condition, until it takes them again", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const { postmaster, program } = yield* started(at)
        assert.strictEqual((yield* Effect.promise(() => program.http("/readyz"))).status, 200)
        killAll([postmaster], "SIGSTOP")
        const refused = yield* eventually(
          "a probe that says no",
          () => program.http("/readyz"),
          ({ status }) => status === 503
        )
        assert.match(refused.text, /a new session of Postgres/)
        yield* eventually(
          "the condition",
          () => program.http("/conditions"),
          ({ text }) => text.includes("postgres_not_accepting")
        )
        assert.strictEqual((yield* Effect.promise(() => program.status())).status, "running")
        killAll([postmaster], "SIGCONT")
        yield* eventually(
          "a probe that says yes",
          () => program.http("/readyz"),
          ({ status }) => status === 200
        )
        yield* eventually(
          "no condition",
          () => program.http("/conditions"),
          ({ text }) => !text.includes("postgres_not_accepting")
        )
        program.signal("SIGTERM")
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
      })
    )
  )
})
