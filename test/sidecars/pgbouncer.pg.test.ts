/**
 * A real pgbouncer before a real Postgres: tuned, reloaded, stopped; and what an operator sees where there is none.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { explain } from "../../src/errors/policy.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import { type PgbouncerPlace, reloadPgbouncer, stopPgbouncer, tunePgbouncer } from "../../src/sidecars/pgbouncer.ts"
import { rsyslogPlace } from "../../src/sidecars/rsyslog.ts"
import { Sidecars } from "../../src/sidecars/Sidecars.ts"
import { freePort, runAs, startPostgres, superuser, temporaryFolder } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"
import { programAt, startProgram } from "../support/programs.ts"
import { eventually } from "../support/waiting.ts"

const program = programAt("pgbouncer")
const password = "canary-9b1f-console"

const iniOf = (folder: string, port: number, behind: number) =>
  `;; what people wrote here stays
[databases]
postgres = host=127.0.0.1 port=${behind} user=${superuser}

[pgbouncer]
# where we listen
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
pidfile = ${folder}/pgbouncer.pid
logfile = ${folder}/pgbouncer.log
auth_type = scram-sha-256
auth_file = ${folder}/users.txt
admin_users = postgres
;default_pool_size = 3
default_pool_size=20
`

const setUp = Effect.gen(function* () {
  const folder = yield* temporaryFolder
  const port = yield* freePort
  const place: PgbouncerPlace = {
    admin: { host: "127.0.0.1", port, user: "postgres", password: Redacted.make(password) },
    ini: path.join(folder, "pgbouncer.ini"),
    pidFile: path.join(folder, "pgbouncer.pid")
  }
  return { folder, port, place }
})

const opened = (at: string) => (behind: number, folder: string, port: number, place: PgbouncerPlace) =>
  Effect.gen(function* () {
    fs.writeFileSync(path.join(folder, "users.txt"), `"postgres" "${password}"\n"${superuser}" "${password}"\n`)
    fs.writeFileSync(place.ini, iniOf(folder, port, behind), { mode: 0o640 })
    if (runAs !== null)
      for (const name of ["users.txt", "pgbouncer.ini"]) fs.chownSync(path.join(folder, name), runAs.uid, runAs.gid)
    const running = yield* startProgram(at, [place.ini])
    const file = path.join(folder, "pgbouncer.log")
    const log = () => `${running.said()}\n${fs.existsSync(file) ? fs.readFileSync(file, "utf8") : ""}`
    yield* eventually("pgbouncer to listen", () => /process up/.test(log()), log)
    return { ...running, log }
  })

const session = (port: number, database: string, user: string) =>
  connect({
    host: "127.0.0.1",
    port,
    user,
    database,
    password: Redacted.make(password),
    connectWithin: Duration.seconds(15)
  })

const configOf = (port: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const rows = yield* (yield* session(port, "pgbouncer", "postgres")).rows("SHOW CONFIG")
      return new Map(rows.map(([key, value]) => [key, value]))
    })
  )

if (program !== null) {
  const open = opened(program)
  describe("a real pgbouncer", () => {
    it.live(
      "that is not there yet is a condition until it is, without another spec",
      () =>
        Effect.gen(function* () {
          const { folder, place, port } = yield* setUp
          fs.writeFileSync(place.ini, iniOf(folder, port, 1), { mode: 0o640 })
          yield* Effect.gen(function* () {
            const sidecars = yield* Sidecars
            const state = yield* ComputeState
            for (const actor of sidecars.actors) yield* Effect.forkChild(actor.run)
            yield* state.note({ spec: { ...emptySpec, pgbouncerSettings: new Map([["default_pool_size", "77"]]) } })
            const condition = Effect.map(state.now, ({ degraded }) => degraded[0])
            const found = yield* eventually("the condition", () => condition)
            assert.deepInclude(found, { code: "sidecar_unusable", about: "pgbouncer" })
            yield* open(1, folder, port, place)
            yield* eventually("no condition", () => Effect.map(condition, (one) => one === undefined))
          }).pipe(
            Effect.provide(
              Sidecars.layer({
                pgbouncer: place,
                localProxy: { config: path.join(folder, "proxy.json"), pidFile: path.join(folder, "proxy.pid") },
                rsyslog: { ...rsyslogPlace, directory: folder, search: false },
                auditEndpoints: { plain: null, tls: null },
                pgdata: folder,
                tls: null,
                dev: false
              })
            ),
            Effect.provide(ComputeState.layer)
          )
        }),
      60_000
    )

    it.live(
      "uses the settings of the spec, under clients that stay connected",
      () =>
        Effect.gen(function* () {
          const postgres = yield* startPostgres()
          const { folder, place, port } = yield* setUp
          yield* open(postgres.port, folder, port, place)
          const client = yield* session(port, "postgres", superuser)
          assert.deepStrictEqual(yield* client.rows("select 1"), [["1"]])

          const settings = new Map([
            ["default_pool_size", "77"],
            ["max_client_conn", "321"]
          ])
          const before = fs.statSync(place.ini)
          assert.isTrue(yield* tunePgbouncer(place, settings, null))
          const config = yield* configOf(port)
          assert.strictEqual(config.get("default_pool_size"), "77")
          assert.strictEqual(config.get("max_client_conn"), "321")
          assert.deepStrictEqual(yield* client.rows("select 2"), [["2"]])

          const expected = iniOf(folder, port, postgres.port).replace(
            "\ndefault_pool_size=20\n",
            "\ndefault_pool_size=77\nmax_client_conn = 321\n"
          )
          assert.strictEqual(fs.readFileSync(place.ini, "utf8"), expected)
          const { gid, mode, uid } = fs.statSync(place.ini)
          assert.deepStrictEqual({ gid, mode, uid }, { gid: before.gid, mode: before.mode, uid: before.uid })

          assert.isFalse(yield* tunePgbouncer(place, settings, null), "the second time there is nothing to do")
        }),
      60_000
    )

    it.live(
      "is stopped in order, and only when the pid is its own",
      () =>
        Effect.gen(function* () {
          const { folder, place, port } = yield* setUp
          const pgbouncer = yield* open(1, folder, port, place)
          const pid = Number(fs.readFileSync(place.pidFile, "utf8"))
          yield* stopPgbouncer(place)
          yield* eventually("pgbouncer to be gone", () => pgbouncer.left(), pgbouncer.log)
          assert.strictEqual(pid, pgbouncer.pid)
          assert.notInclude(pgbouncer.log(), "FATAL")
        }),
      30_000
    )

    it.live(
      "that refuses our password is an error without the password in it",
      () =>
        Effect.gen(function* () {
          const { folder, place, port } = yield* setUp
          yield* open(1, folder, port, place)
          const wrong = { ...place, admin: { ...place.admin, password: Redacted.make("canary-wrong") } }
          const failure = yield* Effect.flip(reloadPgbouncer(wrong))
          assert.strictEqual(failure._tag, "WireFailed")
          assert.include(failure.message, "log in to")
          const before = fs.readFileSync(place.ini, "utf8")
          yield* Effect.flip(tunePgbouncer(wrong, new Map([["default_pool_size", "5"]]), null))
          assert.strictEqual(fs.readFileSync(place.ini, "utf8"), before, "what it did not reload is put back")
          assert.isTrue(yield* tunePgbouncer(place, new Map([["default_pool_size", "5"]]), null))
          assert.strictEqual((yield* configOf(port)).get("default_pool_size"), "5")
          for (const text of [failure.message, explain(failure), JSON.stringify(failure)])
            assert.notInclude(text, "canary")
        }),
      30_000
    )
  })
}

describe("without a pgbouncer", () => {
  it.live(
    "the error names what is missing",
    () =>
      Effect.gen(function* () {
        const { folder, place, port } = yield* setUp
        const settings = new Map([["default_pool_size", "77"]])
        const noIni = yield* Effect.flip(tunePgbouncer(place, settings, null))
        assert.strictEqual(noIni.message, `pgbouncer: there is no ${place.ini}`)

        fs.writeFileSync(place.ini, "[databases]\n")
        const noSection = yield* Effect.flip(tunePgbouncer(place, settings, null))
        assert.strictEqual(noSection.message, `pgbouncer: ${place.ini} has no section [pgbouncer]`)
        assert.strictEqual(fs.readFileSync(place.ini, "utf8"), "[databases]\n")

        const injected = new Map([["default_pool_size", "1\nadmin_users = canary"]])
        const unfit = yield* Effect.flip(tunePgbouncer(place, injected, null))
        assert.strictEqual(unfit.message, 'pgbouncer: these settings do not fit into an ini file: "default_pool_size"')

        fs.writeFileSync(place.ini, iniOf(folder, port, 1))
        const refused = yield* Effect.flip(tunePgbouncer(place, settings, null))
        assert.strictEqual(refused._tag, "WireFailed")
        assert.include(refused.message, "ECONNREFUSED")
      }),
    30_000
  )

  it.live("a stale pid file stops no other process", () =>
    Effect.gen(function* () {
      const { place } = yield* setUp
      const bystander = yield* Effect.acquireRelease(
        Effect.sync(() => spawn("sleep", ["600"], { stdio: "ignore" })),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )
      for (const text of [String(bystander.pid), "1", "0", "-1", "", "hello", "99999999999"]) {
        fs.writeFileSync(place.pidFile, `${text}\n`)
        yield* stopPgbouncer(place)
      }
      yield* stopPgbouncer({ ...place, pidFile: `${place.pidFile}.none` })
      assert.isNull(bystander.exitCode)
      assert.isNull(bystander.signalCode)
    })
  )
})
