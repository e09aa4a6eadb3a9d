/**
 * The SQL of HTTP routes as text: nothing that a caller names gets out of its quotes.
 */
import { assert, describe, it } from "@effect/vitest"
import { grant, installedVersion, installExtension } from "../../src/http/adminSql.ts"

describe("extensions", () => {
  it("that are there in that version are left alone", () =>
    assert.deepStrictEqual(installExtension("e", "1.0", "1.0"), []))

  it("that are there in another are brought to it", () => {
    assert.deepStrictEqual(installExtension('we"ird', "1.1", "1.0"), ['ALTER EXTENSION "we""ird" UPDATE TO \'1.1\''])
  })

  it("that are absent are created in public, or else where they insist to be", () => {
    assert.deepStrictEqual(installExtension("e", "1.1", null), [
      "CREATE EXTENSION IF NOT EXISTS \"e\" WITH SCHEMA public VERSION '1.1'",
      "CREATE EXTENSION IF NOT EXISTS \"e\" VERSION '1.1'"
    ])
  })

  it("are looked up by literal", () => assert.include(installedVersion("o'x"), "'o''x'"))
})

describe("grants", () => {
  it("only what is missing, once", () => {
    assert.strictEqual(
      grant('s"s', "r", ["USAGE", "CREATE", "USAGE"], new Set(["CREATE"])),
      'GRANT USAGE ON SCHEMA "s""s" TO "r"'
    )
    assert.isNull(grant("s", "r", ["USAGE"], new Set(["USAGE"])))
    assert.isNull(grant("s", "r", [], new Set()))
  })
})
