/**
 * Branches of a timeline of a real Postgres: made while it is written to, at an LSN, by a spec, of one another.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { Spawn } from "../../../src/platform/Spawn.ts"
import { type Lsn, parseLsn, type TimelineId } from "../../../src/spec/identifiers.ts"
import { branchTimeline } from "../../../src/storage/local/branch.ts"
import { checkStorage } from "../../../src/storage/local/check.ts"
import { listTimelines, removeTimeline } from "../../../src/storage/local/timelines.ts"
import { freePort, runAs } from "../../support/postgres.ts"
import { emptySpec } from "../../support/specs.ts"
import { lost, makeWorld, start, type StartOptions, storageFor, until, type World, writers } from "./computes.ts"

const { tenant, timeline: main } = emptySpec
const id = (n: number) => n.toString(16).padStart(32, "b") as TimelineId

const branch = (world: World, from: TimelineId, to: TimelineId, at?: Lsn) =>
  Effect.provide(
    branchTimeline({ storage: world.directory, tenantId: tenant, from, to, ...(at === undefined ? {} : { at }) }),
    Spawn.layer
  )

/** A compute on the same storage, with a port and a data directory of its own. */
const startBeside = Effect.fnUntraced(function* (world: World, timeline: TimelineId, options: StartOptions = {}) {
  const other = { ...world, port: yield* freePort, pgdata: path.join(world.folder, timeline) }
  const storage = yield* storageFor(other) as Effect.Effect<World["storage"], never, Scope.Scope>
  return yield* start({ ...other, storage }, { ...options, timeline })
})

type Rows = ReadonlyArray<ReadonlyArray<string | null>>
const lsnOf = (rows: Rows): Lsn => Option.getOrThrow(parseLsn(rows[0]?.[0] ?? ""))

describe("a branch", () => {
  it.live("has what was acknowledged, or what was at its LSN, and nothing that the others write later", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const world = yield* makeWorld()
        const parent = yield* start(world)
        yield* parent.rows("create table acks (writer int, n int, filler text)")
        yield* parent.rows("create table marks (n int)")
        yield* parent.rows("insert into marks values (1)")
        const atOne = lsnOf(yield* parent.rows("select pg_current_wal_flush_lsn()"))
        yield* parent.rows("insert into marks values (2)")
        // More than one segment: those that are complete are shared.
        yield* parent.rows("create table filler as select repeat('x', 900) from generate_series(1, 25000)")
        const load = writers(world, 3)
        const writing = yield* Effect.forkChild(load.run(0))
        yield* Effect.promise(() => until("rows are written", () => load.acknowledged.length > 200))

        const before = [...load.acknowledged]
        yield* branch(world, main, id(1))
        yield* branch(world, main, id(2), atOne)
        const sharing = yield* listTimelines(world.directory)
        const own = sharing.filter(({ ancestor }) => ancestor !== null).map(({ ownBytes }) => ownBytes)
        // A used segment at most.
        for (const bytes of own) assert.isAtMost(bytes, 17 * 1024 * 1024)
        yield* Effect.promise(() => until("more is written", () => load.acknowledged.length > before.length + 50))

        const one = yield* startBeside(world, id(1))
        assert.strictEqual(yield* lost(one, before), 0)
        yield* one.rows("insert into marks values (11)")
        // The spec makes the next one, of a branch that runs.
        const ancestor = { timeline: id(1), lsn: null }
        const three = yield* startBeside(world, id(3), { ancestor })
        assert.deepStrictEqual((yield* three.rows("select n from marks order by n")).flat(), ["1", "2", "11"])
        yield* three.rows("insert into marks values (31)")
        yield* one.rows("insert into marks values (12)")
        yield* three.crash()
        yield* one.crash()
        const two = yield* startBeside(world, id(2))
        assert.deepStrictEqual((yield* two.rows("select n from marks")).flat(), ["1"])
        assert.deepStrictEqual((yield* two.rows("select count(*) from acks")).flat(), ["0"])
        yield* two.stop

        load.end()
        yield* Fiber.join(writing)
        yield* parent.crash()
        yield* removeTimeline({ storage: world.directory, tenantId: tenant, timelineId: id(1) })
        const checked = yield* checkStorage(world.directory)
        assert.isTrue(checked.isWhole, checked.lines.join("\n"))
        // It is there, so what the spec says of an ancestor, which is gone, says nothing.
        const again = yield* startBeside(world, id(3), { ancestor })
        assert.deepStrictEqual((yield* again.rows("select n from marks order by n")).flat(), ["1", "2", "11", "31"])
        yield* again.crash()
        const last = yield* start(world)
        assert.strictEqual(yield* lost(last, load.acknowledged), 0)
        assert.deepStrictEqual((yield* last.rows("select n from marks order by n")).flat(), ["1", "2"])

        // Never a new and empty timeline in the place of a branch that cannot be made.
        const orphan = startBeside(world, id(5), { ancestor: { timeline: id(9), lsn: null } })
        assert.match(String(yield* Effect.flip(orphan)), /there is no timeline in .*9 to branch/)
        assert.isFalse(fs.existsSync(path.join(world.directory, tenant, id(5))))

        const place = path.join(world.folder, "tablespace")
        fs.mkdirSync(place, { mode: 0o700 })
        if (runAs !== null) fs.chownSync(place, runAs.uid, runAs.gid)
        yield* last.rows(`create tablespace elsewhere location '${place}'`)
        const refused = yield* Effect.flip(branch(world, main, id(4)))
        assert.match(refused.message, /a tablespace outside of the data directory/)
        yield* last.crash()
      })
    )
  )
})
