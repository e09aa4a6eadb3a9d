/**
 * A compute whose Postgres, PGDATA, storage, hooks and SQL are simulated in memory: the real lifecycle runs, in virtual
 * time, and nothing outside is touched.
 *
 * `Simulation` is what a test holds: it records what the lifecycle asked for, makes a step fail, die or hang, and lets
 * the simulated Postgres leave. `Scenario.ts` does this at random.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import { Applier } from "../catalog/Applier.ts"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import type { ApplyReport } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { type ExitStatus, type Failure, type FileFailed, WireFailed } from "../errors/Failure.ts"
import { Standby } from "../lifecycle/Promote.ts"
import { Admin } from "../pgwire/Admin.ts"
import { makeOwnSessions } from "../pgwire/ownSessions.ts"
import { shutdownStages } from "../platform/shutdownStages.ts"
import { Pgdata } from "../postgres/Pgdata.ts"
import { Postmaster } from "../postgres/Postmaster.ts"
import type { PgdataFile } from "../postgres/startPlan.ts"
import type { PlanInputs } from "../postgres/PlanInputs.ts"
import type { Lsn } from "../spec/identifiers.ts"
import { Storage, type Timeline } from "../storage/Storage.ts"

/**
 * The steps in which a test can interfere: those of a start in their order, then of a later spec, and of the end.
 *
 * @example
 * ```ts
 * const first: string = simulationSteps[0]
 * ```
 */
export const simulationSteps = [
  "claim",
  "begin",
  "commitLsn start",
  "build",
  "beforeStart",
  "placeCertificate",
  "spawn",
  "afterSpawn",
  "ready",
  "rewrite",
  "reload",
  "apply start",
  "secure",
  "onRunning",
  "keep",
  "actor",
  "onSpecChanged",
  "apply reconfigure",
  "stop",
  "onStopped",
  "leave",
  "commitLsn end"
] as const

/** `keep` is the storage's actor; `actor` is passed by each of the compute's own actors whenever it begins. */
export type SimulationStep = (typeof simulationSteps)[number]

/**
 * `hang` never returns; `defect` is a bug; a `Failure` is what the step fails with, where it can fail; an effect comes
 * before the step, each time.
 */
export type Interference = "hang" | "defect" | Failure | Effect.Effect<void, Failure>

/**
 * What a test does to the simulated parts: interfere with a step, kill Postgres; and what it sees of them.
 *
 * @example
 * ```ts
 * const simulation = yield* Simulation
 * yield* simulation.interfere("commitLsn start", "hang")
 * ```
 */
export class Simulation extends Context.Service<
  Simulation,
  {
    /** Every step the lifecycle has taken, in order. */
    readonly passed: Effect.Effect<ReadonlyArray<SimulationStep>>
    /** From now on this step hangs, fails or dies, for so many `times` (by default for ever), or (`null`) behaves. */
    readonly interfere: (step: SimulationStep, how: Interference | null, times?: number) => Effect.Effect<void>
    /** From now on every step begins with this, such as a sleep. */
    readonly pace: (pause: Effect.Effect<void>) => Effect.Effect<void>
    /** Postgres leaves by itself. */
    readonly kill: (exit: ExitStatus) => Effect.Effect<void>
    /** Somebody else tells Postgres to stop: postmaster.pid says `stopping`, and it waits for its last session. */
    readonly stopFromOutside: Effect.Effect<void>
    /** Was it started, and has it not left yet? */
    readonly alive: Effect.Effect<boolean>
    /** How often the shutdown was escalated. */
    readonly escalations: Effect.Effect<number>

    // -- for the simulated parts ---------------------------------------------------------------------------------
    readonly pass: (step: SimulationStep) => Effect.Effect<void, Failure>
    readonly exit: Deferred.Deferred<ExitStatus>
    readonly spawned: Effect.Effect<void>
    readonly stopping: Effect.Effect<boolean>
    readonly escalate: Effect.Effect<void>
  }
