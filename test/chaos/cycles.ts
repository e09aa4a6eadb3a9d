/**
 * The cycles of a run, one fault each, until one of them finds something or there are enough; and the report.
 *
 * What a cycle draws depends on the seed and its number alone. When things happen depends on the machine, so a seed
 * repeats what is done and not what comes of it.
 */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { type Compute, lastLines } from "./compute.ts"
import { faults } from "./faults.ts"
import { checkPages } from "./ledger.ts"
import { killAll } from "../support/processes.ts"
import {
  answered,
  count,
  type Fault,
  firstStart,
  killEverything,
  makeRun,
  requireWhole,
  type Run,
  type RunOptions,
  startCompute,
  type Tally
} from "./run.ts"
import { drawn, type Found, found, withinMillis } from "./waiting.ts"

export const defaultLimits = { minutes: 2 } as const

export interface ChaosOptions extends RunOptions {
  readonly seed: string
  readonly minutes: number
  readonly cycles: number
  /** So many of the cycles; without it as they are drawn. */
  readonly powerCuts?: number | undefined
  /** Only faults whose names match. */
  readonly only?: RegExp | undefined
  /** Somebody wants no further cycle. */
  readonly ended?: () => boolean
}

export interface Report {
  readonly seed: string
  readonly what: string
  readonly minutes: number
  readonly tally: Tally
  readonly acknowledged: number
  readonly found: Found | null
  /** Where it is kept, when it was asked to be. */
  readonly kept: string | null
}

const isPossible =
  ({ arena, storage }: Run) =>
  ({ needs }: Fault): boolean =>
    needs === undefined || (needs === "bases" ? storage.bases : arena[needs] !== null)

const powerCut = (fault: Fault): boolean => fault.needs === "cutPower"

/** The rest of the power cuts among the rest of the cycles. */
const drawFault = Effect.fnUntraced(function* (run: Run, { cycles, only, powerCuts }: ChaosOptions) {
  const possible = faults.filter(isPossible(run)).filter(({ name }) => only?.test(name) ?? true)
  if (powerCuts === undefined) return yield* drawn(possible)
  const done = possible.filter(powerCut).reduce((sum, { name }) => sum + (run.tally.kinds.get(name) ?? 0), 0)
  const left = Math.max(0, powerCuts - done)
  const share = Number.isFinite(cycles) ? left / Math.max(1, cycles - run.tally.cycles + 1) : left > 0 ? 0.2 : 0
  const cut = (yield* Random.next) < share
  return yield* drawn(possible.filter((fault) => powerCut(fault) === cut))
})

/** A last start, that must have everything, and a stop in order. */
const lastStart = Effect.fnUntraced(function* (run: Run) {
  const compute = startCompute(run)
  yield* requireWhole(run, compute)
  yield* answered("amcheck", checkPages(run.place))
  run.tally.amchecks++
  killAll(compute.node(), "SIGTERM")
  yield* withinMillis(90_000, () => compute.left())
  if (compute.code() !== 0) return yield* found("failed stop", `the last stop left with exit code ${compute.code()}`)
})

const story = (run: Run): string =>
  [...run.computes]
    .slice(-2)
    .map((compute: Compute) => `--- the last of what a compute printed\n${lastLines(compute, 60)}`)
    .join("\n")

const runCycles = Effect.fnUntraced(function* (run: Run, options: ChaosOptions, say: (line: string) => void) {
  const from = performance.now()
  const over = () =>
    run.tally.cycles >= options.cycles ||
    performance.now() - from > options.minutes * 60_000 ||
    options.ended?.() === true
  yield* firstStart(run)
  yield* killEverything(run)
  while (!over()) {
    const cycle = ++run.tally.cycles
    yield* Effect.gen(function* () {
      const fault = yield* drawFault(run, options)
      const began = performance.now()
      count(run, fault.name)
      yield* fault.cycle(run).pipe(Effect.tapError(() => Effect.sync(() => say(`cycle ${cycle}: ${fault.name}`))))
      const millis = Math.round(performance.now() - began)
      say(`cycle ${cycle}: ${fault.name}, ${millis} ms, ${run.ledger.acknowledged} acknowledged`)
    }).pipe(Random.withSeed(`${options.seed}-${cycle}`))
  }
  yield* lastStart(run)
})

/** Never fails: what was found is in the report. */
export const runChaos = (options: ChaosOptions, say: (line: string) => void): Effect.Effect<Report> =>
  Effect.suspend(() => {
    const from = performance.now()
    let problem: Found | null = null
    return Effect.scoped(
      Effect.gen(function* () {
        say(`seed ${options.seed}`)
        const run = yield* makeRun(options, () => options.keep && problem !== null)
        say(`in ${run.arena.disk}: ${run.arena.what}`)
        const impossible = faults.filter((fault) => !isPossible(run)(fault))
        for (const { name } of impossible) say(`not here: ${name}`)
        yield* runCycles(run, options, say).pipe(
          Effect.catchTag("Found", (failure) =>
            Effect.sync(() => {
              problem = failure
              if (failure.kind === "failed start") run.tally.failedStarts++
              say(`cycle ${run.tally.cycles}: ${failure.kind}: ${failure.detail}\n${story(run)}`)
            })
          )
        )
        return {
          seed: options.seed,
          what: run.arena.what,
          minutes: (performance.now() - from) / 60_000,
          tally: run.tally,
          acknowledged: run.ledger.acknowledged,
          found: problem,
          kept: options.keep && problem !== null ? run.arena.home : null
        }
      })
    ).pipe(Random.withSeed(options.seed))
  })

export const printReport = ({ acknowledged, found, kept, minutes, seed, tally, what }: Report): string => {
  const lines = [
    ["cycles", `${tally.cycles} in ${minutes.toFixed(1)} minutes on ${what}, seed ${seed}`],
    ["acknowledged", String(acknowledged)],
    ["lost", found?.kind === "lost" ? found.detail : "0"],
    ["failed starts", String(tally.failedStarts)],
    ["longest start", `${tally.longestStartMillis.toFixed(0)} ms`],
    ["amchecks", String(tally.amchecks)],
    ...[...tally.kinds].sort(([a], [b]) => a.localeCompare(b)).map(([name, times]) => [`  ${name}`, String(times)]),
    ["found", found === null ? "nothing" : `${found.kind}: ${found.detail}`],
    ...(kept === null ? [] : [["kept", kept]])
  ]
  const width = Math.max(...lines.map(([name = ""]) => name.length))
  return lines.map(([name = "", value]) => `${name.padEnd(width)}  ${value}`).join("\n")
}
