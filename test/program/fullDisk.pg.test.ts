/**
 * A disk that is full for Postgres itself, on the real program: what a person is told, and that the next start recovers
 * on what was kept for it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { start } from "../storage/local/containers.ts"
import { useUp } from "../support/fullDisk.ts"
import { eventually } from "../support/waiting.ts"
import { localArguments, type Place, place, type Program, rows } from "./harness.ts"
import { killedSpec } from "./killCycles.ts"

/** All that a compute has is on a file system of this size. */
const smallPlace = Effect.fnUntraced(function* (size: string) {
  const at = yield* place
  const disk = path.join(at.directory, "disk")
  fs.mkdirSync(disk)
  yield* Effect.acquireRelease(
    Effect.sync(() => execFileSync("mount", ["-t", "tmpfs", "-o", `size=${size},mode=777`, "tmpfs", disk])),
    () => Effect.sync(() => execFileSync("umount", ["-l", disk]))
  )
  return { ...at, directory: disk }
})

const filler = (at: Place): string => path.join(at.directory, "other")

/** Postgres writes nothing but WAL until it has no room for it. */
const useUpWal = Effect.fnUntraced(function* (at: Place) {
  useUp(filler(at))
  const write = rows(at, "select pg_logical_emit_message(true, 'x', repeat('x', 8000000))")
  yield* Effect.repeat(Effect.exit(write), { until: (exit) => exit._tag === "Failure" })
})

const conditions = (program: Program): Promise<string> => program.http("/conditions").then(({ text }) => text)

const full = String.raw`hint: make room on the file system \(.* MB .* are free on that of .*\); of this compute are `

const storages = {
  volume: {
    size: "240m",
    prepared: (at: Place) => fs.existsSync(`${at.directory}/pgdata/compute_ctl/reserve`),
    hint: /WAL \d+ MB, the reserve for a recovery 3\d MB, all data files \d+ MB; nothing in it may be deleted by hand/,
    spent: /the disk is full: gave up the reserve in .*pgdata\/compute_ctl/
  },
  local: {
    size: "350m",
    prepared: (at: Place) => fs.globSync(`${at.directory}/storage/*/*/spare.id`).length > 0,
    hint: /WAL \d+ MB, base \d+ MB, spare \d+ MB, .*PGDATA \d+ MB; in .* the folders trash-\* and aside-\*, and spare/,
    spent: null
  }
} as const

const tests = () => {
  for (const [kind, { hint, prepared, size, spent }] of Object.entries(storages)) {
    it.live(
      `for WAL ends it with what fills the disk; the next start recovers every row, and says that it is full (${kind})`,
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const at = yield* smallPlace(size)
            const args = localArguments(at, killedSpec).map((arg) =>
              arg.startsWith("local:") && kind === "volume" ? "volume" : arg
            )
            const first = yield* start(args, at)
            yield* Effect.promise(() => first.reaches("running"))
            yield* rows(at, "create table kept as select n from generate_series(1, 1000) n")
            yield* eventually("what a full disk will need", () => prepared(at))
            yield* useUpWal(at)
            yield* Effect.promise(() => first.prints(new RegExp(full + hint.source)))
            assert.match(first.output(), /the disk is full/)
            first.signal("SIGTERM")
            assert.strictEqual((yield* Effect.promise(() => first.exit)).code, 1)

            const second = yield* start(args, at)
            yield* Effect.promise(() => second.reaches("running"))
            if (spent !== null) assert.match(second.output(), spent)
            assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
            if (spent !== null) {
              yield* eventually("the condition", async () => (await conditions(second)).includes("disk_nearly_full"))
              assert.isFalse(prepared(at))
              fs.rmSync(filler(at))
              yield* eventually("no condition", async () => !(await conditions(second)).includes("disk_nearly_full"))
              assert.isTrue(prepared(at))
            }
            second.signal("SIGTERM")
            assert.strictEqual((yield* Effect.promise(() => second.exit)).code, 0)
          })
        ),
      90_000
    )
  }
}

// Only root can mount.
if (process.getuid?.() === 0) describe("a disk without room", tests)
