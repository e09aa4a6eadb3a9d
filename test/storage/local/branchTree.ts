/**
 * A storage of timelines without a Postgres, what may be done with them, and what each must have afterwards.
 */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { readBootId } from "../../../src/platform/processes.ts"
import { Spawn } from "../../../src/platform/Spawn.ts"
import { parseControlFile } from "../../../src/postgres/controlFile.ts"
import { type TenantId, type TimelineId } from "../../../src/spec/identifiers.ts"
import { coldBackupLabel } from "../../../src/storage/local/backupLabel.ts"
import { copyNew } from "../../../src/storage/local/baseFolder.ts"
import { branchTimeline } from "../../../src/storage/local/branch.ts"
import { Failpoint, type Step } from "../../../src/storage/local/failpoint.ts"
import { type Layout, layoutOf, readBase, timelinesOf } from "../../../src/storage/local/layout.ts"
import { copyStopped, publish } from "../../../src/storage/local/publishBase.ts"
import { advanceReached } from "../../../src/storage/local/reached.ts"
import { restoreBase } from "../../../src/storage/local/restoreBase.ts"
import { prepareSpare } from "../../../src/storage/local/spare.ts"
import { listTimelines, removeTimeline } from "../../../src/storage/local/timelines.ts"
import type { ClusterRequest } from "../../../src/storage/local/seedCluster.ts"
import { crashAt } from "../crashAt.ts"
import {
  append,
  contentOf,
  controlBytes,
  data,
  segmentBytes,
  systemId,
  walFile,
  type WalEnd,
  writeData,
  writeOn
} from "./fakeTimelines.ts"

export const tenant = "a".repeat(32) as TenantId
export const id = (n: number) => n.toString(16).padStart(32, "0") as TimelineId

/** mulberry32: small, and the same everywhere. */
const randomFrom = (seed: number) => {
  let state = seed
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (n: number) => Math.floor(next() * n)
  return { below, of: <A>(all: ReadonlyArray<A>): A => all[below(all.length)] as A }
}

interface Timeline {
  readonly id: TimelineId
  readonly layout: Layout
  readonly pgdata: string
  /** What it must have, in order. */
  numbers: Array<number>
  /** While it runs. */
  end: WalEnd | null
}

/** On the disk, whatever its names. */
const bytesIn = (folder: string): number => {
  const files = fs
    .readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => !name.startsWith("pgdata"))
  const stats = files.map((name) => fs.lstatSync(path.join(folder, name)))
  return [...new Map(stats.map((stat) => [stat.ino, stat.blocks * 512])).values()].reduce((a, b) => a + b, 0)
}

const control = (checkpoint: number) => Result.getOrThrow(parseControlFile(controlBytes(checkpoint)))