>()("compute/testing/Simulation") {
  static readonly layer = Layer.effect(
    Simulation,
    Effect.gen(function* () {
      const passed: Array<SimulationStep> = []
      const rules = new Map<SimulationStep, { readonly how: Interference; left: number }>()
      let pause: Effect.Effect<void> = Effect.void
      let spawned = false
      let stopping = false
      let escalations = 0
      const exit = yield* Deferred.make<ExitStatus>()
      const pass = Effect.fnUntraced(function* (step: SimulationStep) {
        passed.push(step)
        yield* pause
        const rule = rules.get(step)
        if (rule === undefined) return
        if (--rule.left === 0) rules.delete(step)
        if (rule.how === "hang") return yield* Effect.never
        if (rule.how === "defect") return yield* Effect.die(new Error(`a bug in ${step}`))
        // A failure is an effect, too: the one that fails with it.
        yield* rule.how
      })
      return Simulation.of({
        passed: Effect.sync(() => [...passed]),
        interfere: (step, how, times = Infinity) =>
          Effect.sync(() => (how === null ? rules.delete(step) : rules.set(step, { how, left: times }))),
        pace: (effect) => Effect.sync(() => void (pause = effect)),
        kill: (how) => Effect.asVoid(Deferred.succeed(exit, how)),
        stopFromOutside: Effect.sync(() => void (stopping = true)),
        alive: Effect.map(Deferred.isDone(exit), (gone) => spawned && !gone),
        spawned: Effect.sync(() => void (spawned = true)),
        escalations: Effect.sync(() => escalations),
        pass,
        exit,
        stopping: Effect.sync(() => stopping),
        escalate: Effect.sync(() => void (escalations += 1))
      })
    })
  )
}

const clean: ExitStatus = { _tag: "Code", code: 0 }
const killed: ExitStatus = { _tag: "Signal", signal: "SIGKILL" }

/** A step that can fail in one way only: anything else that a test makes it fail with is a bug. */
const asFileFailed = (pass: Effect.Effect<void, Failure>): Effect.Effect<void, FileFailed> =>
  Effect.catch(pass, (failure) => (failure._tag === "FileFailed" ? Effect.fail(failure) : Effect.die(failure)))

const storage = (flushLsn: Lsn) =>
  Layer.effect(
    Storage,
    Effect.map(Simulation, (simulation) => {
      const timeline: Timeline = {
        commitLsn: (moment) =>
          Effect.as(
            simulation.pass(moment === "start" ? "commitLsn start" : "commitLsn end"),
            moment === "start" ? flushLsn - 16n : flushLsn
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
      claim: () => Effect.void,
      begin: () => asFileFailed(simulation.pass("begin")),
      build: (plan) =>
        simulation
          .pass("build")
          .pipe(Effect.andThen(write(plan.starting)), Effect.as({ archiveBytes: 0, connectMicros: 0 })),
      rewrite: (files) => Effect.andThen(asFileFailed(simulation.pass("rewrite")), write(files))
    })
  })
)

/** Longer than all its shutdown stages no Postgres takes to leave. */
const longestStop = shutdownStages.reduce((sum, { grace }) => Duration.sum(sum, grace), Duration.zero)

