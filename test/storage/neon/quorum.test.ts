/**
 * Laws of the decision over safekeepers' replies: synced or not.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { isDecided, quorumOf, syncStatusOf, type TimelineStatus } from "../../../src/storage/neon/safekeepers.ts"

const lsn = Schema.Literals([0, 1, 2])
const reply = Schema.Union([
  Schema.Struct({ _tag: Schema.Literal("Known"), flush: lsn, commit: lsn }),
  Schema.Struct({ _tag: Schema.Literal("Known"), flush: Schema.Literal(1), commit: Schema.Literal(1) }),
  Schema.Struct({ _tag: Schema.Literals(["Unknown", "Silent"]) })
])
const replies = Schema.Array(reply)
type Drawn = typeof replies.Type

const realise = (drawn: Drawn): ReadonlyArray<TimelineStatus> =>
  drawn.map((one, index): TimelineStatus => {
    const safekeeper = `sk${index}:5454`
    return one._tag === "Known"
      ? { _tag: "Known", safekeeper, flush: BigInt(one.flush), commit: BigInt(one.commit) }
      : one._tag === "Unknown"
        ? { _tag: "Unknown", safekeeper }
        : { _tag: "Silent", safekeeper, because: "no answer within 100 ms" }
  })

const known = (flush: bigint, commit = flush): TimelineStatus => ({ _tag: "Known", safekeeper: "sk", flush, commit })
const silent = { _tag: "Silent", safekeeper: "sk", because: "gone" } as const
const unknown: TimelineStatus = { _tag: "Unknown", safekeeper: "sk" }

describe("a quorum of safekeepers", () => {
  it("two quorums always have a safekeeper in common", () => {
    for (let n = 1; n <= 99; n++) {
      assert.isAbove(2 * quorumOf(n), n)
      assert.isAtMost(quorumOf(n), n)
    }
  })

  it.prop(
    "synced means: a quorum answered, and every answer is the same one LSN, flushed and committed",
    { drawn: replies },
    ({ drawn }) => {
      const all = realise(drawn)
      const status = syncStatusOf(all.length, all)
      const answers = all.filter((one) => one._tag !== "Silent")
      const agreed = answers.every(
        (one) =>
          one._tag === "Known" &&
          answers.every((other) => other._tag === "Known" && other.flush === one.flush && other.commit === one.flush)
      )
      assert.strictEqual(status._tag === "Synced", all.length > 0 && answers.length >= quorumOf(all.length) && agreed)
      if (status._tag === "Synced")
        for (const one of answers) assert.isTrue(one._tag === "Known" && one.flush === status.lsn)
      else assert.isNotEmpty(status.reason)
    }
  )

  it.prop("the order of the replies does not matter", { drawn: replies }, ({ drawn }) => {
    const all = realise(drawn)
    const [forwards, backwards] = [syncStatusOf(all.length, all), syncStatusOf(all.length, [...all].reverse())]
    assert.strictEqual(forwards._tag, backwards._tag)
    if (forwards._tag === "Synced" && backwards._tag === "Synced") assert.strictEqual(forwards.lsn, backwards.lsn)
  })

  it.prop(
    "once decided, it stays decided, and everything is decided when all have replied",
    { drawn: replies },
    ({ drawn }) => {
      const all = realise(drawn)
      let before = false
      for (let heard = 0; heard <= all.length; heard++) {
        const now = isDecided(all.length, all.slice(0, heard))
        assert.isTrue(now || !before)
        before = now
      }
      assert.isTrue(isDecided(all.length, all))
    }
  )

  it.prop(
    "what is still to come after the decision cannot turn a refusal for want of answers",
    { drawn: replies },
    ({ drawn }) => {
      const all = realise(drawn)
      const heard = all.findIndex((_, index) => isDecided(all.length, all.slice(0, index + 1))) + 1
      const answers = all.slice(0, heard).filter((one) => one._tag !== "Silent").length
      if (answers < quorumOf(all.length)) assert.strictEqual(syncStatusOf(all.length, all)._tag, "NotSynced")
    }
  )

  const table: ReadonlyArray<readonly [string, number, ReadonlyArray<TimelineStatus>, bigint | RegExp]> = [
    ["three agree", 3, [known(9n), known(9n), known(9n)], 9n],
    ["two of three agree and the third is silent", 3, [known(9n), silent, known(9n)], 9n],
    ["a new timeline is at 0/0", 3, [known(0n), known(0n)], 0n],
    ["one safekeeper is its own quorum", 1, [known(9n)], 9n],
    ["one of two is no quorum", 2, [known(9n), silent], /1 of 2 safekeepers answered, 2 are needed.*gone/],
    ["one lags", 3, [known(9n), known(8n)], /sk flushed 0\/8/],
    ["one flushed more than is committed", 3, [known(9n, 8n), known(9n, 8n)], /flushed 0\/9 and committed 0\/8/],
    ["one does not know the timeline", 3, [known(9n), unknown], /does not know the timeline/],
    ["no safekeepers", 0, [], /no safekeepers/]
  ]
  for (const [name, count, given, expected] of table) {
    it(name, () => {
      const status = syncStatusOf(count, given)
      if (typeof expected === "bigint") assert.deepStrictEqual(status, { _tag: "Synced", lsn: expected })
      else assert.match(status._tag === "NotSynced" ? status.reason : "synced", expected)
    })
  }

  it("is refused only where those that take the token are too few for one", () => {
    const refused: TimelineStatus = { ...silent, refused: true }
    assert.strictEqual(syncStatusOf(3, [refused, refused])._tag, "Refused")
    assert.strictEqual(syncStatusOf(3, [refused, silent])._tag, "NotSynced")
    assert.strictEqual(syncStatusOf(3, [refused, known(1n), known(1n)])._tag, "Synced")
    assert.strictEqual(syncStatusOf(2, [known(1n), refused])._tag, "Refused")
    assert.strictEqual(syncStatusOf(1, [refused])._tag, "Refused")
  })
})
