/**
 * Both spellings of a connection, as libpq reads them, and errors that keep the secret.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { inspect } from "node:util"
import { type ConnString, parseConnString } from "../../src/pgwire/ConnString.ts"

const blank = {
  host: "localhost",
  port: 5432,
  user: null,
  password: null,
  database: null,
  options: null,
  applicationName: null
}
const plain = (at: ConnString) => ({ ...at, password: at.password === null ? null : Redacted.value(at.password) })

const good: ReadonlyArray<readonly [text: string, expected: Partial<ReturnType<typeof plain>>]> = [
  ["postgresql://cloud_admin@localhost:55433/postgres", { user: "cloud_admin", port: 55433, database: "postgres" }],
  ["postgres://", {}],
  ["postgresql:///app", { database: "app" }],
  ["postgresql://u:p@h", { user: "u", password: "p", host: "h" }],
  ["postgresql://u:p@:6543/d", { user: "u", password: "p", port: 6543, database: "d" }],
  ["postgresql://u%40x:p%3A%2F%25@h/d%20d", { user: "u@x", password: "p:/%", host: "h", database: "d d" }],
  ["postgresql://u:p@ss@h", { user: "u", password: "p@ss", host: "h" }],
  ["postgresql://u:a:b@h", { user: "u", password: "a:b", host: "h" }],
  ["postgresql://[::1]:5433/d", { host: "::1", port: 5433, database: "d" }],
  ["postgresql://u@[fe80::1]", { user: "u", host: "fe80::1" }],
  ["postgresql://%2Fvar%2Frun:5433/d", { host: "/var/run", port: 5433, database: "d" }],
  ["postgresql:///d?host=/tmp/sock&port=5439", { host: "/tmp/sock", port: 5439, database: "d" }],
  ["postgresql://h/d?user=u&password=a+b%2Bc", { host: "h", database: "d", user: "u", password: "a+b+c" }],
  ["postgresql://h?host=other", { host: "other" }],
  [
    "postgresql://h/d?options=-c%20search_path%3D&application_name=x&sslmode=disable",
    {
      host: "h",
      database: "d",
      options: "-c search_path=",
      applicationName: "x"
    }
  ],
  ["host=pageserver port=6400", { host: "pageserver", port: 6400 }],
  ["  host = h   user='a b'  password='it\\'s \\\\' ", { host: "h", user: "a b", password: "it's \\" }],
  ["host=/tmp dbname=d password=a\\ b", { host: "/tmp", database: "d", password: "a b" }],
  ["password=it's host=h", { password: "it's", host: "h" }],
  ["hostaddr=10.0.0.1", { host: "10.0.0.1" }],
  ["host='' port='' user=u", { user: "u" }]
]

const bad: ReadonlyArray<readonly [text: string, why: RegExp]> = [
  ["", /^it is empty$/],
  ["hunter2", /neither/],
  ["host=h hunter2", /neither/],
  ["password='hunter2", /neither/],
  ["http://u:hunter2@h", /neither/],
  ["postgresql://u:hunter2@h:notaport/d", /not a postgresql/],
  ["postgresql://u:hunter2#x@h", /not a postgresql/],
  ["postgresql://u:hunter2/x@h", /not a postgresql|port/],
  ["postgresql://u:%zzhunter2@h", /percent escape/],
  ["postgresql://u:hunter2@h/d?password=%", /percent escape/],
  ["postgresql://u:hunter2%00@h", /NUL/],
  ["postgresql://u:hunter2@h:0", /port/],
  ["postgresql://u:hunter2@h:65536", /port/],
  ["postgresql://u:hunter2@h1,h2", /more than one host/],
  ["postgresql://h/d?hunter2", /parameter without a value/],
  ["host=h port=hunter2", /port/],
  [`host=${"x".repeat(9000)}`, /longer/]
]

describe("parseConnString", () => {
  for (const [text, expected] of good) {
    it(`reads ${text}`, () => {
      assert.deepStrictEqual(plain(Result.getOrThrow(parseConnString(text))), { ...blank, ...expected })
    })
  }

  for (const [text, why] of bad) {
    it(`refuses ${text.slice(0, 60)}`, () => {
      const message = Result.getOrThrow(Result.flip(parseConnString(text)))
      assert.match(message, why)
      assert.notInclude(message, "hunter2")
    })
  }

  it("takes the default port it is given", () => {
    assert.strictEqual(Result.getOrThrow(parseConnString("host=h", 6400)).port, 6400)
    assert.strictEqual(Result.getOrThrow(parseConnString("postgresql://h", 6400)).port, 6400)
  })

  it("does not print the password", () => {
    const at = Result.getOrThrow(parseConnString("postgresql://u:hunter2@h"))
    assert.notInclude(inspect(at, { depth: 9 }) + JSON.stringify(at), "hunter2")
  })

  const word = Arbitrary.schema(
    Schema.String.check(Schema.makeFilter((text: string) => text.isWellFormed() && !text.includes("\0")))
  )
  it.prop("reads back what was escaped, in both spellings", [word, word], ([user, password]) => {
    const url = `postgresql://${encodeURIComponent(user)}:${encodeURIComponent(password)}@h`
    const quote = (text: string) => `'${text.replace(/['\\]/g, "\\$&")}'`
    for (const text of [url, `host=h user=${quote(user)} password=${quote(password)}`]) {
      const at = plain(Result.getOrThrow(parseConnString(text)))
      assert.deepStrictEqual(at, { ...blank, host: "h", user: user || null, password: password || null })
    }
  })

  it.prop("answers any text", [Schema.String, Schema.String], ([text, more]) => {
    for (const one of [text, `postgresql://${text}`, `postgresql://${text}@${more}`, `host=${text} ${more}`])
      parseConnString(one)
  })
})
