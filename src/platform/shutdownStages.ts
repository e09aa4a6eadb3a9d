/**
 * How a process is made to leave: signal after signal, each with its grace, SIGKILL last. So it always ends.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { ExitStatus } from "../errors/Failure.ts"

export interface ShutdownStage {
  /** `SIGTERM` is for helper programs; the postmaster never gets it. */
  readonly signal: "SIGTERM" | "SIGINT" | "SIGQUIT" | "SIGKILL"
  readonly grace: Duration.Duration
  readonly meaning: string
}

/**
 * Postgres's. There is no SIGTERM stage: Postgres reads it as a smart shutdown, which waits for every client to leave
 * of its own accord.
 */
export const shutdownStages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGINT", grace: Duration.seconds(60), meaning: "fast: roll back, write the shutdown checkpoint" },
  { signal: "SIGQUIT", grace: Duration.seconds(10), meaning: "immediate: drop everything, recover on the next start" },
  { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }
]

/** A helper program's that is no longer wanted. */
export const helperStages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGINT", grace: Duration.seconds(2), meaning: "interrupt" },
  { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }
]

/** Of a program that only answers a question: it has nothing to put in order, and nobody waits for it. */
export const questionStages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }
]

/** Stages that stop short of SIGKILL would leave a child behind. */
const lastResort: ShutdownStage = { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }

export interface Shutdown {
  readonly stages: ReadonlyArray<ShutdownStage>
  readonly exit: Effect.Effect<ExitStatus>
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Completes when the current grace shall be cut short. Taken anew for each stage. */
  readonly escalate?: Effect.Effect<void>
  /** Runs before each signal, but not when the process had left already. */
  readonly onStage?: (stage: ShutdownStage) => Effect.Effect<void>
}

/** How the process left, or `null` when not even SIGKILL made it leave within its grace. */
export const runStages = Effect.fnUntraced(function* (shutdown: Shutdown): Effect.fn.Return<ExitStatus | null> {
  const { exit, escalate = Effect.never, onStage = () => Effect.void, signal } = shutdown
  const killed = shutdown.stages.some((stage) => stage.signal === "SIGKILL")
  const stages = killed ? shutdown.stages : [...shutdown.stages, lastResort]
  const already = yield* Effect.timeoutOption(exit, 0)
  if (Option.isSome(already)) return already.value
  for (const [index, stage] of stages.entries()) {
    yield* onStage(stage)
    yield* signal(stage.signal)
    const cut = index === stages.length - 1 ? Effect.never : escalate
    const left = yield* Effect.raceFirst(Effect.asSome(exit), Effect.as(cut, Option.none())).pipe(
      Effect.timeoutOrElse({ duration: stage.grace, orElse: () => Effect.succeedNone })
    )
    if (Option.isSome(left)) return left.value
  }
  return null
})
