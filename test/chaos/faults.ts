/**
 * What a cycle can be: a strike in a phase of a life, a second compute, a full disk, damage. A fault that is not one
 * of a strike in a phase is a small named value of its own here.
 */
import * as Effect from "effect/Effect"
import { type Compute, outcomeOf } from "./compute.ts"
import { flippedBase, flippedNote, flippedWal } from "./damage.ts"
import { type Phase, phases } from "./phases.ts"
import { killAll, processesIn } from "../support/processes.ts"
import { acknowledged, count, type Fault, killEverything, live, requireWhole, type Run, startCompute } from "./run.ts"
import { type Strike, strikes } from "./strikes.ts"
import { chance, drawn, found, oneOf, someMoment } from "./waiting.ts"

const struck = (strike: Strike, inPhases: ReadonlyArray<Phase>): Fault => ({
  ...strike,
  cycle: Effect.fnUntraced(function* (run) {
    const phase = yield* drawn(inPhases.filter(({ bases }) => !bases || run.storage.bases))
    count(run, phase.name)
    const compute = yield* phase.reach(run)
    yield* strike.hit(run, compute, phase.serves)
    // Of the program nothing is left; a Postgres of it is for the next start.
    killAll(compute.node(), "SIGKILL")
  })
})

/** Refused because another is there, and nothing else. */
const requireRefused = Effect.fnUntraced(function* (run: Run, rival: Compute) {
  const outcome = yield* outcomeOf(rival)
  if (outcome === "running") return yield* found("two writers", "a second compute runs on the same storage")
  if (!/runs on this timeline|is in use by/.test(rival.output())) {
    return yield* found("failed start", "a second compute failed for another reason than that it is the second")
  }
  killAll([rival.pid], "SIGKILL")
  count(run, "second computes refused")
})

/** Where the second one sees nobody else's processes, and with another PGDATA or the same. */
const startRival = Effect.fnUntraced(function* (run: Run) {
  const { apart, under } = run.arena
  const alone = apart !== null && (yield* chance(0.5))
  const place = (yield* chance(0.5)) ? run.rivalPlace : { ...run.rivalPlace, pgdata: run.place.pgdata }
  return startCompute(run, place, alone ? apart : under, alone)
})

const besideOneThatRuns: Fault = {
  name: "a second compute beside one that runs, or that is stopped",
  weight: 2,
  cycle: Effect.fnUntraced(function* (run) {
    const compute = yield* live(run)
    const stopped = yield* chance(0.4)
    if (stopped) killAll(compute.node(), "SIGSTOP")
    yield* requireRefused(run, yield* startRival(run))
    if (stopped) killAll(compute.node(), "SIGCONT")
    if (!(yield* acknowledged(run, compute, 20))) {
      return yield* found("two writers", "the first compute does not serve any more, now that a second was refused")
    }
    yield* killEverything(run)
  })
}

const besideOrphans: Fault = {
  name: "a second compute in another namespace beside the Postgres of one that was killed",
  weight: 1,
  needs: "apart",
  cycle: Effect.fnUntraced(function* (run) {
    const compute = yield* live(run)
    yield* acknowledged(run, compute, 20)
    killAll(compute.node(), "SIGKILL")
    yield* requireRefused(run, startCompute(run, run.rivalPlace, run.arena.apart ?? [], true))
    const before = run.ledger.acknowledged
    if (processesIn(run.place.pgdata).length === 0) {
      return yield* found("two writers", `a compute that was refused ended another one's Postgres (${before} rows)`)
    }
    yield* killEverything(run)
    const next = startCompute(run, run.rivalPlace, run.arena.apart ?? [], true)
    yield* requireWhole(run, next)
    yield* killEverything(run)
  })
}

const twoAtOnce: Fault = {
  name: "two starts at once after a kill",
  weight: 1,
  cycle: Effect.fnUntraced(function* (run) {
    const compute = yield* live(run)
    yield* someMoment(400)
    yield* yield* oneOf([killEverything(run), Effect.sync(() => killAll(compute.node(), "SIGKILL"))])
    const both = [startCompute(run), startCompute(run, run.rivalPlace)]
    const outcomes = yield* Effect.forEach(both, outcomeOf)
    const [winner, ...more] = both.filter((_, at) => outcomes[at] === "running")
    if (more.length > 0) return yield* found("two writers", "two computes run on the same storage")
    if (winner === undefined) return yield* found("failed start", `of two starts at once none succeeded: ${outcomes}`)
    yield* requireWhole(run, winner)
    yield* killEverything(run)
  })
}

const mebibyte = 1024 * 1024

const fullDisk: Fault = {
  name: "disk full",
  weight: 2,
  needs: "fill",
  cycle: Effect.fnUntraced(function* (run) {
    const compute = yield* live(run)
    yield* someMoment(400)
    run.arena.fill?.(yield* oneOf([0, mebibyte, 8 * mebibyte]))
    yield* someMoment(1500)
    yield* yield* oneOf([
      killEverything(run),
      Effect.sync(() => killAll(compute.node(), "SIGKILL")),
      Effect.sync(() => killAll(compute.node(), "SIGTERM"))
    ])
    if (yield* chance(0.6)) {
      yield* killEverything(run)
      const next = startCompute(run)
      const outcome = yield* outcomeOf(next)
      if (outcome === "running") yield* requireWhole(run, next)
      count(run, outcome === "running" ? "starts on a full disk" : "starts refused for a full disk")
    }
    yield* killEverything(run)
    run.arena.free()
  })
}

export const faults: ReadonlyArray<Fault> = [
  ...strikes.map((strike) => struck(strike, phases)),
  besideOneThatRuns,
  besideOrphans,
  twoAtOnce,
  fullDisk,
  flippedWal,
  flippedBase,
  flippedNote
]
