/**
 * The routes that look further into Postgres: schemas streamed from pg_dump, extensions, verifiers for administrators.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import { connect } from "node:net"
import * as path from "node:path"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { unverified } from "../../src/http/authorize.ts"
import { Admin } from "../../src/pgwire/Admin.ts"
import { refuseEverySession } from "../../src/postgres/ownership.ts"
import type { PostgresInstall } from "../../src/postgres/PostgresInstall.ts"
import { startPostgres, superuser, temporaryFolder } from "../support/postgres.ts"
import { ask, open, reach, refusedOf } from "./testServer.ts"
import { verifierThat } from "./tokens.ts"

/** The system's client programs; newer than the server or of its version. */
const pgDump = ["/usr/lib/postgresql/15/bin/pg_dump", "/usr/bin/pg_dump"].find((file) => fs.existsSync(file)) ?? null

const opened = (dump: string | null, major?: 15) =>
  Effect.gen(function* () {
    const postgres = yield* startPostgres(major === undefined ? {} : { major })
    const admin = Admin.layer({
      host: "127.0.0.1",
      port: postgres.port,
      user: superuser,
      password: null,
      database: "postgres",
      options: null,
      applicationName: null
    })
    const context = yield* Layer.build(
      Layer.provideMerge(Layer.mergeAll(Commands.layer, admin), Layer.fresh(ComputeState.layer))
    )
    yield* Effect.provide(reach("running"), context)
    const install: PostgresInstall["Service"] = {
      postgres: "/nowhere/postgres",
      initdb: null,
      pgDump: dump,
      major: 15,
      version: "15",
      runAs: null
    }
    const options = {
      install: Effect.succeed(install),
      verifier: verifierThat((token) =>
        Redacted.value(token) === "admin"
          ? Effect.succeed({ scope: "compute_ctl:admin", aud: "compute" })
          : Redacted.value(token) === "ours"
            ? Effect.succeed({ compute_id: "compute-1" })
            : Effect.fail(unverified)
      )
    }
    const { port } = yield* Effect.provide(open(options), context)
    const { port: port2024 } = yield* Effect.provide(open({ ...options, apiVersion: "2024" }), context)
    return { postgres, port, port2024, guard: (yield* Effect.provide(Admin, context)).guard }
  })

const ours = { headers: { authorization: "Bearer ours" } }
const admin = { headers: { authorization: "Bearer admin" } }

