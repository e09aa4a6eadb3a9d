/**
 * Text that becomes SQL: nothing in it can be read as anything else (a small lexer of Postgres's rules reads it back).
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { renderRoleOption } from "../../src/catalog/options.ts"
import { databaseOptionsText } from "../../src/catalog/planDatabases.ts"
import { roleOptionsText } from "../../src/catalog/planRoles.ts"
import { doBlock, quoteDollar, quoteIdentifier, quoteLiteral } from "../../src/pgwire/quote.ts"
import { readDatabaseOption } from "../../src/spec/clusterOptions.ts"
import { faultOfName } from "../../src/spec/names.ts"

const hostile = Schema.Array(
  Schema.Literals(['"', "'", "\\", "$", "x", "xx$", "%", "\n", ";", "--", "/*", "a", "é", "日", "🐘", " ", "E'"])
)
const runs = { arbitrary: { runs: 500 } }

const readIdentifier = (text: string): string => {
  assert.match(text, /^"([^"]|"")*"$/)
  return text.slice(1, -1).replaceAll('""', '"')
}

/** As Postgres's lexer does, in either setting of standard_conforming_strings. */
const readLiteral = (text: string): string => {
  const escaped = text.startsWith("E")
  const inner = text.slice(escaped ? 2 : 1, -1)
  if (!escaped) assert.notInclude(inner, "\\")
  assert.match(inner, escaped ? /^([^'\\]|''|\\[\s\S])*$/ : /^([^']|'')*$/)
  return inner.replace(/''|\\([\s\S])/g, (whole, one: string | undefined) => one ?? whole.slice(1))
}

describe("quoting", () => {
  it.prop(
    "identifiers and literals read back as what they were",
    { parts: hostile },
    ({ parts }) => {
      const text = parts.join("")
      assert.strictEqual(readIdentifier(quoteIdentifier(text)), text)
      assert.strictEqual(readLiteral(quoteLiteral(text)), text)
    },
    runs
  )

  it.prop(
    "a dollar-quoted value ends where it ends, also inside another",
    { parts: hostile },
    ({ parts }) => {
      const value = parts.join("")
      const { outer, text } = quoteDollar(value)
      const tag = text.slice(0, text.indexOf("$", 1) + 1)
      assert.strictEqual(text.indexOf(tag, 1), text.length - tag.length)
      assert.notInclude(text, `$${outer}$`)
      const block = doBlock(text)
      const around = /\$x+\$/.exec(block)?.[0] ?? assert.fail("no tag")
      assert.strictEqual(block.split(around).length, 3)
    },
    runs
  )

  it("a dollar tag grows until it does not occur in the value", () => {
    assert.deepStrictEqual(quoteDollar("name"), { text: "$x$name$x$", outer: "xx" })
    assert.deepStrictEqual(quoteDollar("x"), { text: "$xx$x$xx$", outer: "xxx" })
    assert.deepStrictEqual(quoteDollar("xx$"), { text: "$xxx$xx$$xxx$", outer: "xxxx" })
  })

  it("options of roles and databases are the text that compute_ctl sends", () => {
    const md5 = `md5${"0b".repeat(16)}`
    assert.strictEqual(
      roleOptionsText({
        name: "r",
        password: { _tag: "Verifier", verifier: Redacted.make(md5) },
        privileged: null,
        options: []
      }),
      ` LOGIN PASSWORD '${md5}'`
    )
    const option = (name: string, value: string, quoted: boolean) => ({ name, value, quoted })
    assert.strictEqual(
      databaseOptionsText({
        name: "d",
        owner: "alexk",
        options: [
          option("LC_COLLATE", "C", true),
          option("LC_CTYPE", "C", true),
          option("TEMPLATE", "template0", false)
        ]
      }),
      "LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0 OWNER \"alexk\""
    )
    assert.strictEqual(quoteLiteral("test\\'"), "E'test\\\\'''")
  })

  it("NUL and lone surrogates are refused, names longer than 63 bytes too", () => {
    for (const text of ["a\0b", "\ud800"])
      for (const quote of [quoteIdentifier, quoteLiteral]) assert.throws(() => quote(text), RangeError)
    assert.isNull(faultOfName("é".repeat(31)))
    assert.include(faultOfName("é".repeat(32)) ?? "", "at most 63 bytes")
  })

  it("options that are more than one word are refused", () => {
    const bare = (name: string, value: string | null) => readDatabaseOption({ name, value, quoted: false }).fault
    for (const value of ["template0", "-1", '"my template"', "'C'", "en_US.UTF-8"])
      assert.isNull(bare("TEMPLATE", value))
    for (const value of ["a b", "a;", "'a' b", "a--b", '"a"b', "'a\\'"])
      assert.isNotNull(bare("TEMPLATE", value), value)
    for (const name of ["A;B", "", "a-b", "A\nB"]) assert.isNotNull(bare(name, null), name)
    assert.strictEqual(renderRoleOption({ _tag: "ValidUntil", until: "it's" }), "VALID UNTIL 'it''s'")
  })
})
