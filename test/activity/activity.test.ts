/**
 * Laws of activity and downtime: what counts as use, and that time only goes forward.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { answered, bornUp, judge, nothingSeen, pauseMillis, type Sample, silent } from "../../src/activity/activity.ts"
import { readSample } from "../../src/activity/ActivityMonitor.ts"

const quiet: Sample = {
  at: 1_000,
  busy: 0,
  rested: null,
  autovacuum: 0,
  followers: 0,
  subscriptions: 0,
  statistics: null
}

const Time = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2_000_000_000_000 }))
const Small = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 }))

describe("judge", () => {
  it("anything at work means now", () => {
    for (const work of ["busy", "autovacuum", "followers", "subscriptions"] as const) {
      assert.strictEqual(judge(nothingSeen, { ...quiet, [work]: 1, rested: 10 }).active, 1_000, work)
    }
  })

  it("a session at rest was active when it began to rest, and not in the future", () => {
    assert.strictEqual(judge(nothingSeen, { ...quiet, rested: 400 }).active, 400)
    assert.strictEqual(judge(nothingSeen, { ...quiet, rested: 5_000 }).active, 1_000)
    assert.isNull(judge(nothingSeen, quiet).active)
  })

  it("statistics that moved either way mean now; the first reading and an equal one mean nothing", () => {
    const first = { ...quiet, statistics: { activeMillis: 5, sessions: 2 } }
    const { active, seen } = judge(nothingSeen, first)
    assert.isNull(active)
    assert.isNull(judge(seen, first).active)
    assert.strictEqual(judge(seen, { ...first, statistics: { activeMillis: 6, sessions: 2 } }).active, 1_000)
    assert.strictEqual(judge(seen, { ...first, statistics: { activeMillis: 5, sessions: 0 } }).active, 1_000)
    assert.isNull(judge(seen, { ...first, statistics: null }).active, "the feature was switched off")
    assert.deepStrictEqual(judge(seen, { ...first, statistics: null }).seen, seen)
  })

  it.prop(
    "never proves a moment after the look",
    { at: Time, rested: Time, busy: Small, autovacuum: Small },
    (input) => {
      const { active } = judge(nothingSeen, { ...quiet, ...input })
      assert.isTrue(active !== null && active <= input.at)
    }
  )
})

describe("downtime", () => {
  it("counts from the last answer now, and from the last look in all", () => {
    const up = answered(bornUp(0), 1_000)
    const once = silent(up, 1_500)
    const twice = silent(once, 2_500)
    assert.deepInclude(once, { current: 500, total: 500 })
    assert.deepInclude(twice, { current: 1_500, total: 1_500 })
    const again = answered(twice, 3_000)
    assert.deepInclude(again, { current: 0, total: 1_500 })
    assert.deepInclude(silent(again, 3_100), { current: 100, total: 1_600 })
  })

  it.prop(
    "the total never shrinks, whatever the clock does",
    { looks: Schema.Array(Schema.Struct({ up: Schema.Boolean, at: Time })) },
    ({ looks }) => {
      let uptime = bornUp(1_000)
      for (const { at, up } of looks) {
        const next = up ? answered(uptime, at) : silent(uptime, at)
        assert.isAtLeast(next.total, uptime.total)
        assert.isAtLeast(next.current, 0)
        uptime = next
      }
    }
  )

  it("pauses double from half a second to five", () => {
    assert.deepStrictEqual([1, 2, 3, 4, 5, 60].map(pauseMillis), [500, 1_000, 2_000, 4_000, 5_000, 5_000])
  })
})

describe("readSample", () => {
  it("reads what it asked for, and nothing else", () => {
    assert.deepStrictEqual(Option.getOrNull(readSample(["7", "1", null, "2", "3", "4"])), {
      at: 7,
      busy: 1,
      rested: null,
      autovacuum: 2,
      followers: 3,
      subscriptions: 4,
      statistics: null
    })
    assert.deepStrictEqual(Option.getOrNull(readSample(["7", "1", "5", "2", "3", "4", "1.5", "9"]))?.statistics, {
      activeMillis: 1.5,
      sessions: 9
    })
    for (const row of [undefined, [], ["7", "x", null, "2", "3", "4"], [null, "1", null, "2", "3", "4"]]) {
      assert.isTrue(Option.isNone(readSample(row)))
    }
  })
})
