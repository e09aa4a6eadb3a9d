/**
 * The error policy: a row for every failure, and any chain of causes as text.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import {
  ApplyFailed,
  BasebackupFailed,
  Failure,
  FileFailed,
  PostgresUnusable,
  TimedOut,
  WireFailed
} from "../../src/errors/Failure.ts"
import { causesOf, explain, hintOf, policyOf, errorPolicies } from "../../src/errors/policy.ts"
import { isFull } from "../../src/storage/local/room.ts"

const tags = Failure.members.map((member) => member.fields._tag.schema.literal)

describe("the error policy", () => {
  it("has one row per failure and none besides", () => {
    assert.deepStrictEqual(Object.keys(errorPolicies).sort(), [...tags].sort())
  })

  it.each(Object.entries(errorPolicies))("of %s has all its fields", (_tag, policy) => {
    assert.include(["stay", "end", "unchanged"], policy.whileRunning)
    assert.isTrue(policy.exitCode === 0 || policy.exitCode === 1)
    assert.match(policy.code, /^[a-z][a-z_]+$/)
    assert.isTrue(policy.httpStatus >= 400 && policy.httpStatus <= 504)
    assert.match(policy.hint, /^[^\n]{10,120}$/)
    assert.notMatch(policy.hint, /\.$/)
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
      const sentences = causesOf(failure)
      const sentence = failure.message === "" ? failure.name : failure.message
      assert.strictEqual(sentences[0], sentence)
      assert.isAtMost(sentences.length, 12)
      for (let at = 1; at < sentences.length; at++) assert.notStrictEqual(sentences[at], sentences[at - 1])
      assert.isTrue(explain(failure).startsWith(sentence))
      assert.isNotEmpty(hintOf(failure))
    }
  )
})

describe("explain", () => {
  it("goes from the outermost sentence to the root cause", () => {
    const root = new Error("connection refused")
    const slow = new TimedOut({ what: "the pageserver", millis: 10 })
    const failure = new BasebackupFailed({ lsn: "0/1", attempts: 3, cause: new Error("attempt 3", { cause: root }) })
    assert.strictEqual(explain(failure), "failed to get basebackup@0/1 (3 attempts): attempt 3: connection refused")
    assert.strictEqual(
      explain(new BasebackupFailed({ lsn: "0/1", attempts: 1, cause: slow })),
      "failed to get basebackup@0/1 (1 attempts): timed out after 10 ms: the pageserver"
    )
  })

  it("leaves out a sentence that repeats the one before it", () => {
    assert.deepStrictEqual(causesOf(new Error("a", { cause: new Error("a", { cause: new Error("b") }) })), ["a", "b"])
    const refused = new Error("connect ECONNREFUSED 127.0.0.1:1")
    const wire = new WireFailed({ operation: "connect to", peer: "here", detail: refused.message, cause: refused })
    assert.strictEqual(explain(wire), "connect to here: connect ECONNREFUSED 127.0.0.1:1")
  })

  it("ends although the causes form a circle", () => {
    const one = new Error("one")
    const two = new Error("two", { cause: one })
    one.cause = two
    const sentences = causesOf(two)
    assert.isAtMost(sentences.length, 12)
    assert.deepStrictEqual(sentences.slice(0, 2), ["two", "one"])
  })

  it("shows causes that are not errors", () => {
    assert.deepStrictEqual(causesOf(new Error("a", { cause: "b" })), ["a", "b"])
    assert.deepStrictEqual(causesOf(new Error("a", { cause: { code: 7 } })), ["a", '{"code":7}'])
    assert.deepStrictEqual(causesOf(new TypeError("")), ["TypeError"])
    assert.deepStrictEqual(causesOf(undefined), [])
  })

  it("shows even a cause that cannot be written as JSON", () => {
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

  it("names what Node has no name for: a used up quota, a damaged file system", () => {
    const failed = (errno: number, code = `Unknown system error ${errno}`, words = code) =>
      new FileFailed({
        operation: "write",
        path: "/x",
        cause: Object.assign(new Error(`${code}: ${words}, write`), { code, errno, syscall: "write" })
      })
    assert.strictEqual(explain(failed(-122)), "cannot write /x: EDQUOT: disk quota exceeded, write")
    assert.strictEqual(
      explain(failed(-122, "UNKNOWN", "unknown error")),
      "cannot write /x: EDQUOT: disk quota exceeded, write"
    )
    assert.isTrue(isFull(failed(-122)))
    assert.include(hintOf(failed(-117)), "the disk itself fails there")
  })
})
