/**
 * WAL that is damaged where it was written before: a start never drops what followed, and changes nothing.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import type { Failure } from "../../../src/errors/Failure.ts"
import { printLsn } from "../../../src/spec/identifiers.ts"
import { layoutOf, readBase } from "../../../src/storage/local/layout.ts"
import { readReached } from "../../../src/storage/local/reached.ts"
import { walkChain } from "../../../src/storage/local/walChain.ts"
import { runAs } from "../../support/postgres.ts"
import { archiving, makeWorld, start, until, type World, type WorldOptions, writers } from "./computes.ts"

const failureOf = (effect: Effect.Effect<unknown, unknown>) =>
  Effect.map(Effect.flip(effect), (failure) => failure as Failure & { readonly hint?: string })

const segments = (world: World) =>
  fs
    .readdirSync(`${world.root}/wal`)
    .filter((name) => /^[0-9A-F]{24}$/.test(name))
    .sort()

const flipBit = (file: string, offset: number): void => {
  const fd = fs.openSync(file, "r+")
  const byte = Buffer.alloc(1)
  fs.readSync(fd, byte, 0, 1, offset)
  byte[0] = (byte[0] ?? 0) ^ 4
  fs.writeSync(fd, byte, 0, 1, offset)
  fs.closeSync(fd)
}

const hashes = (world: World): string =>
  execFileSync("sh", ["-c", "sha256sum wal/0* $(find base-* -type f)"], { cwd: world.root, encoding: "utf8" })

const walk = Effect.fnUntraced(function* (world: World) {
  const layout = layoutOf(world.root, runAs)
  const base = (yield* readBase(layout)) ?? assert.fail("there is a base")
  const { segmentBytes } = base.current
  return yield* walkChain({ folder: layout.wal, segmentBytes, pgTimeline: base.pgTimeline }, base.start)
})

const insert = "insert into t select n, repeat(md5(n::text), 30) from generate_series(1, 8000) n"

/** A cluster with some segments of WAL, killed; nothing new is in its base. */
const killed = Effect.fnUntraced(function* (options: WorldOptions = {}) {
  const world = yield* makeWorld({ limits: { walBytes: 1 << 30 }, ...options })
  const compute = yield* start(world)
  yield* compute.rows("create table t (n int, x text)")
  for (let round = 0; round < 3; round++) yield* compute.rows(insert)
  const last = (yield* compute.rows("select pg_current_wal_flush_lsn()"))[0]?.[0] ?? ""
  yield* compute.crash()
  return { world, last }
})

describe("a segment that cannot be read", () => {
  it.live("is named, and nothing is taken for the end of the WAL", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { world } = yield* killed()
        const [, second = assert.fail("there is a second segment")] = segments(world)
        // Opens, and then answers EISDIR as a broken disk answers EIO.
        fs.rmSync(`${world.root}/wal/${second}`)
        fs.mkdirSync(`${world.root}/wal/${second}`)
        const failure = yield* failureOf(walk(world))
        assert.include(failure.message, `cannot read ${world.root}/wal/${second}`)
      })
    )
  )
})

/** Where Postgres says that it found no more. */
const endOfWal =
  /(?:invalid record length|record with incorrect prev-link \S+|checksum in record) at ([0-9A-F]+\/[0-9A-F]+)/g

describe("the end of the chain", () => {
  for (const major of [15, 16, 17, 18]) {
    it.live(`is where Postgres ${major} ends its replay, after kills in the midst of writing`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const world = yield* makeWorld({ major, limits: { walBytes: 1 << 30 } })
          const first = yield* start(world)
          yield* first.rows("create table acks (writer int, n int, x text)")
          yield* first.rows("create table big (x bytea); alter table big alter x set storage external")
          yield* first.crash()
          let records = 0
          for (let round = 1; round <= 4; round++) {
            const compute = yield* start(world)
            const load = writers(world, 4)
            const running = yield* Effect.forkChild(load.run(round))
            yield* compute.rows(
              "insert into big select decode(repeat(md5(n::text), 4000), 'hex') from generate_series(1, 40) n"
            )
            if (round === 2) yield* compute.rows("select pg_switch_wal()")
            yield* Effect.promise(() => until("they write", () => load.acknowledged.length > round * 100))
            yield* compute.crash()
            load.end()
            const end = yield* walk(world)
            records = end.records
            const next = yield* start(world)
            const redone = /redo done at ([0-9A-F]+\/[0-9A-F]+)/.exec(next.log())?.[1] ?? assert.fail(next.log())
            const [row] = yield* next.rows(
              `select here > redone, here - redone < 300000
               from (select '${printLsn(end.lsn)}'::pg_lsn here, '${redone}'::pg_lsn redone) ends`
            )
            assert.deepStrictEqual(row, ["t", "t"], `${printLsn(end.lsn)} (${end.reason}) against ${redone}`)
            const stated = [...next.log().matchAll(endOfWal)].at(-1)?.[1]
            if (stated !== undefined) assert.strictEqual(printLsn(end.lsn), stated.replace(/\/0+(?=.)/, "/"))
            yield* next.crash()
            yield* Fiber.interrupt(running)
          }
          assert.isAbove(records, 1000)
        })
      )
    )
  }
})

