/**
 * A later spec through the lifecycle, in virtual time: what Postgres thinks of the files decides whether they stay.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { Promotions } from "../../src/compute/Promotions.ts"
import { ApplyFailed, CertificateUnusable, type Failure, FileFailed, TimedOut } from "../../src/errors/Failure.ts"
import { policyOf } from "../../src/errors/policy.ts"
import { runLifecycle } from "../../src/lifecycle/Lifecycle.ts"
import { NewSession } from "../../src/lifecycle/postgresWatch.ts"
import { ConfigurationCheck, type ConfigurationProblems } from "../../src/postgres/configurationCheck.ts"
import type { PlanInputs } from "../../src/postgres/PlanInputs.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { simulationLayer, Simulation, type SimulationStep } from "../../src/testing/Simulation.ts"
import { emptySpec, localFacts } from "../support/specs.ts"

const compute = simulationLayer.pipe(
  Layer.provideMerge(Layer.mergeAll(Commands.layer, Promotions.layer)),
  Layer.provideMerge(ComputeState.layer)
)

const specWith = (value: string): ParsedSpec => ({
  ...emptySpec,
  operationId: value,
  settings: [{ name: "work_mem", value, quoted: true }]
})
const well: ConfigurationProblems = { problems: [], pending: [] }

/** A running compute whose Postgres thinks of its files what the test says. */
const running = Effect.fnUntraced(function* (inputs: PlanInputs = localFacts) {
  const opinion = yield* Ref.make<Effect.Effect<ConfigurationProblems, Failure>>(Effect.succeed(well))
  yield* runLifecycle({ spec: specWith("4MB"), inputs }).pipe(
    Effect.provideService(ConfigurationCheck, () => Effect.flatten(Ref.get(opinion))),
    Effect.forkChild({ startImmediately: true })
  )
  const state = yield* ComputeState
  const simulation = yield* Simulation
  yield* state.until("running")
  const before = (yield* simulation.passed).length
  return {
    opinion,
    state,
    simulation,
    since: Effect.map(simulation.passed, (passed) => passed.slice(before)),
    commands: yield* Commands
  }
})

const refusedCatalog = new ApplyFailed({ failures: ["role web: no"] })
const diskFull = new FileFailed({ operation: "write", path: "/memory/pgdata", cause: new Error("no space left") })
/** From where on each rewrite of files fails: after this step was passed, so many times. */
const failRewritesAfter = (simulation: Simulation["Service"], step: SimulationStep, times: number) =>
  simulation.pace(
    Effect.flatMap(simulation.passed, (passed) =>
      passed.at(-1) === step ? simulation.interfere("rewrite", diskFull, times) : Effect.void
    )
  )

describe("a later spec whose certificate cannot be had", () => {
  it.effect("fails before Postgres is given files that speak of it", () =>
    Effect.gen(function* () {
      const { commands, simulation, since, state } = yield* running()
      const missing = new CertificateUnusable({ certificate: "/tls.crt", detail: "it cannot be read" })
      yield* simulation.interfere("placeCertificate", missing, 1)
      assert.strictEqual(yield* Effect.flip(commands.configure(specWith("5MB"))), missing)
      assert.deepStrictEqual(yield* since, ["onSpecChanged", "placeCertificate"])
      assert.strictEqual((yield* state.now).status, "failed")
      assert.strictEqual((yield* commands.configure(specWith("5MB"))).status, "running")
    }).pipe(Effect.provide(compute))
  )
})

