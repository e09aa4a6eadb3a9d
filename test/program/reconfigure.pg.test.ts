/**
 * A later spec on a running Postgres: a file with a mistake is never put in place, what waits for a restart is logged,
 * and the next good spec heals a compute that failed so. Postgres runs all the while.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { installs } from "../support/postgres.ts"
import { eventually, launch, localArguments, place, type Program, rows } from "./harness.ts"

const specWith = (settings: Readonly<Record<string, string>>) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: [],
    databases: [],
    settings: Object.entries({ max_connections: "30", ...settings }).map(([name, value]) => ({
      name,
      value,
      vartype: "string"
    }))
  }
})

const configure = (program: Program, settings: Readonly<Record<string, string>>) =>
  Effect.promise(() =>
    program.http("/configure", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ spec: specWith(settings) })
    })
  )

const times = (text: string, what: string): number => text.split(what).length - 1

describe.each(installs)("reconfiguration on Postgres $major ($postgres)", ({ postgres }) => {
  it.live(
    "mistakes are refused, restarts are waited for, and the next good spec heals",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const program = yield* launch(
            localArguments(at, specWith({ work_mem: "5MB" }), ["-b", postgres]),
            at.httpPort
          )
          yield* Effect.promise(() => program.reaches("running"))
          const conf = `${at.directory}/pgdata/postgresql.conf`
          const pid = yield* rows(at, "select pg_backend_pid(), pg_postmaster_start_time()")
          const before = fs.readFileSync(conf, "utf8")
          const reloads = () => times(program.output(), "received SIGHUP, reloading configuration files")
          const reloadsBefore = reloads()

          for (const [settings, why] of [
            [{ work_mem: "a lot" }, /postgresql\.conf line \d+: work_mem: setting could not be applied/],
            [{ no_such_thing: "1" }, /postgresql\.conf line \d+: no_such_thing: unrecognized configuration parameter/],
            [{ max_connections: "many" }, /postgresql\.conf line \d+: max_connections: setting could not be applied/]
          ] as const) {
            const refused = yield* configure(program, settings)
            assert.isAtLeast(refused.status, 400, refused.text)
            const status = yield* Effect.promise(() => program.status())
            assert.strictEqual(status.status, "failed")
            assert.match(status.error ?? "", why)
            assert.strictEqual(fs.readFileSync(conf, "utf8"), before, "the file was put back")
          }
          assert.strictEqual(reloads(), reloadsBefore, "nothing was reloaded")
          assert.deepStrictEqual(yield* rows(at, "show work_mem"), [["5MB"]])

          const healed = yield* configure(program, { work_mem: "6MB", max_connections: "40", shared_buffers: "8MB" })
          assert.strictEqual(healed.status, 200, healed.text)
          assert.isNull((yield* Effect.promise(() => program.status())).error)
          assert.match(
            program.output(),
            /setting\(s\) wait for a restart of Postgres: .*max_connections \(30 now, 40 then\)/
          )
          assert.match(program.output(), /shared_buffers \(\d+MB now, 8MB then\)/)
          yield* Effect.promise(() => program.prints(/parameter "work_mem" changed to "6MB"/))
          assert.deepStrictEqual(yield* rows(at, "select count(*) from pg_settings where pending_restart"), [["2"]])
          const reloaded = reloads()

          // Back to what it runs with: nothing waits any more. And once more the same: nothing is reloaded.
          assert.strictEqual((yield* configure(program, { work_mem: "6MB" })).status, 200)
          yield* eventually("another reload", reloads, (now) => now > reloaded)
          assert.strictEqual(times(program.output(), "wait for a restart"), 1, "nothing waits any more")
          const last = reloads()
          assert.strictEqual((yield* configure(program, { work_mem: "6MB" })).status, 200)
          assert.strictEqual(reloads(), last, "the same spec again reloads nothing")
          assert.strictEqual(
            (yield* rows(at, "select 1, pg_postmaster_start_time()"))[0]?.[1],
            pid[0]?.[1],
            "it is the same Postgres"
          )
        })
      ),
    60_000
  )
})
