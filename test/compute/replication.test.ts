/**
 * When a replica counts as one that follows: lag by our own clock, silence by what an idle primary may keep.
 */
import { assert, describe, it } from "@effect/vitest"
import { follow, type Following, mostPending, notHeard, type ReplicaSample } from "../../src/compute/replication.ts"
import { replicaBody } from "../../src/http/views.ts"
import { readReplica } from "../../src/lifecycle/replicaWatch.ts"
import { streaming } from "../support/replica.ts"

const maxLag = 60_000
const wall = 1_000_000_000_000

/** Looks at these moments (seconds), and what is found at the last of them. */
const looks = (samples: ReadonlyArray<readonly [second: number, sample: Partial<ReplicaSample>]>, max = maxLag) => {
  let following: Following = notHeard(0)
  let state = null
  for (const [second, sample] of samples) {
    const seen = follow(
      following,
      { ...streaming, ...sample },
      { maxLag: max, now: second * 1000, wall: wall + second * 1000 }
    )
    following = seen.following
    state = seen.state
  }
  if (state === null) throw new Error("no looks")
  return { ...state, pending: following.pending.length }
}
const gone = { receiver: null, silentFor: 0 } as const

describe("a replica", () => {
  it("that has replayed all it knows of has no lag, however long its primary has been idle", () => {
    const state = looks([
      [0, {}],
      [3_600, { silentFor: 29_000 }]
    ])
    assert.deepInclude(state, { lagBytes: 0, lagSeconds: 0, notFollowing: null, pending: 0 })
    assert.strictEqual(state.lastHeard, wall + 3_571_000)
  })

  it("is behind since it has known of the WAL that it has not replayed", () => {
    const stuck = (second: number) =>
      looks([
        [0, {}],
        [10, { end: 200n, replayed: 150n }],
        [20, { end: 300n, replayed: 150n }],
        [second, { end: 400n, replayed: 250n }]
      ])
    assert.deepInclude(stuck(50), { lagBytes: 150, lagSeconds: 30, notFollowing: null })
    assert.match(stuck(81).notFollowing ?? "", /has not replayed WAL that it has known of for more than 60 s/)
  })

  it("with a delay that its settings want may be behind for as much longer", () => {
    const samples = [
      [0, {}],
      [1, { end: 200n, applyDelay: 30_000 }]
    ] as const
    assert.isNull(looks([...samples, [90, { end: 200n, applyDelay: 30_000 }]]).notFollowing)
    assert.include(looks([...samples, [92, { end: 200n, applyDelay: 30_000 }]]).notFollowing, "90 s")
  })

  it("without a connection follows for as long as its last news is fresh enough", () => {
    const lost = (second: number) =>
      looks([
        [0, {}],
        [100, {}],
        [second, gone]
      ])
    assert.deepInclude(lost(159), { receiver: null, notFollowing: null })
    assert.match(lost(161).notFollowing ?? "", /no connection to its primary, and has heard nothing .* more than 60 s/)
    assert.isNull(
      looks([
        [0, {}],
        [100, {}],
        [161, gone],
        [162, {}]
      ]).notFollowing,
      "it is back"
    )
  })

  it("that has never heard of its primary has the same time from its start", () => {
    assert.deepInclude(looks([[60, gone]]), { notFollowing: null, lastHeard: null })
    assert.match(looks([[61, gone]]).notFollowing ?? "", /it has never heard from its primary in more than 60 s/)
  })

  it("that is connected may hear nothing for as long as its receiver waits before it asks", () => {
    const silent = (silentFor: number, receiverTimeout: number) =>
      looks([
        [0, {}],
        [1_000, { silentFor, receiverTimeout }]
      ]).notFollowing
    assert.isNull(silent(60_000, 60_000))
    assert.match(silent(61_000, 60_000) ?? "", /is connected to its primary, and has heard nothing .* more than 60 s/)
    assert.isNull(silent(150_000, 300_000))
    assert.include(silent(152_000, 300_000), "151 s")
    assert.isNull(silent(999_000, 0), "a receiver that never asks says nothing about its primary")
  })

  it("of an archive cannot tell an idle primary from a dead one; one without a source follows nobody", () => {
    assert.isNull(looks([[10_000, { ...gone, source: "archive" }]]).notFollowing)
    assert.match(
      looks([[1, { ...gone, source: null }]]).notFollowing ?? "",
      /no primary_conninfo and no restore_command/
    )
  })

  it("always follows where no bound is asked for", () => {
    assert.isNull(
      looks(
        [
          [10_000, { ...gone, end: 900n }],
          [20_000, { ...gone, end: 901n }]
        ],
        0
      ).notFollowing
    )
  })

  it("that replays nothing for a day is remembered in bounded room, and its lag to the minute", () => {
    const day = Array.from({ length: 86_400 }, (_, second) => [second, { end: BigInt(200 + second) }] as const)
    const state = looks(day)
    assert.isAtMost(state.pending, mostPending)
    assert.strictEqual(state.lagSeconds, 86_399)
  })

  it("is told as JSON, and `null` is no replica", () => {
    assert.isNull(replicaBody(null))
    assert.deepStrictEqual(replicaBody(looks([[0, { end: 0x1_0000_0010n, replayed: 0x1_0000_0000n }]])), {
      receiver: "streaming",
      replayed_lsn: "1/0",
      lag_bytes: 16,
      lag_seconds: 0,
      last_heard: "2001-09-09T01:46:40Z",
      max_lag_seconds: 60
    })
  })

  it("is read from the answer of its Postgres", () => {
    assert.isNull(readReplica(["f", null, null, null, null, null, "60000", "0", "", ""]))
    assert.deepStrictEqual(
      readReplica(["t", "streaming", "-3", "0/20", "0/30", "0/10", "5000", "1000", "host=p", "cp"]),
      {
        receiver: "streaming",
        silentFor: 0,
        end: 0x30n,
        replayed: 0x10n,
        receiverTimeout: 5000,
        applyDelay: 1000,
        source: "primary"
      }
    )
    const bare = readReplica(["t", null, null, null, null, "0/10", "0", "0", "", "cp %f %p"])
    assert.deepInclude(bare, { receiver: null, end: 0n, source: "archive" })
    assert.strictEqual(readReplica(["t", null, null, null, null, "0/10", "0", "0", "", ""])?.source, null)
  })
})