describe("a flipped bit", () => {
  it.live("in the middle of WAL is refused in the same boot, and nothing is changed", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { world } = yield* killed()
        const names = segments(world)
        assert.isAbove(names.length, 1)
        const file = `${world.root}/wal/${names[0]}`
        flipBit(file, 9_000_000)
        const before = hashes(world)
        const failure = yield* failureOf(start(world))
        assert.strictEqual(failure._tag, "StorageDamaged")
        assert.match(failure.message, /replay would end at .* in the WAL segment .*, because .*; but .*/)
        assert.match(failure.hint ?? "", /nothing was changed: copy .* away first; put back the segment/)
        assert.strictEqual(hashes(world), before)
        // Again, for it must not be a matter of when one asks.
        assert.strictEqual((yield* failureOf(start(world)))._tag, "StorageDamaged")
        flipBit(file, 9_000_000)
        const healed = yield* start(world)
        assert.deepStrictEqual(yield* healed.rows("select count(*) from t"), [["24000"]])
        yield* healed.stop
      })
    )
  )

  it.live("is refused after a boot, too, also in the last segment, because what was flushed was written down", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld({ limits: { walBytes: 1 << 30 }, lookEvery: Duration.hours(1) })
        const compute = yield* start(world)
        yield* compute.rows("create table t (n int, x text); insert into t values (1, 'a')")
        yield* archiving(compute)
        yield* compute.rows("insert into t values (2, 'b')")
        const [row] = yield* compute.rows("select pg_current_wal_flush_lsn(), pg_walfile_name(pg_current_wal_lsn())")
        yield* compute.rows("insert into t select n, 'c' from generate_series(3, 100) n")
        const [last] = yield* compute.rows("select pg_walfile_name_offset(pg_current_wal_flush_lsn())")
        const layout = layoutOf(world.root, runAs)
        const want = (yield* compute.rows("select (pg_current_wal_flush_lsn() - '0/0')::text"))[0]?.[0] ?? "0"
        yield* Effect.promise(() =>
          until("it is written down", () => (Effect.runSync(readReached(layout))?.flushed ?? 0n) >= BigInt(want))
        )
        yield* compute.crash()
        const reached = JSON.parse(fs.readFileSync(layout.reached, "utf8")) as Record<string, string>
        fs.writeFileSync(layout.reached, JSON.stringify({ ...reached, bootId: "another" }))
        const offset = Number(/,(\d+)\)/.exec(last?.[0] ?? "")?.[1])
        const file = path.join(layout.wal, row?.[1] ?? "")
        flipBit(file, offset - 200)
        const failure = yield* failureOf(start(world))
        assert.match(failure.message, /but WAL up to .* had been written/)
        flipBit(file, offset - 200)
        const healed = yield* start(world)
        assert.deepStrictEqual(yield* healed.rows("select count(*) from t"), [["100"]])
        yield* healed.stop
      })
    )
  )

  it.live("is given up after only when a person wrote down the place", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { world } = yield* killed()
        flipBit(`${world.root}/wal/${segments(world)[0]}`, 9_000_000)
        const failure = yield* failureOf(start(world))
        const end = /replay would end at (\S+)/.exec(failure.message)?.[1] ?? assert.fail(failure.message)
        fs.writeFileSync(`${world.root}/give-up-after`, `${end}\n`)
        for (let round = 0; round < 3; round++) {
          const again = yield* start(world)
          const rows = Number((yield* again.rows("select count(*) from t"))[0]?.[0])
          assert.isBelow(rows, 24_000)
          yield* again.rows("create table if not exists later (n int); insert into later values (1)")
          yield* again.crash()
        }
        const last = yield* start(world)
        assert.deepStrictEqual(yield* last.rows("select count(*) from later"), [["3"]])
        yield* last.stop
      })
    )
  )

  it.live("behind the start of a spare is nobody's loss", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const first = yield* start(world)
        yield* first.rows("create table t (n int); insert into t values (1)")
        yield* first.stop
        const second = yield* start(world)
        assert.deepStrictEqual(yield* second.rows("select n from t"), [["1"]])
        yield* second.stop
      })
    )
  )
})
