import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { parseHostPort, parseServerAddress, printHostPort } from "../../src/pgwire/address.ts"

describe("host:port", () => {
  const good: ReadonlyArray<readonly [string, string, number]> = [
    ["pageserver:6400", "pageserver", 6400],
    ["safekeeper-1.region.internal:5454", "safekeeper-1.region.internal", 5454],
    ["10.0.0.1:1", "10.0.0.1", 1],
    ["[::1]:65535", "::1", 65535],
    ["[fe80::1%eth0]:10301", "fe80::1%eth0", 10301],
    ["[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80]
  ]
  for (const [text, host, port] of good) {
    it(`${text} is read`, () => {
      assert.deepStrictEqual(parseHostPort(text), Result.succeed({ host, port }))
      assert.strictEqual(printHostPort({ host, port }), text)
    })
  }

  for (const text of [
    "",
    "host",
    "host:",
    ":5432",
    "::1:5432",
    "[]:5432",
    "[::1]",
    "[host]:5432",
    "host:54a",
    "host:123456",
    "a b:5432",
    "a,b:5432",
    "user@host:5432",
    "http://host:80",
    "host:5432/x",
    "host:5432\n"
  ]) {
    it(`${JSON.stringify(text)} is refused`, () => {
      assert.deepStrictEqual(parseHostPort(text), Result.fail("it is not host:port"))
    })
  }

  it("of a server is a name of DNS or an address, and a port", () => {
    const read = (text: string) => Result.getOrNull(parseServerAddress(text))
    assert.deepStrictEqual(read("logs.example.com:514"), { host: "logs.example.com", port: 514 })
    assert.deepStrictEqual(read(" logs.example.com.:1 "), { host: "logs.example.com.", port: 1 })
    assert.deepStrictEqual(read("10.0.0.1:65535"), { host: "10.0.0.1", port: 65535 })
    assert.deepStrictEqual(read("[fe80::1]:1"), { host: "fe80::1", port: 1 })
    for (const text of [
      "",
      "host",
      "host:",
      ":1",
      "host:0",
      "host:01",
      "host:65536",
      "a:b:1",
      "fe80::1:1",
      "[host]:1",
      "[1234]:1",
      "a b:1",
      'a":1',
      "-a:1",
      "h:1x",
      `${"a".repeat(64)}:1`,
      `h:1${" ".repeat(300)}`
    ]) {
      assert.isNull(read(text), text)
    }
  })

  it("a port is at most 65535, and 0 only where one listens", () => {
    assert.deepStrictEqual(parseHostPort("h:0"), Result.fail("its port is not between 1 and 65535"))
    assert.deepStrictEqual(parseHostPort("h:65536", 0), Result.fail("its port is not between 0 and 65535"))
    assert.deepStrictEqual(parseHostPort("h:0", 0), Result.succeed({ host: "h", port: 0 }))
  })
})