/** A stand-in for pg_dump: what matters here is how its output and its exit are passed on. */
const fakePgDump = Effect.fnUntraced(function* (script: string) {
  const file = path.join(yield* temporaryFolder, "pg_dump")
  fs.writeFileSync(file, `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  return file
})

describe("GET /database_schema", () => {
  it.live("is what pg_dump says, for a name with quotes, too; what is not there is 404", () =>
    Effect.gen(function* () {
      assert.isNotNull(pgDump, "this machine has a pg_dump")
      const { port, postgres } = yield* opened(pgDump, 15)
      const name = 'o\'dd ="name" host=elsewhere'
      yield* postgres.rows(`create database "${name.replaceAll('"', '""')}"`)
      const answer = yield* ask(port, "GET", `/database_schema?database=${encodeURIComponent(name)}`, ours)
      assert.deepStrictEqual([answer.status, answer.type], [200, "text/plain; charset=utf-8"], answer.text)
      assert.include(answer.text, "-- PostgreSQL database dump complete")
      assert.strictEqual(
        refusedOf(yield* ask(port, "GET", "/database_schema?database=nope", ours)).code,
        "database_unknown"
      )
      for (const query of ["", "?database=", "?database=a&database=b", "?other=a"]) {
        const refused = yield* ask(port, "GET", `/database_schema${query}`, ours)
        assert.strictEqual(refused.status, 400, query)
        refusedOf(refused)
      }
    })
  )

  it.live("of a server that is not ours is refused before pg_dump is started", () =>
    Effect.gen(function* () {
      const started = path.join(yield* temporaryFolder, "started")
      const { guard, port } = yield* opened(yield* fakePgDump(`: > ${started}; echo '-- a dump'`))
      assert.strictEqual((yield* ask(port, "GET", "/database_schema?database=postgres", ours)).status, 200)
      assert.isTrue(fs.existsSync(started))
      fs.rmSync(started)
      yield* guard(refuseEverySession)
      const refused = yield* ask(port, "GET", "/database_schema?database=postgres", ours)
      assert.strictEqual(refused.status, 500)
      assert.match(refusedOf(refused).error, /refused to use .* own Postgres is not running/)
      assert.isFalse(fs.existsSync(started))
    })
  )

  it.live("without a pg_dump the answer is 503", () =>
    Effect.gen(function* () {
      const { port } = yield* opened(null)
      const refused = yield* ask(port, "GET", "/database_schema?database=postgres", ours)
      assert.deepStrictEqual([refused.status, refusedOf(refused).code], [503, "pg_dump_missing"])
    })
  )

  it.live("a dump that fails before its first byte is 500 with its error output; one that fails later breaks off", () =>
    Effect.gen(function* () {
      const early = yield* opened(yield* fakePgDump("echo 'pg_dump: error: no rights' >&2; exit 1"))
      const refused = yield* ask(early.port, "GET", "/database_schema?database=postgres", ours)
      assert.strictEqual(refused.status, 500)
      assert.include(refusedOf(refused).error, "no rights")
      const late = yield* opened(yield* fakePgDump("echo '-- half'; exit 1"))
      const broken = yield* Effect.promise(async () => {
        const response = await fetch(`http://127.0.0.1:${late.port}/database_schema?database=postgres`, ours)
        return response.text().then(
          () => "whole",
          () => "broken off"
        )
      })
      assert.strictEqual(broken, "broken off")
    })
  )

  it.live(
    "a caller that goes away ends the dump",
    () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder
        const pidFile = path.join(folder, "pid")
        const { port } = yield* opened(
          yield* fakePgDump(`echo $$ > ${pidFile}.new; mv ${pidFile}.new ${pidFile}; while :; do echo '-- more'; done`)
        )
        yield* Effect.callback<void>((resume) => {
          const socket = connect(port, "127.0.0.1")
          socket.write(
            "GET /database_schema?database=postgres HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ours\r\n\r\n"
          )
          socket
            .once("data", () => socket.destroy())
            .on("error", () => undefined)
            .on("close", () => resume(Effect.void))
        })
        const pid = fs.readFileSync(pidFile, "utf8").trim()
        const left = Effect.suspend(() => (fs.existsSync(`/proc/${pid}`) ? Effect.fail("still there") : Effect.void))
        yield* left.pipe(Effect.retry({ times: 1_000_000 }), Effect.timeout("15 seconds"))
      }),
    30_000
  )
})

describe("verifiers and installed extensions", () => {
  it.live("verifiers are for an administrator who asks, in either version of the API, and for nobody else", () =>
    Effect.gen(function* () {
      const { port: head, port2024, postgres } = yield* opened(null)
      yield* postgres.rows("create role web login password 'secret'")
      for (const port of [head, port2024]) {
        const refused = yield* ask(port, "GET", "/dbs_and_roles?passwords=true", ours)
        assert.deepStrictEqual([refused.status, refusedOf(refused).code], [403, "admin_only"])
        assert.notInclude((yield* ask(port, "GET", "/dbs_and_roles", admin)).text, "SCRAM")
        const { roles } = JSON.parse((yield* ask(port, "GET", "/dbs_and_roles?passwords=true", admin)).text)
        assert.match(roles.find(({ name }: { name: string }) => name === "web").encrypted_password, /^SCRAM-SHA-256\$/)
      }
    })
  )

  it.live("extensions of all databases, with how many have them", () =>
    Effect.gen(function* () {
      const { port, postgres } = yield* opened(null)
      yield* postgres.rows("create database app")
      const answer = yield* ask(port, "GET", "/installed_extensions", ours)
      assert.strictEqual(answer.status, 200, answer.text)
      // template1, postgres and app.
      assert.deepStrictEqual(JSON.parse(answer.text), {
        extensions: [{ extname: "plpgsql", versions: ["1.0"], n_databases: 3, owned_by_superuser: true }]
      })
      assert.strictEqual((yield* ask(port, "GET", "/hadron_liveness_probe", ours)).text, '"ok"')
      assert.deepInclude(JSON.parse((yield* ask(port, "GET", "/info", ours)).text), {
        version: "test",
        api_dialect: "head",
        pg_dump: false
      })
    })
  )
})
