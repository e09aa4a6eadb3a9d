/**
 * What counted as use, minute by minute: from what snapshots show, for an hour, and not longer.
 */
import { assert, describe, it } from "@effect/vitest"
import * as DateTime from "effect/DateTime"
import { lastHour, type Marks, minutesKept, noMarks, remember } from "../../src/activity/lastHour.ts"
import { type Activity, type ActivityKind, firstSnapshot, type Hold } from "../../src/compute/snapshot.ts"

const minute = 60_000
const now = 1_000_000 * minute + 12_345
const first = firstSnapshot(DateTime.makeUnsafe(now - 90 * minute))

const activity = (last: Partial<Record<ActivityKind, number>>): Activity => ({
  at: now,
  sessions: { client: 0, walsender: 0, subscription: 0, autovacuum: 0 },
  statisticsMoved: false,
  last: { client: null, walsender: null, subscription: null, autovacuum: null, statistics: null, ...last }
})
const seen = (marks: Marks, last: Partial<Record<ActivityKind, number>>, at = now) =>
  remember(marks, { activity: activity(last), holds: [] }, at)

const hold: Hold = { id: "1", reason: "a test", createdAt: 0, expiresAt: 1, endsAt: 1 }
const reasons = (marks: Marks, at = now) =>
  lastHour(marks, first, at).flatMap(({ reasons }, index) => reasons.map((reason) => [index - minutesKept + 1, reason]))

describe("the last hour", () => {
  it("is sixty minutes that end with this one", () => {
    const minutes = lastHour(noMarks, first, now)
    assert.strictEqual(minutes.length, minutesKept)
    assert.strictEqual(minutes.at(-1)?.at, 1_000_000 * minute)
    assert.strictEqual(minutes[0]?.at, (1_000_000 - 59) * minute)
  })

  it("has each way of use in its own minute, and keeps what a later snapshot no longer shows", () => {
    const marks = seen(seen(noMarks, { client: now - 10 * minute, walsender: now - 10 * minute }), { client: now })
    assert.deepStrictEqual(reasons(marks), [
      [-10, "client"],
      [-10, "walsender"],
      [0, "client"]
    ])
  })

  it("forgets what is older, however long it goes on", () => {
    let marks = noMarks
    for (let at = now; at < now + 300 * minute; at += minute / 2) marks = seen(marks, { autovacuum: at }, at)
    assert.isAtMost(marks.size, minutesKept + 1)
    assert.strictEqual(reasons(marks, now + 300 * minute).length, minutesKept - 1)
    assert.deepStrictEqual(reasons(seen(noMarks, { client: now - 61 * minute })), [])
  })

  it("counts a hold while it is there, and a moment of the future as now", () => {
    assert.deepStrictEqual(reasons(remember(noMarks, { activity: null, holds: [hold] }, now)), [[0, "hold"]])
    assert.deepStrictEqual(reasons(seen(noMarks, { client: now + 5 * minute })), [[0, "client"]])
  })

  it("is the same object when a snapshot brings nothing new", () => {
    const marks = seen(noMarks, { client: now })
    assert.strictEqual(seen(marks, { client: now + 1 }), marks)
  })

  it("says in which minutes the compute served: after its first start, and not while it had failed", () => {
    const change = (from: "init" | "running" | "failed" | "configuration_pending", to: typeof from, ago: number) => ({
      from,
      to,
      at: DateTime.makeUnsafe(now - ago * minute),
      because: "",
      error: null
    })
    const served = (history: (typeof first)["history"], status: (typeof first)["status"]) =>
      lastHour(noMarks, { ...first, history, status }, now).flatMap(({ served }, index) =>
        served ? [minutesKept - 1 - index] : []
      )
    assert.deepStrictEqual(served([], "init"), [])
    assert.deepStrictEqual(served([change("configuration_pending", "init", 5)], "init"), [])
    assert.deepStrictEqual(served([change("init", "running", 2)], "running"), [2, 1, 0])
    const broken = [change("init", "running", 5), change("running", "failed", 3)]
    assert.deepStrictEqual(served(broken, "failed"), [5, 4, 3])
    const healed = [...broken, change("failed", "configuration_pending", 1)]
    assert.deepStrictEqual(served(healed, "configuration_pending"), [5, 4, 3, 1, 0])
  })
})
