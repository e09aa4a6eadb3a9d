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
import { type Failure, TimedOut } from "../../src/errors/Failure.ts"
import { runLifecycle } from "../../src/lifecycle/Lifecycle.ts"
import { ConfigurationCheck, type ConfigurationProblems } from "../../src/postgres/configurationCheck.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { simulationLayer, Simulation } from "../../src/testing/Simulation.ts"
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
const running = Effect.fnUntraced(function* () {
  const opinion = yield* Ref.make<Effect.Effect<ConfigurationProblems, Failure>>(Effect.succeed(well))
  yield* runLifecycle({ spec: specWith("4MB"), inputs: localFacts }).pipe(
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
    since: Effect.map(simulation.passed, (passed) => passed.slice(before)),
    commands: yield* Commands
  }
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
        assert.deepStrictEqual(yield* since, ["onSpecChanged", "rewrite", "rewrite"])
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
        assert.deepStrictEqual(yield* since, ["onSpecChanged", "rewrite", "reload", "apply reconfigure"])
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
      assert.deepStrictEqual(yield* since, ["onSpecChanged", "rewrite", "apply reconfigure"])
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
