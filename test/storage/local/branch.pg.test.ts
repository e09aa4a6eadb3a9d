/**
 * Branches of a timeline of a real Postgres: made while it is written to, at an LSN, when it is down, of one another.
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
import { freePort } from "../../support/postgres.ts"
import { emptySpec } from "../../support/specs.ts"
import { archiving, lost, makeWorld, start, storageFor, until, type World, writers } from "./computes.ts"

const id = (n: number) => n.toString(16).padStart(32, "b") as TimelineId

const branch = (world: World, from: TimelineId, to: TimelineId, at?: Lsn) =>
  branchTimeline({
    storage: world.directory,
    tenantId: emptySpec.tenant,
    from,
    to,
    ...(at === undefined ? {} : { at })
  }).pipe(Effect.provide(Spawn.layer))

/** A second compute on the same storage. */
const beside: (world: World, timeline: TimelineId) => Effect.Effect<World, never, Scope.Scope> = Effect.fnUntraced(
  function* (world, timeline) {
    const port = yield* freePort
    const other = {
      ...world,
      port,
      root: path.join(path.dirname(world.root), timeline),
      pgdata: path.join(world.folder, timeline)
    }
    return { ...other, storage: yield* storageFor(other) }
  }
)

const lsnOf = (rows: ReadonlyArray<ReadonlyArray<string | null>>): Lsn =>
  Option.getOrThrow(parseLsn(rows[0]?.[0] ?? ""))

const main = emptySpec.timeline

/** Every file of a timeline that lasts, by its name, with its inode. */
const inodes = (root: string) =>
  new Map(
    fs
      .readdirSync(root, { recursive: true, encoding: "utf8" })
      .filter((name) => /^(base-\d+|wal)\//.test(name))
      .map((name) => [name, fs.lstatSync(path.join(root, name))] as const)
      .filter(([, stat]) => stat.isFile())
      .map(([name, { ino }]) => [ino, name] as const)
  )

describe("a branch", () => {
  it.live(
    "has what was acknowledged, ends at its LSN, and neither side ever sees the other's later writes",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const world = yield* makeWorld({ limits: { walBytes: 48 * 1024 * 1024 } })
          const parent = yield* start(world)
          yield* parent.rows("create table acks (writer int, n int, filler text)")
          yield* parent.rows("create table marks (n int)")
          yield* parent.rows("insert into marks values (1)")
          const atOne = lsnOf(yield* parent.rows("select pg_current_wal_flush_lsn()"))
          yield* parent.rows("insert into marks values (2)")
          const load = writers(world, 3)
          const writing = yield* Effect.forkChild(load.run(0))
          yield* Effect.promise(() => until("rows are written", () => load.acknowledged.length > 300))

          // While it is written to.
          const before = [...load.acknowledged]
          yield* branch(world, main, id(1))
          yield* branch(world, main, id(2), atOne)
          yield* Effect.promise(() => until("more is written", () => load.acknowledged.length > before.length + 100))
          const one = yield* beside(world, id(1))
          const child = yield* start(one, { timeline: id(1) })
          assert.strictEqual(yield* lost(child, before), 0)
          yield* child.rows("insert into marks values (11)")
          assert.deepStrictEqual(yield* child.rows("select n from marks order by n"), [["1"], ["2"], ["11"]])
          const two = yield* beside(world, id(2))
          const old = yield* start(two, { timeline: id(2) })
          assert.deepStrictEqual(yield* old.rows("select n from marks"), [["1"]])
          assert.deepStrictEqual(yield* old.rows("select count(*) from acks"), [["0"]])
          yield* old.rows("insert into marks values (21)")
          yield* old.crash()

          // Of a branch that runs, and of one that was killed.
          yield* branch(world, id(1), id(3))
          yield* branch(world, id(2), id(4))
          yield* child.crash()
          load.end()
          yield* Fiber.join(writing)
          yield* parent.crash()
          for (const [timeline, marks] of [
            [main, ["1", "2"]],
            [id(1), ["1", "2", "11"]],
            [id(2), ["1", "21"]],
            [id(3), ["1", "2", "11"]],
            [id(4), ["1", "21"]]
          ] as const) {
            const again = yield* start(timeline === main ? world : yield* beside(world, timeline), { timeline })
            const rows = yield* again.rows("select n from marks order by n")
            assert.deepStrictEqual(rows.flat(), [...marks], timeline)
            if (timeline === main) assert.strictEqual(yield* lost(again, load.acknowledged), 0)
            yield* again.stop
          }
          const checked = yield* checkStorage(world.directory)
          assert.isTrue(checked.isWhole, checked.lines.join("\n"))
        })
      ),
    120_000
  )
})
