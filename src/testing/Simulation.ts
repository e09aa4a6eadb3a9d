/**
 * A compute whose Postgres, PGDATA, storage and SQL are simulated in memory: the real lifecycle runs, in virtual time,
 * and nothing outside is touched.
 *
 * `Simulation` is what a test holds: it records what the lifecycle asked for, makes a step fail or hang, and kills the
 * simulated Postgres.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import { Applier } from "../catalog/Applier.ts"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import type { ApplyReport } from "../compute/snapshot.ts"
import type { ExitStatus, Failure } from "../errors/Failure.ts"
import { Pgdata } from "../postgres/Pgdata.ts"
import { Postmaster } from "../postgres/Postmaster.ts"
import type { PgdataFile } from "../postgres/startPlan.ts"
import { Storage, type Timeline } from "../storage/Storage.ts"

/** The steps in which a test can interfere, in the order in which a start passes them. */
export type SimulationStep =
  | "claim"
  | "begin"
  | "commitLsn start"
  | "build"
  | "spawn"
  | "ready"
  | "apply start"
  | "apply reconfigure"
  | "rewrite"
  | "reload"
  | "secure"
  | "keep"
  | "stop"
  | "leave"
  | "commitLsn end"

/** `hang` never returns; a `Failure` is what the step fails with. */
export type Interference = "hang" | Failure

export class Simulation extends Context.Service<
  Simulation,
  {
    /** Every step the lifecycle has taken, in order. */
    readonly passed: Effect.Effect<ReadonlyArray<SimulationStep>>
    /** From now on this step hangs, fails, or (`null`) behaves. */
    readonly interfere: (step: SimulationStep, how: Interference | null) => Effect.Effect<void>
    /** Postgres leaves by itself. */
    readonly kill: (exit: ExitStatus) => Effect.Effect<void>
    /** How often the shutdown was escalated. */
    readonly escalations: Effect.Effect<number>
    readonly pass: (step: SimulationStep) => Effect.Effect<void, Failure>
    readonly exit: Deferred.Deferred<ExitStatus>
    readonly escalate: Effect.Effect<void>
  }
>()("compute/testing/Simulation") {
  static readonly layer = Layer.effect(
    Simulation,
    Effect.gen(function* () {
      const passed = yield* Ref.make<ReadonlyArray<SimulationStep>>([])
      const rules = yield* Ref.make<ReadonlyMap<SimulationStep, Interference>>(new Map())
      const escalations = yield* Ref.make(0)
      const exit = yield* Deferred.make<ExitStatus>()
      return Simulation.of({
        passed: Ref.get(passed),
        interfere: (step, how) =>
          Ref.update(
            rules,
            (old) => new Map([...old].filter(([key]) => key !== step).concat(how === null ? [] : [[step, how]]))
          ),
        kill: (how) => Effect.asVoid(Deferred.succeed(exit, how)),
        escalations: Ref.get(escalations),
        pass: Effect.fnUntraced(function* (step: SimulationStep) {
          yield* Ref.update(passed, (old) => [...old, step])
          const rule = (yield* Ref.get(rules)).get(step)
          if (rule === "hang") return yield* Effect.never
          if (rule !== undefined) return yield* Effect.fail(rule)
        }),
        exit,
        escalate: Ref.update(escalations, (times) => times + 1)
      })
    })
  )
}

const clean: ExitStatus = { _tag: "Code", code: 0 }

const storage = Layer.effect(
  Storage,
  Effect.map(Simulation, (simulation) => {
    const timeline: Timeline = {
      commitLsn: (moment) =>
        Effect.as(
          simulation.pass(moment === "start" ? "commitLsn start" : "commitLsn end"),
          moment === "start" ? 16n : 32n
        ),
      source: () => ({ _tag: "InPlace", restore: () => Effect.void }),
      secure: simulation.pass("secure"),
      keep: Effect.andThen(simulation.pass("keep"), Effect.never),
      leave: () => simulation.pass("leave")
    }
    return Storage.of({ kind: "local", claim: () => Effect.as(simulation.pass("claim"), timeline) })
  })
)

const pgdata = Layer.effect(
  Pgdata,
  Effect.gen(function* () {
    const simulation = yield* Simulation
    const written = yield* Ref.make<ReadonlyMap<string, string>>(new Map())
    /** Answers what the changed files held before. */
    const write = (files: ReadonlyArray<PgdataFile>) =>
      Ref.modify(written, (old) => [
        files
          .filter(({ content, name }) => old.get(name) !== content)
          .map(({ name }) => ({ name, content: old.get(name) ?? "" })),
        new Map([...old, ...files.map(({ content, name }) => [name, content] as const)])
      ])
    return Pgdata.of({
      directory: "/memory/pgdata",
      begin: () => Effect.orDie(simulation.pass("begin")),
      build: (plan) =>
        simulation
          .pass("build")
          .pipe(Effect.andThen(write(plan.starting)), Effect.as({ archiveBytes: 0, connectMicros: 0 })),
      rewrite: (files) => Effect.andThen(Effect.orDie(simulation.pass("rewrite")), write(files))
    })
  })
)

const postmaster = Layer.effect(
  Postmaster,
  Effect.map(Simulation, (simulation) => {
    const leave = Effect.orDie(simulation.pass("stop")).pipe(Effect.andThen(simulation.kill(clean)))
    const stop = Effect.raceFirst(
      Effect.andThen(leave, Deferred.await(simulation.exit)),
      Deferred.await(simulation.exit)
    )
    return Postmaster.of({
      start: () =>
        Effect.as(simulation.pass("spawn"), {
          pid: 1,
          ready: simulation.pass("ready"),
          exit: Deferred.await(simulation.exit),
          stop,
          escalate: Effect.andThen(simulation.escalate, simulation.kill({ _tag: "Signal", signal: "SIGQUIT" })),
          status: Effect.succeed("ready" as const),
          reload: Effect.orDie(simulation.pass("reload")),
          recentLog: Effect.succeed(["LOG:  simulated"])
        }).pipe(Effect.tap(() => Effect.addFinalizer(() => simulation.kill(clean))))
    })
  })
)

const nothingDone = (kind: ApplyReport["kind"]): ApplyReport => ({
  kind,
  startedAt: "1970-01-01T00:00:00.000Z",
  millis: 0,
  outcome: "done",
  phases: [],
  operations: [],
  roundTrips: 0,
  statements: 0
})

const applier = Layer.effect(
  Applier,
  Effect.map(Simulation, (simulation) =>
    Applier.of({
      apply: ({ kind }) =>
        Effect.as(simulation.pass(kind === "start" ? "apply start" : "apply reconfigure"), nothingDone(kind)),
      actor: { name: "SQL applier", kind: "essential", run: Effect.never },
      afterStart: { name: "after the start", kind: "auxiliary", run: Effect.void }
    })
  )
)

/** The simulated parts, and the simulation that a test steers them by. */
export const simulationLayer: Layer.Layer<Simulation | Storage | Pgdata | Postmaster | Applier | ComputeHooks> =
  Layer.mergeAll(storage, pgdata, postmaster, applier, ComputeHooks.none).pipe(Layer.provideMerge(Simulation.layer))
