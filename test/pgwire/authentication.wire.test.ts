/**
 * Logging in to servers that lie, want what this client does not speak, or never finish.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { createHash } from "node:crypto"
import { connect, type WireConfig } from "../../src/pgwire/Wire.ts"
import { error, loggedIn } from "../../src/testing/peers/serverWire.ts"
import { scram, type ScramLies } from "./scramServer.ts"
import { authentication, type Connection, notice, scriptedServer } from "./scriptedServer.ts"

const password = "pencil"
const refused = error("FATAL", "28P01", "password authentication failed")

const logIn = (script: (connection: Connection) => Promise<void>, config: Partial<WireConfig> = {}) =>
  Effect.scoped(
    Effect.gen(function* () {
      const server = yield* scriptedServer(script)
      const wire = yield* connect({ ...server, password: Redacted.make(password), ...config })
      return wire.backendPid
    })
  )

const logInError = (script: (connection: Connection) => Promise<void>, config: Partial<WireConfig> = {}) =>
  Effect.map(Effect.flip(logIn(script, config)), ({ message }) => {
    assert.notInclude(message, password)
    return message
  })

/** A server that lets everybody in whom its SCRAM lets in, and whatever comes of it. */
const scramServer = (lies: Partial<ScramLies>) => async (connection: Connection) => {
  await connection.read()
  const proven = await scram(connection, { password, ...lies })
  await connection.write(proven ? loggedIn : refused)
  await connection.read()
}

describe("SCRAM", () => {
  it.live("a server that knows the password is logged in to", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* logIn(scramServer({})), 1)
    })
  )

  it.live("a server that knows another password refuses, in its words and with its SQLSTATE", () =>
    Effect.gen(function* () {
      assert.match(
        yield* logInError(scramServer({ password: "another" })),
        /^log in to 127\.0\.0\.1:\d+: password authentication failed \(SQLSTATE 28P01\)$/
      )
    })
  )

  for (const [what, lies, why] of [
    ["signs with another key", { final: `v=${Buffer.alloc(32).toString("base64")}` }, /signature mismatch/],
    ["signs with half a signature", { final: "v=AAAA" }, /signature mismatch/],
    ["sends no signature", { final: "x=1" }, /Missing SCRAM attribute "v"/],
    ["says that the exchange failed", { final: "e=other-error" }, /authentication failed: other-error/],
    ["lets us in without a signature", { withoutFinal: true }, /did not prove that it knows the password/],
    ["answers with a nonce that is not ours", { nonce: "fyko+d2lbbFgONRv9qkxdawL" }, /does not extend/],
    ["wants a million and one iterations", { iterations: 1_000_001 }, /Invalid SCRAM iteration count/]
  ] as const) {
    it.live(`a server that ${what} is not logged in to`, () =>
      Effect.gen(function* () {
        assert.match(yield* logInError(scramServer(lies)), why)
      })
    )
  }

  for (const kind of [11, 12]) {
    it.live(`an exchange that was not begun is not gone on with (authentication request ${kind})`, () =>
      Effect.gen(function* () {
        const message = yield* logInError(async ({ read, write }) => {
          await read()
          await write(authentication(kind, Buffer.from("r=a,s=b,i=1")))
          await read()
        })
        assert.match(message, /an exchange that was not begun/)
      })
    )
  }
})

describe("the password in a message", () => {
  const asked = (...request: Parameters<typeof authentication>) =>
    Effect.gen(function* () {
      let answer = ""
      yield* logIn(async ({ read, write }) => {
        await read()
        await write(authentication(...request))
        answer = (await read())?.body.toString() ?? ""
        await write(loggedIn)
        await read()
      })
      return answer
    })

  it.live("is sent as it is when it is asked for in clear text", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* asked(3), `${password}\0`)
    })
  )

  it.live("is hashed with the user and the salt when MD5 is asked for", () =>
    Effect.gen(function* () {
      const salt = Buffer.from([1, 2, 0xfe, 0xff])
      const inner = createHash("md5").update(`${password}web`).digest("hex")
      const outer = createHash("md5").update(inner).update(salt).digest("hex")
      assert.strictEqual(yield* asked(5, salt), `md5${outer}\0`)
    })
  )
})

describe("a server that wants what this client does not speak", () => {
  for (const [what, request] of [
    ["Kerberos V5", authentication(2)],
    ["GSSAPI", authentication(7)],
    ["SSPI", authentication(9)],
    ["SASL without SCRAM-SHA-256", authentication(10, Buffer.from("OAUTHBEARER\0SCRAM-SHA-256-PLUS\0\0"))]
  ] as const) {
    it.live(`is refused: ${what}`, () =>
      Effect.gen(function* () {
        const message = yield* logInError(async ({ read, write }) => {
          await read()
          await write(request)
          assert.isNull(await read(), "nothing is answered, least of all a password")
        })
        assert.match(message, /a kind of authentication this client does not speak/)
      })
    )
  }
})

describe("a log-in that does not end", () => {
  it.live("fails when its time is over", () =>
    Effect.gen(function* () {
      const message = yield* logInError(
        async ({ read, write }) => {
          await read()
          await write(authentication(0))
          await read()
        },
        { connectWithin: Duration.millis(50) }
      )
      assert.match(message, /^connect to 127\.0\.0\.1:\d+: no answer within 50 ms$/)
    })
  )

  it.live("fails when the server closes, with what the server said last", () =>
    Effect.gen(function* () {
      assert.match(
        yield* logInError(async ({ end, read }) => {
          await read()
          end()
        }),
        /: the server closed the connection$/
      )
      assert.match(
        yield* logInError(async ({ end, read, write }) => {
          await read()
          await write(error("FATAL", "57P03", "the database system is starting up"))
          end()
        }),
        /^log in to .*: the database system is starting up \(SQLSTATE 57P03\)$/
      )
    })
  )

  it.live("fails when the server does not speak the protocol", () =>
    Effect.gen(function* () {
      const message = yield* logInError(async ({ read, write }) => {
        await read()
        await write(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"))
        await read()
      })
      assert.match(message, /: the server broke the protocol$/)
    })
  )
})

describe("start-up", () => {
  it.live("sends user, database, application name, options and UTF8, and takes notices for what they are", () =>
    Effect.gen(function* () {
      let startup = ""
      yield* logIn(
        async ({ read, write }) => {
          startup = (await read())?.body.toString("utf8", 4) ?? ""
          await write(notice("hello"), loggedIn, notice("there"))
          await read()
        },
        { database: "d", applicationName: "compute_ctl:apply_config", options: "-c search_path=" }
      )
      assert.strictEqual(
        startup.replaceAll("\0", "|"),
        "user|web|database|d|application_name|compute_ctl:apply_config|options|-c search_path=|client_encoding|UTF8||"
      )
    })
  )
})