/** A storage, its timelines, and what may be done with them. */
export const makeTree = (directory: string, seed: number) => {
  const random = randomFrom(seed)
  const timelines: Array<Timeline> = []
  let lastNumber = 0
  let lastId = 0

  const make = (of: TimelineId = id(++lastId)): Timeline => ({
    id: of,
    layout: layoutOf(path.join(directory, tenant, of), null),
    pgdata: path.join(directory, `pgdata-${of}`),
    numbers: [],
    end: null
  })

  const write = (timeline: Timeline, count: number) => {
    if (timeline.end === null) return
    for (let i = 0; i < count; i++) {
      append(timeline.layout.wal, timeline.end, ++lastNumber, random.below(16) === 0 ? random.below(60_000) : 50)
      timeline.numbers.push(lastNumber)
    }
  }

  /** Of nothing: what a first start leaves. */
  const begin = Effect.gen(function* () {
    const timeline = make()
    const { layout, pgdata } = timeline
    for (const folder of ["base/1", "global", "pg_tblspc"]) fs.mkdirSync(`${pgdata}/${folder}`, { recursive: true })
    fs.mkdirSync(layout.wal, { recursive: true })
    writeData(pgdata, "PG_VERSION", "17\n")
    writeData(pgdata, data, "")
    writeData(pgdata, "base/1/large", Buffer.alloc(300_000, 7))
    timeline.end = { lsn: segmentBytes, previous: 0, overwrites: false }
    const checkpoint = segmentBytes + 40
    write(timeline, 1)
    writeData(pgdata, "global/pg_control", controlBytes(checkpoint))
    yield* publish(layout, yield* copyNew(pgdata, `${layout.root}/base-1.new`, null), [], {
      n: 1,
      label: coldBackupLabel(control(checkpoint), segmentBytes),
      stop: `0/${(checkpoint + 1).toString(16)}`,
      systemId: systemId.toString(),
      pgMajor: 17,
      segmentBytes,
      transaction: "0",
      databases: 1
    })
    timelines.push(timeline)
    timeline.end = null
  })

  /** Postgres replays all and goes on behind it; a file that it has is written to. */
  const start = Effect.fnUntraced(function* (timeline: Timeline) {
    if (timeline.end !== null) return
    const { layout, pgdata } = timeline
    fs.mkdirSync(pgdata, { recursive: true })
    fs.writeFileSync(layout.starts, `${pgdata}\n`)
    yield* restoreBase(layout, pgdata, { install: { major: 17 } } as ClusterRequest)
    const { end, numbers } = yield* contentOf(layout)
    assert.deepStrictEqual(numbers, timeline.numbers)
    timeline.end = end
    writeOn(layout.wal, end.lsn)
    writeData(pgdata, data, numbers.join("\n"))
    writeData(pgdata, "base/1/large", Buffer.alloc(300_000, random.below(250)))
  })

  /** Killed, maybe in the midst of a record. */
  const kill = (timeline: Timeline) => {
    if (timeline.end === null) return
    if (random.below(2) === 0) append(timeline.layout.wal, timeline.end, ++lastNumber, random.below(20_000), true)
    timeline.end = null
  }

  const base = Effect.fnUntraced(function* (timeline: Timeline) {
    if (timeline.end === null) return
    const { layout, pgdata } = timeline
    const before = yield* readBase(layout)
    if (before === null) return assert.fail("there is no base")
    writeData(pgdata, data, timeline.numbers.join("\n"))
    write(timeline, 1)
    const checkpoint = timeline.end.previous
    writeData(pgdata, "global/pg_control", controlBytes(checkpoint))
    yield* copyStopped(layout, before, pgdata, control(checkpoint), new Map())
  })

  /** What is written every second. */
  const note = Effect.fnUntraced(function* ({ end, layout }: Timeline) {
    if (end === null) return
    const segment = path.basename(walFile(layout.wal, end.lsn - 1))
    yield* advanceReached(layout, yield* readBootId, { segment, lsn: BigInt(end.lsn), flushed: true })
  })

  const spare = Effect.fnUntraced(function* ({ end, layout, pgdata }: Timeline) {
    const current = yield* readBase(layout)
    if (end !== null && current !== null) yield* prepareSpare(layout, current, pgdata)
  })

  /** What may happen to the other timeline while a branch of it is made. */
  const disturb = (timeline: Timeline): Effect.Effect<void, unknown, Spawn> => {
    switch (random.below(5)) {
      case 0:
        return base(timeline)
      case 1:
        return Effect.andThen(base(timeline), spare(timeline))
      case 2:
        return Effect.andThen(
          Effect.sync(() => kill(timeline)),
          start(timeline)
        )
      default:
        return Effect.sync(() => write(timeline, 1 + random.below(30)))
    }
  }

  const steps: ReadonlyArray<Step> = ["branch-begun", "branch-base-shared", "branch-wal-taken", "branch-flushed"]

  const branch = Effect.fnUntraced(function* (timeline: Timeline, isRandom = true) {
    const made = make()
    const before = [...timeline.numbers]
    const { base: held, records } = yield* contentOf(timeline.layout)
    const still = records.filter(({ end }) => BigInt(end) >= held.stop)
    const wanted = isRandom && random.below(2) === 0 ? random.of(random.below(4) === 0 ? records : still) : null
    const at = wanted === null ? {} : { at: BigInt(wanted.end + random.below(2)) }
    const step = isRandom && random.below(3) > 0 ? random.of(steps) : null
    let isOver = false
    const request = { storage: directory, tenantId: tenant, from: timeline.id, to: made.id, ...at }
    const exit = yield* branchTimeline(request).pipe(
      Effect.provideService(Failpoint, (here) => {
        if (here !== step || isOver) return Effect.void
        isOver = true
        return Effect.orDie(Effect.provide(disturb(timeline), Spawn.layer))
      }),
      Effect.exit
    )
    if (Exit.isFailure(exit)) {
      // Only an LSN that the base has taken the place of.
      assert.include(JSON.stringify(exit), "no longer held")
      const now = yield* readBase(timeline.layout)
      assert.isTrue(wanted !== null && now !== null && BigInt(wanted.end) < now.stop)
      assert.isFalse(fs.existsSync(made.layout.root))
      return
    }
    const { numbers } = yield* contentOf(made.layout)
    if (wanted === null) {
      assert.deepStrictEqual(numbers.slice(0, before.length), before)
      assert.deepStrictEqual(numbers, timeline.numbers.slice(0, numbers.length))
    } else {
      const through = before.length - records.length + records.indexOf(wanted) + 1
      assert.deepStrictEqual(numbers, before.slice(0, through))
      assert.isTrue(BigInt(wanted.end) >= held.stop)
    }
    made.numbers = numbers
    timelines.push(made)
  })

  const killedBranch = Effect.fnUntraced(function* (timeline: Timeline) {
    const made = make()
    const step = random.of<Step>([...steps, "branch-named"])
    const request = { storage: directory, tenantId: tenant, from: timeline.id, to: made.id }
    const { interrupt } = yield* crashAt(step, Effect.provide(branchTimeline(request), Spawn.layer))
    const isThere = fs.existsSync(made.layout.root)
    assert.strictEqual(isThere, step === "branch-named", step)
    yield* interrupt
    assert.strictEqual(fs.existsSync(made.layout.root), isThere)
    if (!isThere) return
    made.numbers = [...timeline.numbers]
    timelines.push(made)
  })

  const remove = Effect.fnUntraced(function* (timeline: Timeline) {
    if (timelines.length === 1) return
    kill(timeline)
    timelines.splice(timelines.indexOf(timeline), 1)
    yield* removeTimeline({ storage: directory, tenantId: tenant, timelineId: timeline.id })
    fs.rmSync(timeline.pgdata, { recursive: true, force: true })
  })

  /** Each timeline is what it must be, and no other is there. */
  const check = Effect.gen(function* () {
    for (const { layout, numbers } of timelines) assert.deepStrictEqual((yield* contentOf(layout)).numbers, numbers)
    const known = timelines.map((timeline) => `${tenant}/${timeline.id}`).sort()
    assert.deepStrictEqual(yield* timelinesOf(directory), known)
    const left = fs.readdirSync(path.join(directory, tenant)).filter((name) => name.startsWith("."))
    assert.deepStrictEqual(left, [])
  })

  const step = Effect.gen(function* () {
    const timeline = random.of(timelines)
    const actions: ReadonlyArray<readonly [string, Effect.Effect<void, unknown, Spawn>]> = [
      ["write", Effect.sync(() => write(timeline, 1 + random.below(40)))],
      ["write", Effect.sync(() => write(timeline, 1 + random.below(40)))],
      ["start", start(timeline)],
      ["start", start(timeline)],
      ["start", start(timeline)],
      ["kill", Effect.sync(() => kill(timeline))],
      ["base", base(timeline)],
      ["spare", spare(timeline)],
      ["note", note(timeline)],
      ["branch", branch(timeline)],
      ["branch", branch(timeline)],
      ["branch", branch(timeline)],
      ["killed branch", killedBranch(timeline)],
      ["remove", timelines.length > 4 ? remove(timeline) : Effect.void]
    ]
    const [name, action] = random.of(actions)
    yield* action
    if (random.below(4) === 0) yield* check
    return `${name} ${timeline.id.slice(-2)}`
  })

  /** What is said to be a timeline's own is what its removal gives back. */
  const end = Effect.gen(function* () {
    for (const timeline of timelines.slice(1)) {
      kill(timeline)
      const info = (yield* listTimelines(directory)).find((one) => one.timeline === timeline.id)
      const before = bytesIn(directory)
      yield* remove(timeline)
      assert.strictEqual(before - bytesIn(directory), info?.ownBytes)
    }
    yield* check
  })

  return { begin, step, end, start, kill, write, branch, timelines }
}

/** In memory where there is some: nothing here has to outlive a power cut. */
const memory = fs.existsSync("/dev/shm") ? "/dev/shm" : os.tmpdir()

export const temporary = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(memory, "compute-ctl-branches-"))),
  (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true, force: true }))
)

export const quiet = Layer.mergeAll(Spawn.layer, Logger.layer([]))
