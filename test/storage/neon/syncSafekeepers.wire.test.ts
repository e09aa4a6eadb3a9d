/**
 * The full sync with real processes: environment, arguments, retries, deadline, and leaving nothing behind.
 *
 * A stock Postgres has no `--sync-safekeepers`, so a small shell script stands for it here; everything else is real.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { CgroupUnusable } from "../../../src/errors/Failure.ts"
import { causesOf } from "../../../src/errors/policy.ts"
import { Spawn } from "../../../src/platform/Spawn.ts"
import type { PostgresInstall } from "../../../src/postgres/PostgresInstall.ts"
import {
  type EnterCgroup,
  makeSyncSafekeepers,
  startRetries,
  type SyncRequest
} from "../../../src/storage/neon/syncSafekeepers.ts"
import { atHand, installOf, runAs, temporaryFolder } from "../../support/postgres.ts"
import { eventually } from "../../support/waiting.ts"

interface Bench {
  readonly folder: string
  readonly sync: ReturnType<typeof makeSyncSafekeepers>
  readonly request: SyncRequest
  /** What the script wrote into a file of the folder; empty when it has not. */
  readonly read: (name: string) => string
}

/** `$HERE` is the folder, `$RUN` the number of this run, from 1. */
const bench = (script: string, enter?: EnterCgroup): Effect.Effect<Bench, never, Scope.Scope | Spawn> =>
  Effect.gen(function* () {
    const folder = yield* temporaryFolder
    const program = path.join(folder, "postgres")
    const preamble = `#!/bin/sh\nHERE=${folder}\necho run >> $HERE/runs\nRUN=$(($(wc -l < $HERE/runs)))\n`
    fs.writeFileSync(program, `${preamble}${script}\n`, { mode: 0o755 })
    const install: PostgresInstall["Service"] = {
      postgres: program,
      initdb: null,
      pgDump: null,
      major: 17,
      version: "17.0",
      runAs
    }
    return {
      folder,
      sync: makeSyncSafekeepers(yield* Spawn, install, enter),
      request: { pgdata: "/the/pgdata", token: null, retries: Schedule.recurs(0), within: Duration.seconds(30) },
      read: (name: string) =>
        fs.existsSync(path.join(folder, name)) ? fs.readFileSync(path.join(folder, name), "utf8").trim() : ""
    }
  })

const runs = (made: Bench): number => made.read("runs").split("\n").length
const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
const live = (name: string, body: Effect.Effect<void, unknown, Scope.Scope | Spawn>) =>
  it.live(name, () => Effect.provide(body, Spawn.layer))

