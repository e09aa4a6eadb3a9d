/**
 * The program as a process from start to exit, on local storage and every Postgres this machine has: started,
 * reconfigured, killed, recovered, ended.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { connect } from "../../src/pgwire/Wire.ts"
import { installs } from "../support/postgres.ts"
import {
  eventually,
  gone,
  killAll,
  launch,
  localArguments,
  place,
  processesIn,
  rows,
  runFolderOf,
  session
} from "./harness.ts"

const hostileRole = 'o\'neil "the" \\ 5%$'
const hostileDatabase = 'Ünï "q" 100% of $x$'

const specWith = (more: { readonly roles?: ReadonlyArray<unknown>; readonly maxConnections?: number }) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: [{ name: "web" }, { name: hostileRole }, ...(more.roles ?? [])],
    databases: [
      { name: "shop", owner: "web" },
      { name: hostileDatabase, owner: hostileRole }
    ],
    settings: [{ name: "max_connections", value: String(more.maxConnections ?? 30), vartype: "integer" }]
  }
})

const post = (body: unknown): RequestInit => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body)
})

/** The image's HEALTHCHECK; it throws where that is not well. */
const healthSays = (httpPort: number): string =>
  execFileSync(path.resolve(import.meta.dirname, "../../bin/compute_ctl_health"), {
    encoding: "utf8",
    env: { PATH: process.env["PATH"], RUNTIME_DIRECTORY: runFolderOf(httpPort) }
  })

const owners = `select datname, pg_get_userbyid(datdba) from pg_database where datname not like 'template%'
  order by datname collate "C"`

describe.each(installs)("Postgres $major ($postgres)", ({ postgres }) => {
  it.live("starts, is reconfigured, is killed, recovers, and ends clean", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const pgdata = `${at.directory}/pgdata`
        const args = localArguments(at, specWith({}), ["-b", postgres])

        const first = yield* launch(args, at.httpPort)
        yield* Effect.promise(() => first.reaches("running"))
        assert.deepStrictEqual(yield* rows(at, owners), [
          ["postgres", "cloud_admin"],
          ["shop", "web"],
          [hostileDatabase, hostileRole]
        ])
        const ports = () => fs.globSync(`${runFolderOf(at.httpPort)}/*`)
        assert.deepStrictEqual(ports(), [`${runFolderOf(at.httpPort)}/ports-${first.pid}`])
        assert.strictEqual(fs.statSync(ports()[0] ?? "").mode & 0o777, 0o644)
        assert.strictEqual(healthSays(at.httpPort), "running\n")
        yield* rows(at, "create table kept (n int); insert into kept values (1)", "shop")

        const answer = yield* Effect.promise(() =>
          first.http("/configure", post({ spec: specWith({ roles: [{ name: "late" }] }) }))
        )
        assert.strictEqual(answer.status, 200, answer.text)
        assert.strictEqual(JSON.parse(answer.text).status, "running")
        assert.deepStrictEqual(yield* rows(at, "select count(*) from pg_roles where rolname = 'late'"), [["1"]])

        killAll([first.pid, ...processesIn(pgdata)], "SIGKILL")
        assert.strictEqual((yield* Effect.promise(() => first.exit)).signal, "SIGKILL")

        const second = yield* launch(args, at.httpPort)
        yield* Effect.promise(() => second.reaches("running"))
        assert.deepStrictEqual(ports(), [`${runFolderOf(at.httpPort)}/ports-${second.pid}`], "the killed one's is gone")
        assert.strictEqual(healthSays(at.httpPort), "running\n")
        assert.deepStrictEqual(
          yield* rows(at, "select n from kept", "shop"),
          [["1"]],
          "an acknowledged commit was lost"
        )
        assert.deepStrictEqual(yield* rows(at, "select timeline_id from pg_control_checkpoint()"), [["1"]])

        // The end comes in the middle of an apply: it waits for a lock.
        const wire = yield* session(at)
        yield* wire.rows("begin")
        yield* wire.rows("lock table pg_catalog.pg_authid in share mode")
        const cut = second.http("/configure", post({ spec: specWith({ roles: [{ name: "later" }] }) }))
        cut.catch(() => {})
        yield* eventually(
          "an apply that waits",
          () => Effect.runPromise(rows(at, "select count(*) from pg_locks where not granted")),
          (found) => found[0]?.[0] === "1"
        )
        second.signal("SIGTERM")
        assert.deepStrictEqual(yield* Effect.promise(() => second.exit), { code: 0, signal: null }, second.output())
        yield* Effect.promise(() => gone(pgdata))
        assert.isFalse(fs.existsSync(`${pgdata}/postmaster.pid`))
        assert.match(second.output(), /INFO the compute ends, which cut an apply short: /)
        assert.notMatch(second.output(), /^\S+Z ERROR .*/m, "an end in order is no error")
        assert.strictEqual((yield* Effect.promise(() => cut)).status, 503)
        assert.deepStrictEqual(ports(), [])
      })
    )
  )
})

