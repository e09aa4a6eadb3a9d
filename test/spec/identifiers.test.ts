/**
 * LSNs and ids: printing and parsing belong together.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import {
  parseLsn,
  parseTenantId,
  parseTimelineId,
  printLsn,
  printShardIndex,
  printTenantShard
} from "../../src/spec/identifiers.ts"

const half = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffff_ffff })))
const hex = Arbitrary.schema(Schema.String.check(Schema.isPattern(/^[0-9A-Fa-f]{32}$/)))

describe("Lsn", () => {
  it.prop("survives print and parse, in either case and padded", [half, half], ([high, low]) => {
    const lsn = (BigInt(high) << 32n) | BigInt(low)
    const text = printLsn(lsn)
    assert.match(text, /^(0|[1-9A-F][0-9A-F]{0,7})\/(0|[1-9A-F][0-9A-F]{0,7})$/)
    const padded = text
      .split("/")
      .map((part) => part.padStart(8, "0"))
      .join("/")
    for (const spelling of [text, text.toLowerCase(), `  ${text}\n`, padded]) {
      assert.deepStrictEqual(parseLsn(spelling), Option.some(lsn))
    }
  })

  for (const text of ["", "/", "0", "0/", "/0", "0/0/0", "g/0", "0/123456789", "-1/0", "0 /0", "0x1/0"]) {
    it(`refuses ${JSON.stringify(text)}`, () => assert.isTrue(Option.isNone(parseLsn(text))))
  }
})

describe("ids", () => {
  it.prop("fold to lower case", [hex], ([text]) => {
    assert.strictEqual(String(Option.getOrThrow(parseTenantId(text))), text.toLowerCase())
    assert.deepStrictEqual(parseTimelineId(text), parseTimelineId(text.toUpperCase()))
  })

  for (const text of [
    "",
    "0".repeat(31),
    "0".repeat(33),
    `${"0".repeat(31)}g`,
    ` ${"0".repeat(31)}`,
    `${"0".repeat(32)}\n`
  ]) {
    it(`refuses ${JSON.stringify(text)}`, () => assert.isTrue(Option.isNone(parseTenantId(text))))
  }

  it("print shards as two hex digits each", () => {
    const tenant = Option.getOrThrow(parseTenantId("A".repeat(32)))
    assert.strictEqual(printShardIndex(11, 16), "0b10")
    assert.strictEqual(printTenantShard(tenant, 0, 0), "a".repeat(32))
    assert.strictEqual(printTenantShard(tenant, 1, 2), `${"a".repeat(32)}-0102`)
  })
})
