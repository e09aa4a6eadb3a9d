/**
 * The API of a whole process with two ports and tokens, over a real Postgres: watched, kept awake, its keys rotated by
 * a file, its spec refreshed and sent without waiting, and not one token in its log.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import * as path from "node:path"
import { connect } from "../../src/pgwire/Wire.ts"
import { edSigner, tokenOf } from "../http/tokens.ts"
import { freePort } from "../support/postgres.ts"
import { eventually, launch, place, rows, runAsArguments } from "./harness.ts"

const pair = () => {
  const signer = edSigner()
  return {
    jwk: { ...signer.jwk, use: "sig", alg: "EdDSA" },
    token: tokenOf(signer, { compute_id: "compute-1" })
  }
}

const spec = (...roles: ReadonlyArray<string>) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: { roles: roles.map((name) => ({ name })), databases: [{ name: "app", owner: "web" }] }
})

describe("the API of the program", () => {
  it.live(
    "from the first watch to the end",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const internal = yield* freePort
          const [old, next] = [pair(), pair()]
          const file = path.join(at.directory, "config.json")
          const write = (keys: ReadonlyArray<unknown>, what: unknown) => {
            fs.writeFileSync(`${file}.new`, JSON.stringify({ spec: what, compute_ctl_config: { jwks: { keys } } }))
            fs.renameSync(`${file}.new`, file)
          }
          write([old.jwk], spec("web"))
          const program = yield* launch(
            [
              "--storage",
              `local:${at.directory}/storage`,
              "-D",
              `${at.directory}/pgdata`,
              "-c",
              file,
              "-i",
              "compute-1",
              "-C",
              `postgresql://cloud_admin@127.0.0.1:${at.port}/postgres`,
              "--external-http-port",
              String(at.httpPort),
              "--internal-http-port",
              String(internal),
              "--log-level",
              "trace",
              ...runAsArguments
            ],
            at.httpPort
          )
          let token = old.token
          const ask = (route: string, init: RequestInit = {}) =>
            program.http(route, {
              ...init,
              headers: { "content-type": "application/json", authorization: `Bearer ${token}`, ...init.headers }
            })

          yield* eventually(
            "the port",
            () => program.http("/livez").then(({ status }) => status),
            (status) => status === 200
          )
          assert.strictEqual((yield* Effect.promise(() => program.http("/status"))).status, 400)
          const running = yield* Effect.promise(() => ask("/status?wait_for=running,failed&timeout=60s"))
          assert.include(running.text, '"running"', running.text)
          const changes = JSON.parse((yield* Effect.promise(() => ask("/history"))).text).changes.map(
            ({ to }: { to: string }) => to
          )
          assert.deepStrictEqual(changes, ["init", "running"])

          // Our own sessions never count: the monitor's, and this superuser's.
          // Migrations, in the background, may be changing the same role.
          yield* Effect.retry(rows(at, "alter role web password 'sesame'"), {
            while: (failure) => failure._tag === "WireFailed" && failure.sqlState === "XX000",
            times: 20
          })
          const idle = yield* eventually(
            "the monitor",
            () => ask("/activity").then(({ text }) => JSON.parse(text)),
            ({ looked_at }) => looked_at !== null
          )
          assert.deepStrictEqual(
            [idle.awake_because, idle.kinds.client.sessions, idle.kinds.client.last_active],
            [[], 0, null]
          )
          yield* Effect.scoped(
            Effect.gen(function* () {
              const wire = yield* connect({
                host: "127.0.0.1",
                port: at.port,
                user: "web",
                password: Redacted.make("sesame"),
                database: "app",
                connectWithin: Duration.seconds(10)
              })
              yield* wire.simple("begin")
              const busy = yield* eventually(
                "a tenant",
                () => ask("/activity").then(({ text }) => JSON.parse(text)),
                ({ kinds }) => kinds.client.sessions === 1
              )
              assert.deepStrictEqual(busy.awake_because, ["1 client session is busy or inside a transaction"])
              assert.isNotNull(busy.last_active)
            })
          )

          // Keys, by the file.
          write([old.jwk, next.jwk], spec("web"))
          yield* eventually(
            "the next key",
            () => program.http("/status", { headers: { authorization: `Bearer ${next.token}` } }),
            ({ status }) => status === 200
          )
          token = next.token

          // The spec, from the file, when somebody on the internal port asks for it.
          write([next.jwk], spec("web", "refreshed"))
          const refreshed = yield* Effect.promise(() =>
            fetch(`http://127.0.0.1:${internal}/refresh_configuration`, { method: "POST" })
          )
          assert.strictEqual(refreshed.status, 200)
          yield* eventually(
            "the history",
            () => ask("/history").then(({ text }) => JSON.parse(text).changes.map(({ to }: { to: string }) => to)),
            (ways) => ways.includes("refresh_configuration") && ways.at(-1) === "running"
          )
          assert.deepStrictEqual(yield* rows(at, "select count(*) from pg_roles where rolname = 'refreshed'"), [["1"]])
          assert.strictEqual(
            (yield* Effect.promise(() =>
              program.http("/status", { headers: { authorization: `Bearer ${old.token}` } })
            )).status,
            401
          )

          // A spec that nobody waits for.
          const accepted = yield* Effect.promise(() =>
            ask("/configure", {
              method: "POST",
              headers: { prefer: "respond-async" },
              body: JSON.stringify({ spec: spec("web", "refreshed", "sent") })
            })
          )
          assert.strictEqual(accepted.status, 202, accepted.text)
          const done = yield* Effect.promise(() => ask(`/operations/${JSON.parse(accepted.text).id}?timeout=60s`))
          assert.strictEqual(JSON.parse(done.text).state, "done", done.text)
          assert.deepStrictEqual(yield* rows(at, "select count(*) from pg_roles where rolname = 'sent'"), [["1"]])

          const ended = yield* Effect.promise(() => ask("/terminate?mode=immediate", { method: "POST" }))
          assert.strictEqual(ended.status, 200)
          // Local storage has no safekeepers to sync, so there is no LSN.
          assert.deepStrictEqual(JSON.parse(ended.text), { lsn: null })
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
          for (const secret of [old.token, next.token]) {
            for (const part of secret.split(".").slice(1)) assert.notInclude(program.output(), part)
          }
        })
      ),
    120_000
  )
})
