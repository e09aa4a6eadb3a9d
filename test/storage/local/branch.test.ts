/**
 * Laws of branches, over random trees of them: whatever is written, killed, started, branched and removed, and whatever
 * happens in the midst of it, each timeline has what it has written and what its ancestor had, and nothing else.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as fs from "node:fs"
import * as path from "node:path"
import { holdLock } from "../../../src/platform/lock.ts"
import { printLsn } from "../../../src/spec/identifiers.ts"
import { branchTimeline } from "../../../src/storage/local/branch.ts"
import { draftPath } from "../../../src/storage/local/drafts.ts"
import { timelinesOf } from "../../../src/storage/local/layout.ts"
import { branchNamed, removeNamed } from "../../../src/storage/local/named.ts"
import { recordBefore, walkChain } from "../../../src/storage/local/walChain.ts"
import { listTimelines, removeTimeline } from "../../../src/storage/local/timelines.ts"
import { crashAt } from "../crashAt.ts"
import { contentOf, segmentBytes, walFile } from "./fakeTimelines.ts"
import { id, makeTree, quiet, temporary, tenant } from "./branchTree.ts"

describe("a random tree of branches", () => {
  const first = Number(process.env["SEED"] ?? Math.floor(performance.timeOrigin % 1e6))
  const trees = Number(process.env["TREES"] ?? 3)
  const length = 30

  for (let seed = first; seed < first + trees; seed++) {
    it.live(`holds in each timeline what was written there and before it (SEED=${seed})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const done: Array<string> = []
          const tree = makeTree(yield* temporary, seed)
          yield* tree.begin
          yield* Effect.forEach(tree.timelines, tree.start)
          for (let n = 0; n < length; n++) {
            done.push(
              yield* Effect.catchCause(tree.step, (cause) =>
                Effect.die(new Error(`SEED=${seed}, after ${done.join(", ")}: ${String(cause)}`, { cause }))
              )
            )
          }
          yield* tree.end
        })
      ).pipe(Effect.provide(quiet))
    )
  }
})

describe("WAL that both have", () => {
  it.live("is not written over where one of them gives up the end of its own", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const tree = makeTree(yield* temporary, 1)
        yield* tree.begin
        const [one] = tree.timelines
        if (one === undefined) return assert.fail("it was not begun")
        yield* tree.start(one)
        while ((one.end?.lsn ?? 0) < 3.5 * segmentBytes) tree.write(one, 20)
        yield* tree.branch(one, false)
        const [, two] = tree.timelines
        if (two === undefined) return assert.fail("there is no branch")
        assert.strictEqual(fs.statSync(walFile(two.layout.wal, 2 * segmentBytes)).nlink, 2)
        tree.kill(one)
        const damaged = walFile(one.layout.wal, segmentBytes)
        const bytes = fs.readFileSync(damaged)
        fs.rmSync(damaged)
        fs.writeFileSync(damaged, bytes.fill(1, 500_000, 500_100), { mode: 0o600 })
        const { lsn, numbers } = yield* contentOf(one.layout)
        fs.writeFileSync(`${one.layout.root}/give-up-after`, printLsn(lsn))
        one.numbers = [...numbers]
        yield* tree.start(one)
        // The fake Postgres refuses to write to what has a second name.
        while ((one.end?.lsn ?? 0) < 3.5 * segmentBytes) tree.write(one, 20)
        assert.deepStrictEqual((yield* contentOf(two.layout)).numbers, two.numbers)
        assert.deepStrictEqual((yield* contentOf(one.layout)).numbers, one.numbers)
      })
    ).pipe(Effect.provide(quiet))
  )
})

describe("an LSN", () => {
  it.live("is held from the end of the record that makes the base whole to the end of the WAL", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const directory = yield* temporary
        const tree = makeTree(directory, 1)
        yield* tree.begin
        const [one] = tree.timelines
        if (one === undefined) return assert.fail("it was not begun")
        yield* tree.start(one)
        tree.write(one, 1)
        const { base, lsn, records } = yield* contentOf(one.layout)
        const whole = BigInt(records[0]?.end ?? 0)
        const at = (to: number, wanted: bigint) =>
          branchTimeline({ storage: directory, tenantId: tenant, from: one.id, to: id(to), at: wanted })
        for (const early of [0n, base.start, base.stop, whole - 1n]) {
          assert.match((yield* Effect.flip(at(7, early))).message, /is no longer held/)
        }
        assert.deepStrictEqual(yield* at(8, whole), { lsn: whole })
        assert.deepStrictEqual(yield* at(9, lsn), { lsn })
        assert.match((yield* Effect.flip(at(10, lsn + 100n))).message, /^no branch was made: its WAL ends at 0/)
        assert.deepStrictEqual(
          yield* timelinesOf(directory),
          [one.id, id(8), id(9)].map((made) => `${tenant}/${made}`)
        )
      })
    ).pipe(Effect.provide(quiet))
  )
})

describe("an end", () => {
  it.live("is found from what was last noted, wherever in a record or between two that is", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const directory = yield* temporary
        const tree = makeTree(directory, 1)
        yield* tree.begin
        const [one] = tree.timelines
        if (one === undefined) return assert.fail("it was not begun")
        yield* tree.start(one)
        while ((one.end?.lsn ?? 0) < 1.04 * segmentBytes) tree.write(one, 20)
        const { base, lsn, records } = yield* contentOf(one.layout)
        const wal = { folder: one.layout.wal, segmentBytes, pgTimeline: 1 }
        const starts = new Set([Number(base.start), ...records.map(({ start }) => start)])
        for (const { end, start } of records) {
          for (const at of [start + 1, start + 5, end - 1, end]) {
            const found = yield* recordBefore(wal, BigInt(at))
            if (found === null) return assert.fail(`none was found before ${at}`)
            assert.isTrue(starts.has(Number(found)), `${found} before ${at} is where no record begins`)
            assert.isBelow(Number(found), at)
            assert.strictEqual((yield* walkChain(wal, found)).lsn, lsn)
          }
        }
        // Before the first there is none.
        assert.isNull(yield* recordBefore(wal, base.start))
      })
    ).pipe(Effect.provide(quiet))
  )
})

describe("a name", () => {
  it.live("that is taken, and a timeline that is not there, are refused, and nothing is changed", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const directory = yield* temporary
        const tree = makeTree(directory, 1)
        yield* tree.begin
        const [one] = tree.timelines
        if (one === undefined) return assert.fail("it was not begun")
        const request = { storage: directory, tenantId: tenant, from: one.id, to: one.id }
        assert.match((yield* Effect.flip(branchTimeline(request))).message, /there is something in .* already/)
        const unknown = yield* Effect.flip(branchTimeline({ ...request, from: id(5), to: id(6) }))
        assert.strictEqual(unknown._tag, "StorageMissing")
        // A first start that has not come to its end.
        fs.mkdirSync(path.join(directory, tenant, id(5)))
        const empty = yield* Effect.flip(branchTimeline({ ...request, from: id(5), to: id(6) }))
        assert.match(empty.message, /nothing is in .* yet/)
        // Two at once: one of them has it.
        const both = yield* Effect.all(
          [1, 2].map(() => Effect.exit(branchTimeline({ ...request, to: id(7) }))),
          { concurrency: 2 }
        )
        assert.strictEqual(both.filter(Exit.isSuccess).length, 1)
        const left = fs.readdirSync(path.join(directory, tenant)).sort()
        assert.deepStrictEqual(left, [one.id, id(5), id(7)])
      })
    ).pipe(Effect.provide(quiet))
  )
})

describe("a program that was killed", () => {
  it.live("leaves a draft that the next one removes; that of a program that lives stays", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const directory = yield* temporary
        const tree = makeTree(directory, 1)
        yield* tree.begin
        const alive = draftPath(path.join(directory, tenant), "branch")
        const dead = alive.replace(`-${process.pid}-`, "-4194304-")
        const removed = draftPath(path.join(directory, tenant), "removed").replace(/-\d+-([0-9a-f]+)$/, "-1-$1")
        for (const draft of [alive, dead, removed]) fs.mkdirSync(`${draft}/wal`, { recursive: true })
        yield* listTimelines(directory)
        assert.deepStrictEqual(
          [alive, dead, removed].map((draft) => fs.existsSync(draft)),
          [true, false, false]
        )
      })
    ).pipe(Effect.provide(quiet))
  )
})

describe("removing a timeline", () => {
  it.live("that runs is refused; killed in the midst of it, the name is gone and the branches are whole", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const directory = yield* temporary
        const tree = makeTree(directory, 1)
        yield* tree.begin
        const [one] = tree.timelines
        if (one === undefined) return assert.fail("it was not begun")
        yield* tree.branch(one, false)
        const [, two] = tree.timelines
        if (two === undefined) return assert.fail("there is no branch")
        const request = { storage: directory, tenantId: tenant, timelineId: one.id }
        const lock = { lock: one.layout.lock, owner: null, user: null, allowUnfenced: false, prove: () => Effect.void }
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* holdLock({ ...lock, busy: () => new Error("busy") })
            assert.strictEqual((yield* Effect.flip(removeTimeline(request)))._tag, "TimelineBusy")
            const listed = yield* listTimelines(directory)
            assert.deepStrictEqual(
              listed.map(({ ancestor, holder }) => [ancestor?.timeline ?? null, holder !== null]),
              [
                [null, true],
                [one.id, false]
              ]
            )
          })
        )
        const { interrupt } = yield* crashAt("timeline-unnamed", removeTimeline(request))
        assert.deepStrictEqual(yield* timelinesOf(directory), [`${tenant}/${two.id}`])
        assert.deepStrictEqual((yield* contentOf(two.layout)).numbers, two.numbers)
        yield* interrupt
        assert.strictEqual((yield* Effect.flip(removeTimeline(request)))._tag, "StorageMissing")
      })
    ).pipe(Effect.provide(quiet))
  )
})

describe("the library", () => {
  it.live("takes ids and LSNs as text, and says which of them is none", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const storage = yield* temporary
        const tree = makeTree(storage, 1)
        yield* tree.begin
        const [one] = tree.timelines
        if (one === undefined) return assert.fail("it was not begun")
        const { lsn } = yield* contentOf(one.layout)
        const names = { storage, tenantId: tenant, from: one.id, to: id(2) }
        for (const wrong of [{ tenantId: "t" }, { from: "f" }, { to: "" }, { at: "late" }]) {
          const [[what, text] = []] = Object.entries(wrong)
          const refused = yield* Effect.flip(branchNamed({ ...names, ...wrong }))
          assert.strictEqual(refused.message, `no branch was made: ${what} is "${text}"`)
        }
        const other = yield* Effect.flip(branchNamed({ storage, from: one.id, to: id(2) }))
        assert.include(other.message, `there is no timeline in ${storage}/${"0".repeat(32)}/${one.id}`)
        assert.deepStrictEqual(yield* branchNamed({ ...names, at: printLsn(lsn) }), { lsn: printLsn(lsn) })
        yield* removeNamed({ storage, tenantId: tenant, timelineId: one.id })
        assert.deepStrictEqual(yield* timelinesOf(storage), [`${tenant}/${id(2)}`])
      })
    ).pipe(Effect.provide(quiet))
  )
})
