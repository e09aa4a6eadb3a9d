/**
 * The JSON scanner compared with `JSON.parse`: the same values, and what that one does not say.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { parseJson } from "../../src/spec/json.ts"
import { printPath } from "../../src/spec/problems.ts"

const accepts = (text: string): boolean => {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

describe("parseJson", () => {
  it.prop("reads what JSON.stringify wrote, and finds no key twice", [Schema.Json], ([value]) => {
    const text = JSON.stringify(value, null, 1)
    const document = Result.getOrThrow(parseJson(text))
    assert.deepStrictEqual(document.value, JSON.parse(text))
    assert.deepStrictEqual(document.duplicates, { paths: [], more: 0 })
  })

  it.prop(
    "agrees with JSON.parse about damaged text",
    [Schema.Json, Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 400 }))), Schema.String],
    ([value, at, insert]) => {
      const text = JSON.stringify(value)
      for (const damaged of [text.slice(0, at), text.slice(0, at) + insert + text.slice(at), text.slice(at)]) {
        assert.strictEqual(Result.isSuccess(parseJson(damaged)), accepts(damaged), damaged)
      }
    }
  )

  const faults: ReadonlyArray<readonly [text: string, line: number, column: number, message: string]> = [
    ["", 1, 1, "expected a JSON value"],
    ['{"a": 1', 1, 8, 'expected "," or "}"'],
    ['{\n  "a" 1}', 2, 7, 'expected ":"'],
    ["{\n  'a': 1}", 2, 3, "expected a key in double quotes"],
    ['{"a":1,}', 1, 8, "expected a key in double quotes"],
    ["[1,]", 1, 4, "expected a JSON value"],
    ["[1 2]", 1, 4, 'expected "," or "]"'],
    ["{} {}", 1, 4, "expected nothing after the JSON value"],
    ['["a\nb"]', 1, 4, "expected no control character in a string"],
    ['["a\\x"]', 1, 4, "expected a JSON escape"],
    ['["a', 1, 4, "expected the end of the string"],
    ["\ufeff{}", 1, 1, "expected a JSON value"],
    ["[NaN]", 1, 2, "expected a JSON value"],
    ["[01]", 1, 3, 'expected "," or "]"']
  ]
  for (const [text, line, column, message] of faults) {
    it(`says where ${JSON.stringify(text)} stops being JSON`, () => {
      assert.deepStrictEqual(Result.getOrThrow(Result.flip(parseJson(text))), { line, column, message })
    })
  }

  it("never repeats a value", () => {
    const fault = Result.getOrThrow(Result.flip(parseJson('{"password": "hunter2" "x": 1}')))
    assert.notInclude(fault.message, "hunter2")
  })

  it("finds keys that occur twice, at every level, and spelled with escapes", () => {
    const text = '{"a":{"b":1,"b":2},"c":[{"d d":1,"d\\u0020d":[]}],"a":3}'
    const { duplicates } = Result.getOrThrow(parseJson(text))
    assert.deepStrictEqual(duplicates.paths.map(printPath), ["a.b", 'c[0]["d d"]', "a"])
  })

  it("refuses nesting that would exhaust the stack", () => {
    const { message } = Result.getOrThrow(Result.flip(parseJson("[".repeat(1_000_000))))
    assert.strictEqual(message, "expected at most 128 levels of nesting")
    assert.isTrue(Result.isSuccess(parseJson("[".repeat(128) + "]".repeat(128))))
  })

  it("takes a string of many megabytes", () => {
    const value = 'x"\\é'.repeat(1_000_000)
    assert.strictEqual(Result.getOrThrow(parseJson(JSON.stringify(value))).value, value)
  })
})