describe("a later spec that fails after its files are in force", () => {
  it.effect("leaves the files as they were, nothing waiting for a restart, and no condition", () =>
    Effect.gen(function* () {
      const { commands, opinion, simulation, since, state } = yield* running()
      yield* simulation.interfere("apply reconfigure", refusedCatalog, 1)
      const pending = [{ name: "max_connections", current: "30", wanted: "40" }]
      yield* Ref.set(opinion, Effect.succeed({ problems: [], pending }))
      yield* Effect.flip(commands.configure(specWith("5MB")))
      assert.deepStrictEqual(yield* since, [
        "onSpecChanged",
        "placeCertificate",
        "rewrite",
        "reload",
        "apply reconfigure",
        "rewrite",
        "reload"
      ])
      const { degraded, pendingRestart, status } = yield* state.now
      assert.deepStrictEqual([status, degraded, pendingRestart], ["failed", [], []])
      yield* Ref.set(opinion, Effect.succeed(well))
      assert.strictEqual((yield* commands.configure(specWith("5MB"))).status, "running")
    }).pipe(Effect.provide(compute))
  )

  it.effect("and whose files cannot be put back is a condition until a good spec", () =>
    Effect.gen(function* () {
      const { commands, simulation, state } = yield* running()
      yield* simulation.interfere("apply reconfigure", refusedCatalog, 1)
      yield* failRewritesAfter(simulation, "apply reconfigure", 1)
      yield* Effect.flip(commands.configure(specWith("5MB")))
      const [condition] = (yield* state.now).degraded
      assert.strictEqual(condition?.code, "reconfigure_incomplete")
      assert.include(condition?.message, "no space left")
      yield* simulation.pace(Effect.void)
      assert.deepStrictEqual((yield* commands.configure(specWith("6MB"))).degraded, [])
    }).pipe(Effect.provide(compute))
  )

  it.effect("and that Postgres could not be asked about stays, because it may be the cure; a condition says so", () =>
    Effect.gen(function* () {
      const { commands, opinion, simulation, since, state } = yield* running()
      yield* Ref.set(opinion, Effect.fail(new TimedOut({ what: "the check", millis: 5000 })))
      yield* simulation.interfere("apply reconfigure", refusedCatalog, 1)
      yield* Effect.flip(commands.configure(specWith("5MB")))
      assert.deepStrictEqual(yield* since, [
        "onSpecChanged",
        "placeCertificate",
        "rewrite",
        "reload",
        "apply reconfigure"
      ])
      assert.deepStrictEqual(
        (yield* state.now).degraded.map(({ code }) => code),
        ["reconfigure_incomplete"]
      )
      yield* Ref.set(opinion, Effect.succeed(well))
      assert.deepStrictEqual((yield* commands.configure(specWith("6MB"))).degraded, [])
    }).pipe(Effect.provide(compute))
  )

  it.effect("because of a bug is answered 500 `defect`, and the next good spec heals", () =>
    Effect.gen(function* () {
      const { commands, simulation, since, state } = yield* running()
      yield* simulation.interfere("apply reconfigure", "defect", 1)
      const failure = yield* Effect.flip(commands.configure(specWith("5MB")))
      if (failure._tag === "IllegalTransition") return assert.fail(failure.message)
      assert.deepInclude(policyOf(failure), { code: "defect", httpStatus: 500 })
      const { error, postgresAlive, status } = yield* state.now
      assert.deepStrictEqual([status, postgresAlive], ["failed", true])
      assert.include(error ?? "", "a bug in apply reconfigure")
      assert.deepStrictEqual((yield* since).slice(-2), ["rewrite", "reload"], "its files went back")
      assert.strictEqual((yield* commands.configure(specWith("5MB"))).status, "running")
    }).pipe(Effect.provide(compute))
  )

  it.effect("because no session begins with them puts them back, also where there is no catalog to apply", () =>
    Effect.gen(function* () {
      const begins = yield* Ref.make<Effect.Effect<void, Failure>>(Effect.void)
      const { commands, since, state } = yield* running().pipe(
        Effect.provideService(NewSession, Effect.flatten(Ref.get(begins)))
      )
      yield* Ref.set(begins, Effect.fail(new TimedOut({ what: "a new session", millis: 3000 })))
      yield* Effect.flip(commands.configure({ ...specWith("5MB"), skipCatalogUpdates: true }))
      assert.deepStrictEqual(yield* since, [
        "onSpecChanged",
        "placeCertificate",
        "rewrite",
        "reload",
        "rewrite",
        "reload"
      ])
      assert.strictEqual((yield* state.now).status, "failed")
    }).pipe(Effect.provide(compute))
  )
})