describe("postgres --sync-safekeepers", () => {
  live(
    "reads the LSN, and gives PGDATA, the token and nothing else",
    Effect.gen(function* () {
      const made = yield* bench(
        `echo "$#:$1:$PGDATA:$NEON_AUTH_TOKEN" > $HERE/seen; echo "talk" >&2; echo " 0/16B9188 "`
      )
      const lsn = yield* made.sync({ ...made.request, token: Redacted.make("t0ken") })
      assert.strictEqual(lsn, 0x16b9188n)
      assert.strictEqual(made.read("seen"), "1:--sync-safekeepers:/the/pgdata:t0ken")
    })
  )

  live(
    "without a token, takes an inherited one away",
    Effect.gen(function* () {
      process.env["NEON_AUTH_TOKEN"] = "inherited"
      yield* Effect.addFinalizer(() => Effect.sync(() => delete process.env["NEON_AUTH_TOKEN"]))
      const made = yield* bench(`echo "\${NEON_AUTH_TOKEN-none}" > $HERE/seen; echo 0/0`)
      assert.strictEqual(yield* made.sync(made.request), 0n)
      assert.strictEqual(made.read("seen"), "none")
    })
  )

  live(
    "runs as the request that enters the cgroup",
    Effect.gen(function* () {
      const enter: EnterCgroup = (request) =>
        Effect.succeed({
          ...request,
          command: "/usr/bin/env",
          args: ["GROUP=neon-postgres", request.command, ...request.args]
        })
      const made = yield* bench(`echo "$GROUP:$1" > $HERE/seen; echo 0/10`, enter)
      assert.strictEqual(yield* made.sync(made.request), 16n)
      assert.strictEqual(made.read("seen"), "neon-postgres:--sync-safekeepers")
    })
  )

  live(
    "a cgroup that cannot be entered is the failure, and nothing is run",
    Effect.gen(function* () {
      const closed = new CgroupUnusable({ cgroup: "/sys/fs/cgroup/neon-postgres", detail: "closed" })
      const made = yield* bench(`echo 0/10`, () => Effect.fail(closed))
      assert.strictEqual(yield* Effect.flip(made.sync(made.request)), closed)
      assert.strictEqual(made.read("runs"), "")
    })
  )

  live(
    "tries again until it succeeds",
    Effect.gen(function* () {
      const made = yield* bench(`[ $RUN -ge 3 ] && echo 0/10 || { echo "no quorum" >&2; exit 1; }`)
      assert.strictEqual(yield* made.sync({ ...made.request, retries: Schedule.recurs(3) }), 16n)
      assert.strictEqual(runs(made), 3)
    })
  )

  live(
    "gives up after its attempts, and names every cause",
    Effect.gen(function* () {
      const made = yield* bench(`echo "problem $RUN" >&2; echo "half an answer"; exit $RUN`)
      const failure = yield* Effect.flip(made.sync({ ...made.request, retries: Schedule.recurs(2) }))
      if (failure._tag !== "SyncSafekeepersFailed") return assert.fail(failure._tag)
      assert.strictEqual(failure.attempts, 3)
      const causes = causesOf(failure).join(": ")
      assert.match(causes, /cannot sync the safekeepers \(3 attempts\)/)
      for (const run of [1, 2, 3])
        assert.match(causes, new RegExp(`ended with exit code ${run}: half an answer \\| problem ${run}`))
    })
  )

  live(
    "causes that differ in nothing but time and process are one",
    Effect.gen(function* () {
      const stamp = "2026-11-27 22:15:0$RUN.12$RUN UTC [10$RUN]"
      const made = yield* bench(`echo "${stamp} LOG:  WP: connecting" >&2; echo "${stamp} FATAL:  lost" >&2; exit 1`)
      const failure = yield* Effect.flip(made.sync({ ...made.request, retries: Schedule.recurs(2) }))
      assert.strictEqual(
        causesOf(failure).join(": "),
        `cannot sync the safekeepers (3 attempts): ${made.folder}/postgres --sync-safekeepers ended with ` +
          "exit code 1: LOG:  WP: connecting | FATAL:  lost"
      )
    })
  )

  live(
    "of causes that come again each is named once, with its number",
    Effect.gen(function* () {
      const made = yield* bench(`[ $RUN = 2 ] && echo b >&2 || echo a >&2; exit 1`)
      const failure = yield* Effect.flip(made.sync({ ...made.request, retries: Schedule.recurs(2) }))
      assert.match(causesOf(failure).join(": "), /exit code 1: a \(2 times\); then .*exit code 1: b$/)
    })
  )

  live(
    "a stock Postgres says that it has no walproposer, at once",
    Effect.gen(function* () {
      const { postgres } = yield* Effect.promise(() => atHand(installOf(17)))
      const made = yield* bench(`exec ${postgres} "$@"`)
      const failure = yield* Effect.flip(made.sync({ ...made.request, retries: Schedule.spaced("1 hour") }))
      assert.match(
        causesOf(failure).join(": "),
        /\(1 attempts\): Postgres at .* cannot be used: it is a stock Postgres \(17\.0\) without a walproposer/
      )
      if (failure._tag !== "SyncSafekeepersFailed") return assert.fail(failure._tag)
      assert.match(failure.hint ?? "", /the Postgres of Neon's images/)
    })
  )

  live(
    "bytes on stderr that are not UTF-8 stop nothing",
    Effect.gen(function* () {
      const made = yield* bench(`printf 'a\\377b\\n' >&2; echo after >&2; exit 1`)
      const failure = yield* Effect.flip(made.sync(made.request))
      assert.match(causesOf(failure).join(": "), /a\ufffdb( \|)? after/)
    })
  )

  live(
    "an answer that is not an LSN is a failure",
    Effect.gen(function* () {
      const failure = yield* Effect.flip(Effect.flatMap(bench(`echo sure`), (made) => made.sync(made.request)))
      assert.match(causesOf(failure).join(": "), /it printed no LSN: sure/)
    })
  )

  live(
    "death by a signal is a failure that names it",
    Effect.gen(function* () {
      const failure = yield* Effect.flip(Effect.flatMap(bench(`kill -9 $$`), (made) => made.sync(made.request)))
      assert.match(causesOf(failure).join(": "), /signal SIGKILL/)
    })
  )

  live(
    "a program that is not there is not tried again",
    Effect.gen(function* () {
      const made = yield* bench(`echo 0/10`)
      fs.rmSync(path.join(made.folder, "postgres"))
      const failure = yield* Effect.flip(made.sync({ ...made.request, retries: Schedule.spaced("1 hour") }))
      assert.match(causesOf(failure).join(": "), /\(1 attempts\): cannot start/)
    })
  )

  live(
    "an attempt that takes too long is ended by SIGTERM and is the last",
    Effect.gen(function* () {
      const made = yield* bench(
        "echo waits >&2; echo $$ > $HERE/pid; trap 'echo TERM > $HERE/signal; exit 1' TERM; while :; do sleep 0.1; done"
      )
      const request = { ...made.request, within: Duration.millis(700), retries: Schedule.spaced("1 hour") }
      const failure = yield* Effect.flip(made.sync(request))
      assert.match(
        causesOf(failure).join(": "),
        /timed out after 700 ms: .*--sync-safekeepers, which said last: waits$/
      )
      assert.strictEqual(made.read("signal"), "TERM")
      assert.isFalse(isAlive(Number(made.read("pid"))))
      assert.strictEqual(runs(made), 1)
    })
  )

  live(
    "when it is interrupted the process is asked to leave, and is gone",
    Effect.gen(function* () {
      const made = yield* bench(
        `trap 'echo TERM > $HERE/signal; exit 0' TERM; echo $$ > $HERE/pid; while :; do sleep 0.05; done`
      )
      const fiber = yield* Effect.forkChild(made.sync(made.request))
      yield* eventually("the start of the process", () => made.read("pid") !== "")
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(made.read("signal"), "TERM")
      assert.isFalse(isAlive(Number(made.read("pid"))))
    })
  )

  live(
    "one that ignores SIGTERM is killed",
    Effect.gen(function* () {
      const made = yield* bench(`trap '' TERM; echo $$ > $HERE/pid; while :; do sleep 0.05; done`)
      const fiber = yield* Effect.forkChild(made.sync(made.request))
      yield* eventually("the start of the process", () => made.read("pid") !== "")
      yield* Fiber.interrupt(fiber)
      assert.isFalse(isAlive(Number(made.read("pid"))))
    })
  )

  it.effect("at the start, six attempts: the second at once, the later ones after a second and a tenth more each", () =>
    Effect.gen(function* () {
      const step = yield* Schedule.toStep(startRetries)
      const steps = yield* Effect.replicateEffect(
        Effect.suspend(() => step(0, undefined)),
        5
      )
      assert.deepStrictEqual(
        steps.map(([, pause]) => Math.round(Duration.toMillis(pause))),
        [0, 1100, 1210, 1331, 1464]
      )
      assert.isTrue(Exit.isFailure(yield* Effect.exit(step(0, undefined))), "there is no seventh attempt")
    })
  )
})
