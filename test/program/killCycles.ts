/**
 * Kills at random in the middle of writes, and what they lose, whatever keeps the data.
 *
 * Four writers insert and remember what was acknowledged. Who is killed is drawn each time: everybody, the program
 * alone, the postmaster alone, or everybody in random order; so are the moment, and whether what lives on is killed
 * before the next start, which else has to end it.
 */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as fs from "node:fs"
import { setTimeout as pause } from "node:timers/promises"
import { gone, killAll, launch, type Place, processesIn, type Program, rows, session } from "./harness.ts"

export const killedSpec = {
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: { roles: [{ name: "web" }], databases: [{ name: "shop", owner: "web" }], settings: [] }
}

/** Inserts one row after the other until the connection is gone; what came back is acknowledged. */
const write = (at: Place, writer: number, cycle: number, acknowledged: Array<string>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* session(at, "shop")
      for (let n = 0; ; n++) {
        const key = `${cycle}-${writer}-${n}`
        yield* wire.simple(`insert into kept values ('${key}')`)
        acknowledged.push(key)
      }
    })
  ).pipe(Effect.ignore)

type Victims = "everybody" | "the program alone" | "the postmaster alone" | "one after the other"
const victims: ReadonlyArray<Victims> = [
  "everybody",
  "the program alone",
  "the postmaster alone",
  "one after the other"
]

const kill = Effect.fnUntraced(function* (who: Victims, program: Program, pgdata: string) {
  const postmaster = Number(fs.readFileSync(`${pgdata}/postmaster.pid`, "utf8").split("\n")[0])
  switch (who) {
    case "everybody":
      return killAll([program.pid, ...processesIn(pgdata)], "SIGKILL")
    case "the program alone":
      return killAll([program.pid], "SIGKILL")
    case "the postmaster alone":
      killAll([program.pid], "SIGSTOP")
      killAll([postmaster], "SIGKILL")
      return killAll([program.pid], "SIGKILL")
    case "one after the other":
      for (const pid of yield* Random.shuffle([program.pid, ...processesIn(pgdata)])) killAll([pid], "SIGKILL")
  }
})

/** Starts and kills `cycles` times, then stops in order; fails when a row that was acknowledged is not there. */
export const killCycles = Effect.fnUntraced(function* (
  at: Place,
  args: ReadonlyArray<string>,
  cycles: number,
  seed: string
) {
  const pgdata = `${at.directory}/pgdata`
  const acknowledged: Array<string> = []

  for (let cycle = 0; cycle <= cycles; cycle++) {
    const exit = yield* Effect.scoped(
      Effect.gen(function* () {
        const program = yield* launch(args, at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        if (cycle === 0) yield* rows(at, "create table kept (key text primary key)", "shop")
        const found = new Set((yield* rows(at, "select key from kept", "shop")).map(([key]) => key))
        const lost = acknowledged.filter((key) => !found.has(key))
        assert.deepStrictEqual(lost.slice(0, 5), [], `cycle ${cycle}: ${lost.length} acknowledged rows are gone`)
        assert.deepStrictEqual(yield* rows(at, "select timeline_id from pg_control_checkpoint()"), [["1"]])
        if (cycle === cycles) {
          program.signal("SIGTERM")
          return yield* Effect.promise(() => program.exit)
        }
        const who = yield* Random.nextIntBetween(0, victims.length).pipe(
          Effect.map((index) => victims[index] ?? "everybody")
        )
        const moment = yield* Random.nextIntBetween(50, 900)
        const writers = [1, 2, 3, 4].map((writer) => write(at, writer, cycle, acknowledged))
        const killing = Effect.promise(() => pause(moment)).pipe(Effect.andThen(kill(who, program, pgdata)))
        // Writers that outlive a kill go on until the next start fences them; they are waited for there.
        yield* Effect.all(
          [
            ...writers.map((writer) =>
              Effect.raceFirst(
                writer,
                Effect.promise(() => pause(moment + 700))
              )
            ),
            killing
          ],
          {
            concurrency: "unbounded",
            discard: true
          }
        )
        return null
      })
    )
    if (exit !== null) assert.deepStrictEqual(exit, { code: 0, signal: null })
    else if (yield* Random.nextBoolean) yield* Effect.sync(() => killAll(processesIn(pgdata), "SIGKILL"))
  }
  yield* Effect.promise(() => gone(pgdata))
  yield* Effect.sync(() =>
    process.stdout.write(`${cycles} kills, ${acknowledged.length} acknowledged rows, 0 lost (seed ${seed})\n`)
  )
  assert.isAbove(acknowledged.length, cycles, "the writers hardly wrote, so nothing was proved")
})