describe("the temporary override of an apply", () => {
  const neon: PlanInputs = { ...localFacts, storage: { _tag: "Neon" } }

  it.effect("that cannot be taken away fails nothing, and is a condition until the next apply takes it away", () =>
    Effect.gen(function* () {
      const { commands, simulation } = yield* running(neon)
      yield* failRewritesAfter(simulation, "apply reconfigure", 1)
      const [condition, ...others] = (yield* commands.configure(specWith("5MB"))).degraded
      assert.deepStrictEqual([condition?.code, others], ["override_not_reset", []])
      assert.include(condition?.message, "no space left")
      yield* simulation.pace(Effect.void)
      assert.deepStrictEqual((yield* commands.configure(specWith("6MB"))).degraded, [])
    }).pipe(Effect.provide(compute))
  )
})

describe("a later spec", () => {
  it.effect(
    "whose files have a mistake is refused with the places: the files go back, nothing is reloaded, the old spec stays",
    () =>
      Effect.gen(function* () {
        const { opinion, commands, since, state } = yield* running()
        yield* Ref.set(
          opinion,
          Effect.succeed({ problems: [{ path: "postgresql.conf line 3", message: "work_mem: no" }], pending: [] })
        )
        const failure = yield* Effect.flip(commands.configure(specWith("a lot")))
        assert.strictEqual(
          failure.message,
          "the spec (settings of Postgres) is not valid: postgresql.conf line 3: work_mem: no"
        )
        assert.deepStrictEqual(yield* since, ["onSpecChanged", "placeCertificate", "rewrite", "rewrite"])
        const { error, spec, status } = yield* state.now
        assert.deepStrictEqual([status, spec?.operationId], ["failed", "4MB"])
        assert.include(error ?? "", "work_mem: no")

        yield* Ref.set(opinion, Effect.succeed(well))
        const healed = yield* commands.configure(specWith("5MB"))
        assert.deepStrictEqual([healed.status, healed.error, healed.spec?.operationId], ["running", null, "5MB"])
      }).pipe(Effect.provide(compute))
  )

  it.effect(
    "that Postgres cannot be asked about is taken up all the same: what hinders it may be what the spec changes",
    () =>
      Effect.gen(function* () {
        const { opinion, commands, since } = yield* running()
        yield* Ref.set(
          opinion,
          Effect.fail(new TimedOut({ what: "the check of the configuration files", millis: 5000 }))
        )
        assert.strictEqual((yield* commands.configure(specWith("5MB"))).status, "running")
        assert.deepStrictEqual(yield* since, [
          "onSpecChanged",
          "placeCertificate",
          "rewrite",
          "reload",
          "apply reconfigure"
        ])
      }).pipe(Effect.provide(compute))
  )

  it.effect("shows what waits for a restart in its answer, until nothing waits", () =>
    Effect.gen(function* () {
      const { opinion, commands } = yield* running()
      const pending = [{ name: "max_connections", current: "30", wanted: "40" }]
      yield* Ref.set(opinion, Effect.succeed({ problems: [], pending }))
      assert.deepStrictEqual((yield* commands.configure(specWith("5MB"))).pendingRestart, pending)
      assert.deepStrictEqual(
        (yield* commands.configure(specWith("5MB"))).pendingRestart,
        pending,
        "nothing changed, so it still waits"
      )
      yield* Ref.set(opinion, Effect.succeed(well))
      assert.deepStrictEqual((yield* commands.configure(specWith("6MB"))).pendingRestart, [])
    }).pipe(Effect.provide(compute))
  )

  it.effect("that changes no file reloads nothing", () =>
    Effect.gen(function* () {
      const { commands, since } = yield* running()
      yield* commands.configure(specWith("4MB"))
      assert.deepStrictEqual(yield* since, ["onSpecChanged", "placeCertificate", "rewrite", "apply reconfigure"])
    }).pipe(Effect.provide(compute))
  )

  it.effect("replaces the last good one that stood in for it", () =>
    Effect.gen(function* () {
      const { commands, state } = yield* running()
      yield* state.note({ degraded: [{ code: "last_good_spec", message: "the control plane is down" }] })
      assert.deepStrictEqual((yield* commands.configure(specWith("5MB"))).degraded, [])
    }).pipe(Effect.provide(compute))
  )
})
