/**
 * A real pgbouncer before a real Postgres: tuned, reloaded, stopped; and what an operator sees where there is none.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { explain } from "../../src/errors/policy.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import { makePgbouncer, pgbouncerEntries, type PgbouncerPlace } from "../../src/sidecars/pgbouncer.ts"
import { rsyslogPlace } from "../../src/sidecars/rsyslog.ts"
import { Sidecars } from "../../src/sidecars/Sidecars.ts"
import { freePort, runAs, startPostgres, superuser, temporaryFolder } from "../support/postgres.ts"
import { selfSigned } from "../support/certificates.ts"
import { emptySpec } from "../support/specs.ts"
import { startProgram, whereInstalled } from "../support/programs.ts"
import { eventually } from "../support/waiting.ts"

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

const settings = (wanted: Record<string, string>) => new Map(Object.entries(wanted))

const sidecarsOf = (folder: string, place: PgbouncerPlace) =>
  Sidecars.layer({
    pgbouncer: place,
    localProxy: { config: path.join(folder, "proxy.json"), pidFile: path.join(folder, "proxy.pid") },
    rsyslog: { ...rsyslogPlace, directory: folder, search: false },
    auditEndpoints: { plain: null, tls: null },
    pgdata: folder,
    tls: null,
    dev: false
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

// They mostly wait: each for a pgbouncer of its own.
const withPgbouncer = (program: string) =>
  describe("a real pgbouncer", { concurrent: true }, () => {
    const open = opened(program)
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
          }).pipe(Effect.provide(sidecarsOf(folder, place)), Effect.provide(ComputeState.layer))
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

          const pgbouncer = makePgbouncer(place)
          const before = fs.statSync(place.ini)
          const text = fs.readFileSync(place.ini, "utf8")
          yield* pgbouncer.tune(settings({ default_pool_size: "77", max_client_conn: "321" }), 0)
          const config = yield* configOf(port)
          assert.strictEqual(config.get("default_pool_size"), "77")
          assert.strictEqual(config.get("max_client_conn"), "321")
          assert.deepStrictEqual(yield* client.rows("select 2"), [["2"]])
          const { gid, ino, mode, uid } = fs.statSync(place.ini)
          assert.deepStrictEqual({ gid, mode, uid }, { gid: before.gid, mode: before.mode, uid: before.uid })
          yield* pgbouncer.tune(settings({ default_pool_size: "77", max_client_conn: "321" }), 0)
          assert.strictEqual(fs.statSync(place.ini).ino, ino, "the second time there is nothing to do")

          yield* pgbouncer.tune(settings({ max_client_conn: "321" }), 0)
          assert.strictEqual((yield* configOf(port)).get("default_pool_size"), "20", "what people wrote counts again")
          yield* makePgbouncer(place).tune(new Map(), 0)
          assert.strictEqual((yield* configOf(port)).get("max_client_conn"), "100")
          assert.strictEqual(fs.readFileSync(place.ini, "utf8"), text)
        }),
      60_000
    )

    it.live(
      "that refuses a setting goes on as it was, can start again, and is told by the setting's name",
      () =>
        Effect.gen(function* () {
          const { folder, place, port } = yield* setUp
          const running = yield* open(1, folder, port, place)
          // Also for a file of settings that is a link.
          const link = path.join(folder, "link.ini")
          fs.symlinkSync("pgbouncer.ini", link)
          const linked = { ...place, ini: link }
          yield* makePgbouncer(linked).tune(settings({ default_pool_size: "77", query_timeout: "1.50" }), 0)
          const text = fs.readFileSync(place.ini, "utf8")
          const before = yield* configOf(port)
          assert.strictEqual(before.get("default_pool_size"), "77")
          // A compute of its own each time: what runs now is what an earlier one was told.
          const refusal = (asked: Record<string, string>) =>
            Effect.gen(function* () {
              const failure = yield* Effect.flip(makePgbouncer(linked).tune(settings(asked), 0))
              assert.include(failure, { _tag: "SidecarUnusable", sidecar: "pgbouncer", refused: true })
              assert.deepStrictEqual(yield* configOf(port), before, failure.message)
              assert.strictEqual(fs.readFileSync(place.ini, "utf8"), text, failure.message)
              return failure.message
            })
          assert.strictEqual(
            yield* refusal({ max_client_conn: "300", default_pool_size: "abc", query_timeout: "2" }),
            "pgbouncer: it did not take pgbouncer_settings.default_pool_size, pgbouncer_settings.query_timeout: " +
              "it stops reading at the first that it refuses, and its log says why; " +
              "its ini and what it runs with stay as they were"
          )
          assert.include(yield* refusal({ auth_type: "nonsense" }), "pgbouncer_settings.auth_type")
          assert.include(
            yield* refusal({ default_pool_size: "9", pool_sizes: "1" }),
            "it cannot take pgbouncer_settings.pool_sizes (this version has no such setting)"
          )
          assert.include(
            yield* refusal({ listen_port: "7777" }),
            "pgbouncer_settings.listen_port (read only when pgbouncer starts: write it into the ini itself)"
          )
          assert.isTrue(fs.lstatSync(link).isSymbolicLink())

          yield* makePgbouncer(place).stop
          yield* eventually("pgbouncer to be gone", () => running.left(), running.log)
          const again = yield* startProgram(program, [place.ini])
          yield* eventually("pgbouncer again", () => fs.existsSync(place.pidFile), again.said)
          yield* eventually("its settings", () =>
            configOf(port).pipe(
              Effect.map((config) => config.get("default_pool_size") === "77"),
              Effect.catch(() => Effect.succeed(false))
            )
          )
        }),
      60_000
    )

    it.live(
      "that cannot use a certificate goes on with the one it has, and says so",
      () =>
        Effect.gen(function* () {
          const { folder, place, port } = yield* setUp
          yield* open(1, folder, port, place)
          const pair = (name: string, asked: ReturnType<typeof selfSigned>) => {
            for (const [end, text] of [
              ["crt", asked.certificate],
              ["key", asked.key]
            ] as const) {
              fs.writeFileSync(path.join(folder, `${name}.${end}`), text, { mode: 0o600 })
              if (runAs !== null) fs.chownSync(path.join(folder, `${name}.${end}`), runAs.uid, runAs.gid)
            }
          }
          const pgbouncer = makePgbouncer(place)
          const use = (certificate: string, key: string) =>
            pgbouncer.tune(
              pgbouncerEntries(settings({ default_pool_size: "9" }), {
                certPath: path.join(folder, certificate),
                keyPath: path.join(folder, key)
              }),
              0
            )
          const [one, other] = [selfSigned("rsa"), selfSigned("rsa")]
          pair("one", one)
          pair("other", other)
          assert.include((yield* Effect.flip(use("none.crt", "none.key"))).message, "it speaks no TLS, although")
          yield* use("one.crt", "one.key")
          const text = fs.readFileSync(place.ini, "utf8")
          assert.include(
            (yield* Effect.flip(use("other.crt", "one.key"))).message,
            "it did not take all that the spec asks for (the certificate it shows is not that of client_tls_cert_file)"
          )
          assert.strictEqual(fs.readFileSync(place.ini, "utf8"), text)
          yield* use("other.crt", "other.key")
          // Renewed: new content under the old names, at first without its key.
          pair("other", { ...other, certificate: one.certificate })
          assert.include(
            (yield* Effect.flip(pgbouncer.reload)).message,
            "it did not take its new certificate: the certificate it shows is not that of client_tls_cert_file"
          )
          pair("other", one)
          yield* pgbouncer.reload
        }),
      30_000
    )

    it.live(
      "that cannot start from what no pgbouncer has accepted finds its ini without it, and then says what it was",
      () =>
        Effect.gen(function* () {
          const { folder, place, port } = yield* setUp
          const text = iniOf(folder, port, 1)
          fs.writeFileSync(place.ini, text, { mode: 0o640 })
          const pgbouncer = makePgbouncer(place)
          const wrong = settings({ default_pool_size: "abc" })
          const away = yield* Effect.flip(pgbouncer.tune(wrong, 0))
          assert.match(
            explain(away),
            /^pgbouncer: its console cannot be reached: connect to [^:]+:\d+: connect ECONN\S+ \S+$/
          )
          assert.include(fs.readFileSync(place.ini, "utf8"), "default_pool_size = abc", "one that starts now reads it")
          yield* Effect.flip(pgbouncer.tune(wrong, 3))
          assert.strictEqual(fs.readFileSync(place.ini, "utf8"), text)
          yield* open(1, folder, port, place)
          assert.include(
            (yield* Effect.flip(pgbouncer.tune(wrong, 4))).message,
            "it did not take pgbouncer_settings.default_pool_size"
          )
          assert.strictEqual(fs.readFileSync(place.ini, "utf8"), text)
        }),
      60_000
    )

    it.live(
      "that refuses one spec after the other is told of each, once, until one is taken",
      () =>
        Effect.gen(function* () {
          const { folder, place, port } = yield* setUp
          yield* open(1, folder, port, place)
          const lines: Array<string> = []
          const warnings = Logger.layer([
            Logger.make(({ logLevel, message }) => {
              if (logLevel === "Warn") lines.push(String(message))
            })
          ])
          yield* Effect.gen(function* () {
            const state = yield* ComputeState
            for (const actor of (yield* Sidecars).actors) yield* Effect.forkChild(actor.run)
            const outcomes = (reason: string) =>
              eventually(reason, () =>
                Effect.map(
                  state.now,
                  ({ degraded, sidecarReports: [report] }) =>
                    report?.reason?.includes(reason) === true && degraded[0]?.message === report.reason
                )
              )
            const ask = (asked: Record<string, string>) =>
              state.note({ spec: { ...emptySpec, pgbouncerSettings: settings(asked) } })
            yield* ask({ default_pool_size: "abc" })
            yield* outcomes("pgbouncer_settings.default_pool_size")
            yield* ask({ pool_sizes: "1" })
            yield* outcomes("pgbouncer_settings.pool_sizes")
            yield* ask({ default_pool_size: "9" })
            yield* eventually("no condition", () => Effect.map(state.now, ({ degraded }) => degraded.length === 0))
            const { sidecarReports } = yield* state.now
            assert.deepInclude(sidecarReports[0], { sidecar: "pgbouncer", outcome: "done", reason: null })
            yield* state.note({ spec: emptySpec })
            yield* eventually("the ini without settings", () => !fs.readFileSync(place.ini, "utf8").includes("= 9"))
            assert.lengthOf(lines, 2)
          }).pipe(Effect.provide(sidecarsOf(folder, place)), Effect.provide([ComputeState.layer, warnings]))
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
          yield* makePgbouncer(place).stop
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
          const before = fs.readFileSync(place.ini, "utf8")
          const failure = yield* Effect.flip(makePgbouncer(wrong).tune(settings({ default_pool_size: "5" }), 0))
          assert.strictEqual(fs.readFileSync(place.ini, "utf8"), before)
          assert.match(
            explain(failure),
            /^pgbouncer: its console refuses the user postgres, .* give the password in PGBOUNCER_PASSWORD: log in to /
          )
          assert.include(explain(yield* Effect.flip(makePgbouncer(wrong).reload)), "its console refuses")
          yield* makePgbouncer(place).tune(settings({ default_pool_size: "5" }), 0)
          assert.strictEqual((yield* configOf(port)).get("default_pool_size"), "5")
          for (const text of [failure.message, explain(failure), JSON.stringify(failure)])
            assert.notInclude(text, "canary")
        }),
      30_000
    )
  })

whereInstalled("pgbouncer", withPgbouncer)

describe("without a pgbouncer", { concurrent: true }, () => {
  it.live(
    "the error names what is missing",
    () =>
      Effect.gen(function* () {
        const { folder, place, port } = yield* setUp
        const pgbouncer = makePgbouncer(place)
        const messageOf = (wanted: Record<string, string>) =>
          Effect.map(Effect.flip(pgbouncer.tune(settings(wanted), 0)), explain)
        assert.strictEqual(yield* messageOf({ default_pool_size: "77" }), `pgbouncer: there is no ${place.ini}`)

        fs.writeFileSync(place.ini, "[databases]\n")
        assert.strictEqual(
          yield* messageOf({ default_pool_size: "77" }),
          `pgbouncer: ${place.ini} has no section [pgbouncer]`
        )
        assert.strictEqual(fs.readFileSync(place.ini, "utf8"), "[databases]\n")
        assert.strictEqual(
          yield* messageOf({ default_pool_size: "1\nadmin_users = canary", "x y": "1" }),
          "pgbouncer: these settings do not fit into an ini file: pgbouncer_settings.default_pool_size, " +
            'pgbouncer_settings."x y"'
        )

        fs.writeFileSync(place.ini, iniOf(folder, port, 1))
        const refused = yield* messageOf({ default_pool_size: "77" })
        assert.strictEqual(refused.split("ECONNREFUSED").length, 2, `one cause, once: ${refused}`)
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
        yield* makePgbouncer(place).stop
      }
      yield* makePgbouncer({ ...place, pidFile: `${place.pidFile}.none` }).stop
      assert.isNull(bystander.exitCode)
      assert.isNull(bystander.signalCode)
    })
  )
})
