/**
 * A short run of the chaos kit, with a seed that is printed; and that the kit sees what it is there to see.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import { killAll } from "../support/processes.ts"
import { printReport, runChaos } from "./cycles.ts"
import { rows, verify } from "./ledger.ts"
import { acknowledged, firstStart, killEverything, live, makeRun, requireWhole, type Run, startCompute } from "./run.ts"

const seed = process.env["CHAOS_SEED"] ?? String(process.pid)
/** Whichever comes first. */
const limits = { cycles: 25, minutes: 1 } as const

const print = (line: string): void => void process.stdout.write(`${line}\n`)

describe("a storage under chaos", () => {
  it.live(`loses nothing, refuses damage, and starts again each time (CHAOS_SEED=${seed})`, () =>
    Effect.gen(function* () {
      const report = yield* runChaos({ ...limits, seed, storage: "local", keep: false }, print)
      print(printReport(report))
      assert.isNull(report.found)
      assert.isAbove(report.acknowledged, 0, "nothing was written, so nothing was proved")
    })
  )
})

/** A compute with some hundred rows, which nobody writes to any more. */
const written = Effect.fnUntraced(function* (run: Run) {
  const compute = yield* live(run)
  yield* acknowledged(run, compute, 100)
  yield* Effect.forEach(run.writers, (writer) => Fiber.interrupt(writer), { discard: true })
  return compute
})

const foundBy = Effect.fnUntraced(function* (run: Run) {
  const problem = yield* Effect.flip(verify(run.place, run.ledger))
  return problem._tag === "Found" ? problem.kind : problem.message
})

describe("the kit", () => {
  it.live("sees rows that are gone, that were never sent, that are not what was sent, and half a transaction", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const run = yield* makeRun({ storage: "local", keep: false }, () => false)
        yield* firstStart(run)
        yield* killEverything(run)
        yield* written(run)
        yield* verify(run.place, run.ledger)
        const [one, other] = [...run.ledger.series.values()].sort((a, b) => b.acknowledged - a.acknowledged)
        const row = `series = ${one?.id} and n = 3`
        for (const [harm, undo, kind] of [
          [`delete from kept where ${row}`, `insert into kept select * from before where ${row}`, "lost"],
          [
            `delete from kept where series = ${other?.id}`,
            `insert into kept select * from before where series = ${other?.id}`,
            "lost"
          ],
          [`insert into kept values (${one?.id}, 1000000, '')`, "delete from kept where n = 1000000", "unsent"],
          ["insert into kept values (999, 0, '')", "delete from kept where series = 999", "unsent"],
          [`update kept set x = x || ' ' where ${row}`, `update kept set x = trim(x) where ${row}`, "damage"],
          [
            `update counts set n = n - 1 where series = ${one?.id}`,
            `update counts set n = n + 1 where series = ${one?.id}`,
            "lost"
          ]
        ] as const) {
          yield* rows(run.place, `create table before as table kept; ${harm}`)
          assert.strictEqual(yield* foundBy(run), kind, harm)
          yield* rows(run.place, `${undo}; drop table before`)
        }
        yield* verify(run.place, run.ledger)
      })
    )
  )

  it.live("sees that a storage was put back to an earlier state", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const run = yield* makeRun({ storage: "local", keep: false }, () => false)
        const storage = `${run.arena.disk}/storage`
        yield* firstStart(run)
        yield* killEverything(run)
        yield* written(run)
        yield* killEverything(run)
        execFileSync("cp", ["-a", storage, `${storage}.earlier`])
        const compute = yield* written(run)
        killAll(compute.node(), "SIGTERM")
        yield* killEverything(run)
        fs.rmSync(storage, { recursive: true })
        fs.renameSync(`${storage}.earlier`, storage)
        const problem = yield* Effect.flip(requireWhole(run, startCompute(run)))
        assert.strictEqual(problem.kind, "lost")
      })
    )
  )
})
