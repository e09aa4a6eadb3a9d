/**
 * Laws of activity and downtime: what counts as use, and that time only goes forward.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import {
  answered,
  upSince,
  decideActivity,
  noBaseline,
  pauseMillis,
  type Sample,
  unanswered
} from "../../src/activity/activity.ts"
import { readSample } from "../../src/activity/ActivityMonitor.ts"

const idle: Sample = {
  at: 1_000,
  busy: 0,
  idleSince: null,
  autovacuum: 0,
  walsenders: 0,
  subscriptions: 0,
  statistics: null
}

const Time = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2_000_000_000_000 }))
const Small = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 }))

describe("what a sample proves", () => {
  it("anything at work means now", () => {
    for (const work of ["busy", "autovacuum", "walsenders", "subscriptions"] as const) {
      assert.strictEqual(decideActivity(noBaseline, { ...idle, [work]: 1, idleSince: 10 }).active, 1_000, work)
    }
  })

  it("a session at rest was active when it began to rest, and not in the future", () => {
    assert.strictEqual(decideActivity(noBaseline, { ...idle, idleSince: 400 }).active, 400)
    assert.strictEqual(decideActivity(noBaseline, { ...idle, idleSince: 5_000 }).active, 1_000)
    assert.isNull(decideActivity(noBaseline, idle).active)
  })

  it("statistics that moved either way mean now; the first reading and an equal one mean nothing", () => {
    const first = { ...idle, statistics: { activeMillis: 5, sessions: 2 } }
    const { active, baseline } = decideActivity(noBaseline, first)
    assert.isNull(active)
    assert.isNull(decideActivity(baseline, first).active)
    assert.strictEqual(
      decideActivity(baseline, { ...first, statistics: { activeMillis: 6, sessions: 2 } }).active,
      1_000
    )
    assert.strictEqual(
      decideActivity(baseline, { ...first, statistics: { activeMillis: 5, sessions: 0 } }).active,
      1_000
    )
    assert.isNull(decideActivity(baseline, { ...first, statistics: null }).active, "the feature was switched off")
    assert.deepStrictEqual(decideActivity(baseline, { ...first, statistics: null }).baseline, baseline)
  })

  it.prop(
    "never proves a moment after the sample",
    { at: Time, idleSince: Time, busy: Small, autovacuum: Small },
    (input) => {
      const { active } = decideActivity(noBaseline, { ...idle, ...input })
      assert.isTrue(active !== null && active <= input.at)
    }
  )
})

describe("downtime", () => {
  it("counts from the last answer now, and from the last sample in all", () => {
    const up = answered(upSince(0), 1_000)
    const once = unanswered(up, 1_500)
    const twice = unanswered(once, 2_500)
    assert.deepInclude(once, { current: 500, total: 500 })
    assert.deepInclude(twice, { current: 1_500, total: 1_500 })
    const again = answered(twice, 3_000)
    assert.deepInclude(again, { current: 0, total: 1_500 })
    assert.deepInclude(unanswered(again, 3_100), { current: 100, total: 1_600 })
  })

  it.prop(
    "the total never shrinks, whatever the clock does",
    { samples: Schema.Array(Schema.Struct({ up: Schema.Boolean, at: Time })) },
    ({ samples }) => {
      let uptime = upSince(1_000)
      for (const { at, up } of samples) {
        const next = up ? answered(uptime, at) : unanswered(uptime, at)
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
      idleSince: null,
      autovacuum: 2,
      walsenders: 3,
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
