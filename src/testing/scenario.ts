/**
 * What happens to a simulated compute, drawn from a seed: steps that fail, die or hang, commands, signals, and a
 * Postgres that leaves. Pure: the same seed is the same scenario on every machine. `runScenario.ts` lets it happen.
 */
import { BasebackupFailed, type ExitStatus, type Failure, FileFailed, printExit } from "../errors/Failure.ts"
import type { TerminateMode } from "../compute/Commands.ts"
import { type Interference, type SimulationStep, simulationSteps } from "./Simulation.ts"

/** What a refresh finds when it fetches the spec. */
export type Fetched = "a spec" | "no spec" | "a failure" | "a defect" | "no answer"

export type ScenarioEvent =
  | {
      readonly _tag: "Interfere"
      readonly step: SimulationStep
      readonly how: Interference
      /** For so many times. */
      readonly times: number
    }
  | { readonly _tag: "Configure" | "Submit" | "Promote" | "Escalate" | "StopFromOutside" | "Interrupt" }
  | { readonly _tag: "Refresh"; readonly finds: Fetched }
  | { readonly _tag: "Terminate"; readonly mode: TerminateMode }
  | { readonly _tag: "Signal"; readonly name: "SIGTERM" | "SIGINT" }
  | { readonly _tag: "Exit"; readonly exit: ExitStatus }

export interface Scenario {
  readonly seed: number
  /** Is a spec at hand, or awaited? */
  readonly specGiven: boolean
  readonly isReplica: boolean
  /** Every step takes up to so many milliseconds, so that events come in the middle of steps, too. */
  readonly stepMillis: number
  /** `after`: milliseconds since the event before. */
  readonly events: ReadonlyArray<{ readonly after: number; readonly event: ScenarioEvent }>
}

/** Steps whose failure is an auxiliary actor's: it never changes the status. */
const auxiliarySteps: ReadonlyArray<SimulationStep> = ["keep", "actor", "onRunning"]

/** What an auxiliary actor fails with here; no status may ever say it. */
export const auxiliaryTrouble = "an auxiliary actor has trouble"

/** From 0 to 1, without end (mulberry32). */
const numbersOf = (seed: number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const failureOf = (step: SimulationStep): Failure =>
  auxiliarySteps.includes(step)
    ? new FileFailed({ operation: "write", path: auxiliaryTrouble })
    : step === "begin" || step === "rewrite"
      ? new FileFailed({ operation: "write", path: "/memory/pgdata" })
      : new BasebackupFailed({ lsn: "0/10", attempts: 1, cause: new Error(`${step} failed`) })

const exits: ReadonlyArray<ExitStatus> = [
  { _tag: "Code", code: 0 },
  { _tag: "Code", code: 1 },
  { _tag: "Signal", signal: "SIGKILL" }
]

/**
 * The scenario of a seed, a whole number.
 *
 * @example
 * ```ts
 * const scenario = scenarioOf(7)
 * ```
 */
export const scenarioOf = (seed: number): Scenario => {
  const next = numbersOf(seed)
  const upTo = (most: number) => Math.floor(next() * most)
  const oneOf = <A>(choices: ReadonlyArray<A>): A => choices[upTo(choices.length)] as A

  const interference = (): ScenarioEvent => {
    const step = oneOf(simulationSteps)
    return {
      _tag: "Interfere",
      step,
      how: oneOf(["hang", "defect", "defect", failureOf(step), failureOf(step)]),
      times: oneOf([1, 1, 3, Infinity])
    }
  }
  /** Ends are rare, or there would be little else. */
  const kinds: ReadonlyArray<() => ScenarioEvent> = [
    ...Array.from({ length: 6 }, () => interference),
    ...Array.from({ length: 4 }, () => () => ({ _tag: "Configure" }) as const),
    ...Array.from({ length: 4 }, () => () => ({ _tag: "Submit" }) as const),
    ...Array.from({ length: 2 }, () => () => ({ _tag: "Promote" }) as const),
    ...Array.from(
      { length: 3 },
      () => () =>
        ({
          _tag: "Refresh",
          finds: oneOf<Fetched>(["a spec", "a spec", "no spec", "a failure", "a defect", "no answer"])
        }) as const
    ),
    () => ({ _tag: "Terminate", mode: oneOf<TerminateMode>(["fast", "immediate"]) }),
    () => ({ _tag: "Signal", name: oneOf(["SIGTERM", "SIGINT"]) }),
    () => ({ _tag: "Exit", exit: oneOf(exits) }),
    () => ({ _tag: oneOf(["Escalate", "StopFromOutside", "Interrupt"]) })
  ]
  return {
    seed,
    specGiven: next() < 0.7,
    isReplica: next() < 0.3,
    stepMillis: oneOf([0, 100, 2_000]),
    events: [
      ...Array.from({ length: upTo(3) }, () => ({ after: 0, event: interference() })),
      ...Array.from({ length: 3 + upTo(8) }, () => ({ after: oneOf([0, 0, 50, 500, 3_000]), event: oneOf(kinds)() }))
    ]
  }
}

const printEvent = (event: ScenarioEvent): string => {
  switch (event._tag) {
    case "Interfere": {
      const how = typeof event.how === "string" ? event.how : "_tag" in event.how ? event.how._tag : "an effect"
      return `from now on "${event.step}" meets: ${how}${event.times === Infinity ? "" : `, ${event.times} times`}`
    }
    case "Refresh":
      return `Refresh, which finds ${event.finds}`
    case "Terminate":
      return `Terminate (${event.mode})`
    case "Signal":
      return event.name
    case "Exit":
      return `Postgres leaves with ${printExit(event.exit)}`
    default:
      return event._tag
  }
}

/**
 * The scenario as a person reads it.
 *
 * @example
 * ```ts
 * const text = printScenario(scenarioOf(7))
 * ```
 */
export const printScenario = ({ events, isReplica, seed, specGiven, stepMillis }: Scenario): string => {
  const spec = specGiven ? "a spec at hand" : "no spec yet"
  const lines = events.map(({ after, event }) => `  ${after} ms later: ${printEvent(event)}`)
  return [
    `seed ${seed}: ${isReplica ? "a replica" : "a primary"} with ${spec}, steps of up to ${stepMillis} ms`,
    ...lines
  ].join("\n")
}
