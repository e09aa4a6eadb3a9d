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
  explainSample,
  idleClock,
  idleTimeoutOf,
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
  statistics: { activeMillis: 0, sessions: 0, own: { begun: 0, opened: 0, atMost: 0 }, quiet: true }
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

  it("use is what is new: work, a session that came to rest, and whatever a clock that was set back hides", () => {
    const { baseline } = decideActivity(noBaseline, { ...idle, idleSince: 400 })
    const used = (sample: Partial<Sample>) => decideActivity(baseline, { ...idle, at: 2_000, ...sample }).used
    assert.isTrue(decideActivity(noBaseline, idle).used, "of the first sample nobody knows")
    assert.isFalse(used({ idleSince: 400 }), "the same session rests on")
    assert.isFalse(used({ idleSince: null }), "it has left")
    assert.isTrue(used({ idleSince: 500 }))
    assert.isTrue(used({ busy: 1, idleSince: 400 }))
    assert.isTrue(used({ at: 900, idleSince: 400 }))
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

describe("a clock that was set back", () => {
  it("leaves no kind of activity in the future", () => {
    const ahead = explainSample(null, { ...idle, at: 9_000, busy: 1, walsenders: 1 }, true)
    const back = explainSample(ahead, { ...idle, at: 1_000 }, false)
    assert.deepStrictEqual([back.last.client, back.last.walsender, back.last.statistics], [1_000, 1_000, 1_000])
  })
})

describe("how long nobody has used it", () => {
  it("is what the spec says, the default where it says nothing, and never where it says so", () => {
    assert.deepStrictEqual([7, 0, -1].map(idleTimeoutOf), [7, 300, null])
  })

  it("begins with the first look and anew with each use, and after a time that nobody looked into", () => {
    const first = idleClock(null, false, 1_000)
    const idle = idleClock(first, false, 1_500)
    assert.deepStrictEqual(idle, { usedAt: 1_000, lookedAt: 1_500 })
    assert.strictEqual(idleClock(idle, true, 2_000).usedAt, 2_000)
    assert.strictEqual(idleClock(idle, false, 6_501).usedAt, 6_501)
  })
})

describe("readSample", () => {
  const counts = { begun: 3, opened: 2, atMost: 3, open: 0 }
  const around = { before: counts, after: counts }
  const row = ["7", "1", null, "2", "3", "4", "1.5", "9", "0"]

  it("reads what it asked for, and nothing else", () => {
    assert.deepStrictEqual(Option.getOrNull(readSample(row, around)), {
      at: 7,
      busy: 1,
      idleSince: null,
      autovacuum: 2,
      walsenders: 3,
      subscriptions: 4,
      statistics: { activeMillis: 1.5, sessions: 9, own: counts, quiet: true }
    })
    for (const other of [undefined, [], row.slice(1), [...row, "1"], row.with(1, "x"), row.with(0, null)]) {
      assert.isTrue(Option.isNone(readSample(other, around)))
    }
  })

  it("is quiet when no session of ours was there, began meanwhile, or has not quite left", () => {
    const quiet = (row: ReadonlyArray<string | null>, before = counts, after = counts) =>
      Option.getOrThrow(readSample(row, { before, after })).statistics.quiet
    assert.isTrue(quiet(row))
    assert.isFalse(quiet(row.with(8, "1")))
    assert.isFalse(quiet(row, { ...counts, open: 1 }))
    assert.isFalse(quiet(row, counts, { ...counts, open: 1 }))
    assert.isFalse(quiet(row, counts, { ...counts, begun: 4 }))
  })
})
