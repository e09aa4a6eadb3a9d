/**
 * What a person is shown once Postgres runs: URLs that work, and a password on a terminal only.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { banner, type BannerFacts, readyLine } from "../../src/cli/banner.ts"
import { parseConnString } from "../../src/pgwire/ConnString.ts"

const login = { role: "al'ice", database: "the app", password: Redacted.make("se'cret"), file: "/a b/pgpass" }
const facts: BannerFacts = {
  at: {
    host: "127.0.0.1",
    port: 55432,
    user: "cloud_admin",
    password: null,
    database: "postgres",
    options: null,
    applicationName: null
  },
  sockets: "/data/it's here",
  login,
  httpHost: "::",
  httpPort: 3080
}

/** The shell's word after `psql`. */
const urls = (text: string): ReadonlyArray<string> => [...text.matchAll(/psql '([^']*)'/g)].map(([, url]) => url ?? "")

const read = (url: string | undefined) => {
  const { database, host, password, port, user } = Result.getOrThrow(parseConnString(url ?? ""))
  return [host, port, user, password === null ? null : Redacted.value(password), database]
}

describe("the banner", () => {
  it("shows the password on a terminal, in a URL that a shell takes as it is", () => {
    const [user, superuser, ...more] = urls(banner(facts))
    assert.deepStrictEqual(read(user), ["127.0.0.1", 55432, "al'ice", "se'cret", "the app"])
    assert.deepStrictEqual(read(superuser), ["/data/it's here", 55432, "cloud_admin", null, "postgres"])
    assert.deepStrictEqual(more, [])
  })

  it("is a line of the log elsewhere, which names the password file and never holds the password", () => {
    const text = readyLine(facts)
    assert.notInclude(text, "\n")
    assert.match(text, /; the status is at http:\/\/127\.0\.0\.1:3080\/status$/)
    assert.notMatch(decodeURIComponent(text), /se'cret/)
    const [user, superuser] = urls(text)
    assert.deepStrictEqual(read(user), ["127.0.0.1", 55432, "al'ice", null, "the app"])
    assert.include(user, "?passfile=/a%20b/pgpass")
    for (const url of [user, superuser]) assert.doesNotThrow(() => new URL(url ?? ""))
    assert.deepStrictEqual(urls(readyLine({ ...facts, login: null })), [superuser ?? ""])
  })

  it("shows the superuser's socket where no role has a password of our making", () => {
    assert.deepStrictEqual(urls(banner({ ...facts, login: null, sockets: "/data" })), [
      "postgresql:///postgres?host=/data&port=55432&user=cloud_admin"
    ])
  })

  it("shows where Neon's Postgres listens, whose superuser logs in there", () => {
    assert.deepStrictEqual(urls(banner({ ...facts, login: null, sockets: null })), [
      "postgresql://cloud_admin@127.0.0.1:55432/postgres"
    ])
  })

  it("shows a role where -C says a socket", () => {
    const text = banner({ ...facts, at: { ...facts.at, host: "/run/postgresql" } })
    assert.deepStrictEqual(read(urls(text)[0]), ["/run/postgresql", 55432, "al'ice", "se'cret", "the app"])
  })
})
