/**
 * Every failure has a meaning, and every chain of causes can be told.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { ApplyFailed, BasebackupFailed, Failure, PostgresUnusable, TimedOut } from "../../src/errors/Failure.ts"
import { causesOf, explain, hintOf, policyOf, errorPolicies } from "../../src/errors/policy.ts"

const tags = Failure.members.map((member) => member.fields._tag.schema.literal)

describe("the verdict", () => {
  it("has one row per failure and none besides", () => {
    assert.deepStrictEqual(Object.keys(errorPolicies).sort(), [...tags].sort())
  })

  it.each(Object.entries(errorPolicies))("of %s is whole", (_tag, meaning) => {
    assert.include(["retry", "report", "exit"], meaning.verdict)
    assert.match(meaning.code, /^[a-z][a-z_]+$/)
    assert.isTrue(meaning.httpStatus >= 400 && meaning.httpStatus <= 504)
    assert.match(meaning.hint, /^[^\n]{10,120}$/)
    assert.notMatch(meaning.hint, /\.$/)
  })

  it("gives each failure a code of its own", () => {
    const codes = Object.values(errorPolicies).map(({ code }) => code)
    assert.strictEqual(new Set(codes).size, codes.length)
  })

  it.prop(
    "explains any failure in one chain without repeating itself",
    { failure: Schema.toType(Failure) },
    ({ failure }) => {
      assert.strictEqual(policyOf(failure), errorPolicies[failure._tag])
      const told = causesOf(failure)
      const sentence = failure.message === "" ? failure.name : failure.message
      assert.strictEqual(told[0], sentence)
      assert.isAtMost(told.length, 12)
      for (let at = 1; at < told.length; at++) assert.notStrictEqual(told[at], told[at - 1])
      assert.isTrue(explain(failure).startsWith(sentence))
      assert.isNotEmpty(hintOf(failure))
    }
  )
})

describe("explain", () => {
  it("tells from the outermost sentence to the root", () => {
    const root = new Error("connection refused")
    const slow = new TimedOut({ what: "the pageserver", millis: 10 })
    const failure = new BasebackupFailed({ lsn: "0/1", attempts: 3, cause: new Error("attempt 3", { cause: root }) })
    assert.strictEqual(explain(failure), "failed to get basebackup@0/1 (3 attempts): attempt 3: connection refused")
    assert.strictEqual(
      explain(new BasebackupFailed({ lsn: "0/1", attempts: 1, cause: slow })),
      "failed to get basebackup@0/1 (1 attempts): timed out after 10 ms: the pageserver"
    )
  })

  it("tells a repeated sentence once", () => {
    assert.deepStrictEqual(causesOf(new Error("a", { cause: new Error("a", { cause: new Error("b") }) })), ["a", "b"])
  })

  it("ends although the causes go round", () => {
    const one = new Error("one")
    const two = new Error("two", { cause: one })
    one.cause = two
    const told = causesOf(two)
    assert.isAtMost(told.length, 12)
    assert.deepStrictEqual(told.slice(0, 2), ["two", "one"])
  })

  it("tells causes that are not errors", () => {
    assert.deepStrictEqual(causesOf(new Error("a", { cause: "b" })), ["a", "b"])
    assert.deepStrictEqual(causesOf(new Error("a", { cause: { code: 7 } })), ["a", '{"code":7}'])
    assert.deepStrictEqual(causesOf(new TypeError("")), ["TypeError"])
    assert.deepStrictEqual(causesOf(undefined), [])
  })

  it("tells even a cause that cannot be written as JSON", () => {
    const round: Record<string, unknown> = {}
    round["self"] = round
    for (const cause of [round, 1n, { toJSON: () => assert.fail("no") }]) {
      assert.lengthOf(causesOf(new Error("a", { cause })), 2)
    }
  })

  it("prefers the failure's own hint to the general one", () => {
    const own = new PostgresUnusable({ binary: "/x", detail: "gone", hint: "install it" })
    assert.strictEqual(hintOf(own), "install it")
    assert.strictEqual(
      hintOf(new PostgresUnusable({ binary: "/x", detail: "gone", hint: "" })),
      errorPolicies.PostgresUnusable.hint
    )
    assert.strictEqual(hintOf(new ApplyFailed({ failures: [] })), errorPolicies.ApplyFailed.hint)
  })
})