const postmaster = Layer.effect(
  Postmaster,
  Effect.map(Simulation, (simulation) => {
    const exit = Deferred.await(simulation.exit)
    const leave = Effect.orDie(simulation.pass("stop")).pipe(
      Effect.andThen(simulation.kill(clean)),
      Effect.timeoutOrElse({ duration: longestStop, orElse: () => simulation.kill(killed) })
    )
    const status = Effect.gen(function* () {
      if (!(yield* simulation.alive)) return null
      return (yield* simulation.stopping) ? ("stopping" as const) : ("ready" as const)
    })
    return Postmaster.of({
      start: () =>
        Effect.as(Effect.andThen(simulation.pass("spawn"), simulation.spawned), {
          pid: 1,
          ready: simulation.pass("ready"),
          exit,
          stop: Effect.raceFirst(Effect.andThen(leave, exit), exit),
          escalate: Effect.andThen(simulation.escalate, simulation.kill({ _tag: "Signal", signal: "SIGQUIT" })),
          status,
          recovery: Effect.succeed(null),
          forcedBy: Effect.succeed(null),
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
  connections: 0,
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

/** Makes `actor` a step of the simulation, which is passed whenever it begins. */
const interferable =
  (simulation: Simulation["Service"]) =>
  (actor: Actor): Actor => ({ ...actor, run: Effect.andThen(simulation.pass("actor"), actor.run) })

const hooks = (actors: ReadonlyArray<Actor>) =>
  Layer.effect(
    ComputeHooks,
    Effect.gen(function* () {
      const { pass, ...simulation } = yield* Simulation
      const own = actors.map(interferable({ pass, ...simulation }))
      return ComputeHooks.of({
        ...(yield* Effect.provide(ComputeHooks, ComputeHooks.none)),
        beforeStart: () => pass("beforeStart"),
        placeCertificate: () => pass("placeCertificate"),
        afterSpawn: () => Effect.orDie(pass("afterSpawn")),
        onSpecChanged: () => pass("onSpecChanged"),
        onRunning: () => Effect.orDie(pass("onRunning")),
        onStopped: Effect.orDie(pass("onStopped")),
        actors: () => own
      })
    })
  )

/** Of a simulated compute, which has neither a machine nor files. */
export const simulatedInputs: PlanInputs = {
  apiVersion: "head",
  postgresMajor: 17,
  platform: "linux",
  overcommitMemory: null,
  extensionServerPort: 3081,
  privilegedRole: "neon_superuser",
  storage: {
    _tag: "Local",
    durability: "os",
    superuser: "cloud_admin",
    pgdata: "/memory/pgdata",
    sockets: "/memory/pgdata",
    osUsers: ["postgres"]
  },
  port: 5432
}

/** A simulated Postgres takes no sessions: every connection is refused at once. */
export const noSessions = Layer.succeed(
  Admin,
  Admin.of({
    at: { host: "nowhere", port: 1, user: null, password: null, database: null, options: null, applicationName: null },
    superuser: "cloud_admin",
    systemDatabase: "postgres",
    sessions: makeOwnSessions(),
    guard: () => Effect.void,
    prove: () => Effect.void,
    expectMajor: () => Effect.void,
    startupOptions: () => Effect.succeed(""),
    connect: () =>
      Effect.fail(
        new WireFailed({
          operation: "connect",
          peer: "Postgres",
          detail: "the Postgres of a simulated compute takes no sessions"
        })
      )
  })
)

/** A replica that has all of its primary's WAL, and becomes a primary when it is told to. */
export const simulatedStandby = Layer.succeed(Standby, {
  replayed: Effect.succeed(0n),
  promote: Effect.succeed(true),
  takesWrites: Effect.succeed(true)
})

type Parts = Simulation | Storage | Pgdata | Postmaster | Applier | ComputeHooks

/**
 * The simulated parts, the actors of a compute's own beside them, and the simulation that a test steers them by.
 *
 * @example
 * ```ts
 * const meter = { name: "meter", kind: "auxiliary", run: Effect.never } as const
 * const parts = simulationWith([meter])
 * ```
 */
export const simulationWith = (actors: ReadonlyArray<Actor>, flushLsn: Lsn = 32n): Layer.Layer<Parts> =>
  Layer.mergeAll(storage(flushLsn), pgdata, postmaster, applier, hooks(actors)).pipe(
    Layer.provideMerge(Simulation.layer)
  )

/**
 * The same without any actor of one's own.
 *
 * @example
 * ```ts
 * const parts = Layer.mergeAll(simulationLayer, Commands.layer, Promotions.layer)
 * const compute = Layer.provideMerge(parts, ComputeState.layer)
 * ```
 */
export const simulationLayer: Layer.Layer<Parts> = simulationWith([])