describe("a start or a run that fails", () => {
  it.live("a broken spec is refused with the path of each problem, exit 1, and nothing is left", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(
          localArguments(at, { format_version: "one", cluster: { roles: [{ nom: "web" }], databases: [] } }),
          at.httpPort
        )
        const { code } = yield* Effect.promise(() => program.exit)
        assert.strictEqual(code, 1)
        assert.include(program.output(), "cluster.roles[0].name")
        assert.include(program.output(), "format_version")
        assert.isFalse(fs.existsSync(`${at.directory}/pgdata`))
        assert.isFalse(fs.existsSync(`${at.directory}/storage/${"0".repeat(32)}`), "no timeline was begun")
      })
    )
  )

  it.live("a Postgres that is killed ends the compute, whose log says how it died", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(localArguments(at, specWith({})), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        const postmaster = Number(fs.readFileSync(`${at.directory}/pgdata/postmaster.pid`, "utf8").split("\n")[0])
        killAll([postmaster], "SIGKILL")
        const { code } = yield* Effect.promise(() => program.exit)
        assert.strictEqual(code, 1)
        assert.match(program.output(), /Postgres is gone: Postgres died unasked with signal SIGKILL/)
        yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
      })
    )
  )

  it.live(
    "a setting Postgres refuses fails the start with Postgres's message, readable over HTTP until it is ended",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const spec = specWith({})
          spec.cluster.settings.push({ name: "max_connections", value: "many", vartype: "string" })
          const program = yield* launch(localArguments(at, spec), at.httpPort)
          const failed = yield* Effect.promise(() => program.reaches("failed"))
          assert.include(failed.error ?? "", "max_connections")
          const ended = yield* Effect.promise(() => program.http("/terminate", { method: "POST" }))
          assert.strictEqual(ended.status, 200)
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 1)
        })
      )
  )

  it.live("a second compute on the same timeline is refused and the first does not notice", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const elsewhere = { ...(yield* place), directory: at.directory }
        const first = yield* launch(localArguments(at, specWith({})), at.httpPort)
        yield* Effect.promise(() => first.reaches("running"))
        const second = yield* launch(
          localArguments(elsewhere, specWith({})).map((arg) =>
            arg === `${at.directory}/pgdata` ? `${at.directory}/other` : arg
          ),
          elsewhere.httpPort
        )
        const refused = yield* Effect.promise(() => second.reaches("failed"))
        assert.include(refused.error ?? "", "another compute")
        assert.deepStrictEqual(yield* rows(at, "select 1"), [["1"]])
      })
    )
  )
})

describe("--exit-when-idle", () => {
  it.live("ends the compute in order when nobody uses it, and neither a tenant nor a hold is cut off", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const md5 = createHash("md5").update("secretweb").digest("hex")
        const spec = {
          ...specWith({}),
          suspend_timeout_seconds: 1,
          cluster: { roles: [{ name: "web", encrypted_password: md5 }], databases: [{ name: "shop", owner: "web" }] }
        }
        const program = yield* launch(localArguments(at, spec, ["--exit-when-idle"]), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        const made = yield* Effect.promise(() => program.http("/holds", post({ reason: "a test", ttl_seconds: 60 })))
        assert.strictEqual(made.status, 201, made.text)
        const answered = (route: string) => Effect.promise(() => program.http(route))
        /** Longer than the timeout after now, as the compute itself counts. */
        const staysAwake = Effect.gen(function* () {
          const from = Date.now() + 1_500
          yield* eventually(
            "a compute that is used",
            () => program.http("/status"),
            ({ text }) => Date.parse(JSON.parse(text).last_active) > from
          )
          assert.strictEqual(JSON.parse((yield* answered("/status")).text).status, "running")
        })
        yield* staysAwake
        yield* Effect.scoped(
          Effect.gen(function* () {
            const tenant = yield* connect({
              host: "127.0.0.1",
              port: at.port,
              user: "web",
              password: Redacted.make("secret"),
              database: "shop",
              connectWithin: Duration.seconds(10)
            })
            yield* tenant.simple("begin")
            yield* Effect.promise(() => program.http(`/holds/${JSON.parse(made.text).id}`, { method: "DELETE" }))
            yield* staysAwake
          })
        )
        const metrics = (yield* answered("/metrics")).text
        assert.include(metrics, "\ncompute_ctl_idle_exits_total 0\n")
        assert.include(metrics, "\ncompute_ctl_exit_when_idle_seconds 1\n")
        assert.deepStrictEqual(yield* Effect.promise(() => program.exit), { code: 0, signal: null }, program.output())
        assert.match(program.output(), /nobody has used Postgres for 1 s .*\(--exit-when-idle\)/)
        assert.include(program.output(), "to termination-pending-immediate: nobody has used Postgres")
        yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
      })
    )
  )
})

describe("a compute that was given no address", () => {
  it.live("is where it was after a kill -9 that its Postgres outlived", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const all = localArguments(at, specWith({}))
        const args = all.filter((arg, index) => arg !== "-C" && all[index - 1] !== "-C")
        const started = Effect.gen(function* () {
          const program = yield* launch(args, at.httpPort)
          const [, port] = yield* Effect.promise(() => program.prints(/superuser connects with psql .*&port=(\d+)/))
          return { program, port }
        })
        const first = yield* started
        first.program.signal("SIGKILL")
        yield* Effect.promise(() => first.program.exit)
        assert.isNotEmpty(processesIn(`${at.directory}/pgdata`))
        const second = yield* started
        assert.strictEqual(second.port, first.port)
        assert.notInclude(second.program.output(), "is taken")
        assert.include(second.program.output(), "left behind by a compute that is gone")
        second.program.signal("SIGTERM")
        assert.strictEqual((yield* Effect.promise(() => second.program.exit)).code, 0, second.program.output())
      })
    )
  )
})
