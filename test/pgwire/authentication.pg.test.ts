/**
 * Every way to log in that a real Postgres offers, with the right and the wrong password, over TCP and a unix socket.
 */
import { assert, describe, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as fs from "node:fs"
import * as path from "node:path"
import { quoteIdentifier, quoteLiteral } from "../../src/pgwire/quote.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import { installs, startPostgres, superuser, temporaryFolder, type TestPostgres } from "../support/postgres.ts"

const password = "pen\"c'il\\ 🐘 %"

/** Name of the role, `password_encryption` of its password, and the method of its line in pg_hba.conf. */
const roles: ReadonlyArray<readonly [name: string, encryption: "md5" | "scram-sha-256", method: string]> = [
  ["clear over md5", "md5", "password"],
  ["clear over scram", "scram-sha-256", "password"],
  ["md5", "md5", "md5"],
  ["ünï 🐘", "md5", "md5"],
  ["scram over md5", "scram-sha-256", "md5"],
  ["scram", "scram-sha-256", "scram-sha-256"]
]

const hba = ["local", "host"].flatMap((kind) => {
  const who = kind === "host" ? "127.0.0.1/32" : ""
  return [
    `${kind} all ${superuser} ${who} trust`,
    `${kind} all rejected ${who} reject`,
    ...roles.map(([name, , method]) => `${kind} all "${name}" ${who} ${method}`)
  ]
})

class Server extends Context.Service<Server, TestPostgres>()("test/Server") {
  static readonly layer = (major: number) =>
    Layer.effect(
      Server,
      Effect.gen(function* () {
        const file = path.join(yield* temporaryFolder, "pg_hba.conf")
        fs.writeFileSync(file, `${hba.join("\n")}\n`)
        const postgres = yield* startPostgres({ major, settings: { hba_file: `'${file}'` } })
        yield* Effect.scoped(
          Effect.gen(function* () {
            const wire = yield* postgres.connect()
            for (const [name, encryption] of roles) {
              yield* wire.simple(`set password_encryption = '${encryption}'`)
              yield* wire.simple(`create role ${quoteIdentifier(name)} login password ${quoteLiteral(password)}`)
            }
            yield* wire.simple("create role rejected login")
          })
        )
        return postgres
      })
    )
}

const logIn = Effect.fnUntraced(function* (user: string, secret: string | null, overSocket = false) {
  const postgres = yield* Server
  const config = postgres.config(user)
  const wire = yield* connect({
    ...config,
    host: overSocket ? postgres.sockets : config.host,
    ...(secret === null ? {} : { password: Redacted.make(secret) })
  })
  return yield* wire.rows("select current_user")
}, Effect.scoped)

for (const { major } of installs.filter(({ embedded }) => embedded)) {
  layer(Server.layer(major), { excludeTestServices: true })(`Postgres ${major}`, (it) => {
    describe("a log-in", () => {
      for (const overSocket of [false, true]) {
        const where = overSocket ? "a unix socket" : "TCP"
        it.effect(`of somebody trusted asks for no password (${where})`, () =>
          Effect.gen(function* () {
            assert.deepStrictEqual(yield* logIn(superuser, null, overSocket), [[superuser]])
          })
        )

        for (const [name, encryption, method] of roles) {
          it.effect(`of ${name}, whose ${encryption} verifier meets ${method}, wants the password (${where})`, () =>
            Effect.gen(function* () {
              assert.deepStrictEqual(yield* logIn(name, password, overSocket), [[name]])
              const empty =
                method === "password" ? "empty password returned by client" : "password authentication failed"
              for (const [wrong, why] of [
                ["pencil", "password authentication failed"],
                [null, empty]
              ] as const) {
                const { message } = yield* Effect.flip(logIn(name, wrong, overSocket))
                assert.include(message, why)
                assert.include(message, "(SQLSTATE 28P01)")
              }
            })
          )
        }

        it.effect(`of somebody rejected fails in Postgres's words (${where})`, () =>
          Effect.gen(function* () {
            const { message } = yield* Effect.flip(logIn("rejected", password, overSocket))
            assert.match(message, /^log in to .*: pg_hba\.conf rejects connection .* \(SQLSTATE 28000\)$/)
          })
        )
      }
    })
  })
}
