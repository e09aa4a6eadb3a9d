/**
 * What the sums of sessions say: a tenant's session that came and went is never missed, our own never counts.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import {
  compareStatistics,
  noStatistics,
  type Statistics,
  type StatisticsBaseline
} from "../../src/activity/statistics.ts"
import { makeOwnSessions } from "../../src/pgwire/ownSessions.ts"

const still: Statistics = { activeMillis: 5, sessions: 2, own: { begun: 0, opened: 0, atMost: 0 }, quiet: true }

const lookAll = (looks: ReadonlyArray<Partial<Statistics>>): ReadonlyArray<boolean> => {
  let baseline: StatisticsBaseline = noStatistics
  return looks.map((look) => {
    const { baseline: next, moved } = compareStatistics(baseline, { ...still, ...look })
    baseline = next
    return moved
  })
}

describe("sums that moved", () => {
  it("mean that somebody was there; the first readings and equal ones mean nothing", () => {
    assert.deepStrictEqual(lookAll([{}, {}, {}]), [false, false, false])
    assert.deepStrictEqual(lookAll([{}, {}, { activeMillis: 6 }, { activeMillis: 6 }]), [false, false, true, false])
    assert.deepStrictEqual(lookAll([{}, {}, { sessions: 3 }, { sessions: 3 }]), [false, false, true, false])
    assert.deepStrictEqual(lookAll([{}, {}, { sessions: 0 }, { sessions: 0 }]), [false, false, true, false])
  })

  it("by as many as our own sessions, mean nothing; by one more, somebody", () => {
    const own = { begun: 3, opened: 2, atMost: 2 }
    assert.deepStrictEqual(lookAll([{}, {}, { sessions: 4, activeMillis: 9, own }]), [false, false, false])
    assert.deepStrictEqual(lookAll([{}, {}, { sessions: 5, activeMillis: 9, own }]), [false, false, true])
  })

  it("while ours come and go, mean what ours cannot explain, and each only once", () => {
    const own = { begun: 2, opened: 1, atMost: 2 }
    const busy = { own, quiet: false }
    assert.deepStrictEqual(
      lookAll([{}, {}, { ...busy, sessions: 4 }, { ...busy, sessions: 5 }, { ...busy, sessions: 5 }]),
      [false, false, false, true, false]
    )
  })
})

/** What a Postgres counts, in any order in which the processes that counted it may write it down. */
const Step = Schema.Literals(["ours", "ours refused", "ours leaves", "theirs", "written", "look"])

it.prop(
  "of any order of sessions, a tenant's is seen when ours are gone, and ours alone are never seen",
  { steps: Schema.Array(Step), tenant: Schema.Boolean },
  ({ steps, tenant }) => {
    const own = makeOwnSessions()
    const open: Array<ReturnType<typeof own.begin>> = []
    let sessions = 0
    let unwritten = 0
    let theirs = 0
    let seen = 0
    let baseline: StatisticsBaseline = noStatistics
    const look = (quiet = unwritten === 0) => {
      const counts = own.counts()
      const { baseline: next, moved } = compareStatistics(baseline, {
        activeMillis: 0,
        sessions,
        own: counts,
        quiet: quiet && counts.open === 0
      })
      baseline = next
      if (moved) seen++
    }
    look()
    look()
    for (const step of steps) {
      if (step === "look") look()
      else if (step === "theirs") {
        if (tenant) {
          sessions++
          theirs++
        }
      } else if (step === "ours refused") own.begin("app").ended()
      else if (step === "ours") {
        const session = own.begin("app")
        session.opened()
        open.push(session)
        unwritten++
      } else if (step === "ours leaves") open.shift()?.ended()
      else {
        sessions += unwritten
        unwritten = 0
      }
    }
    for (const session of open) session.ended()
    sessions += unwritten
    unwritten = 0
    look()
    look()
    assert.strictEqual(seen > 0, theirs > 0)
  }
)

describe("our own sessions", () => {
  it("count in users' databases only, and as what they are: under way, open, refused, gone", () => {
    const own = makeOwnSessions()
    own.begin("postgres").opened()
    own.begin("template1").opened()
    assert.deepStrictEqual(own.counts(), { begun: 0, opened: 0, atMost: 0, open: 0 })
    const one = own.begin("app")
    assert.deepStrictEqual(own.counts(), { begun: 1, opened: 0, atMost: 1, open: 1 })
    one.opened()
    one.opened()
    const refused = own.begin("app")
    refused.ended()
    assert.deepStrictEqual(own.counts(), { begun: 2, opened: 1, atMost: 1, open: 1 })
    one.ended()
    one.ended()
    assert.deepStrictEqual(own.counts(), { begun: 2, opened: 1, atMost: 1, open: 0 })
  })
})
