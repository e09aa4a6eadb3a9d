/**
 * Ten thousand random scenarios of a whole compute: whatever fails, dies, hangs, is asked for or killed, the lifecycle
 * keeps its promises (`src/testing/runScenario.ts` lists them).
 *
 * A seed that breaks one is in the message, with its scenario; `SEED=123` runs that one alone.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { type Actor, essentialAttempts } from "../../src/compute/Supervisor.ts"
import { PromiseBroken, runScenario, simulateSeeds } from "../../src/testing/runScenario.ts"
import { printScenario, type Scenario, scenarioOf } from "../../src/testing/scenario.ts"

const actors: ReadonlyArray<Actor> = [
  { name: "watcher", kind: "auxiliary", run: Effect.never },
  { name: "one-off task", kind: "auxiliary", run: Effect.void }
]

/** Seeds that once broke a promise: each stands for what was mended then. */
const onceBroken = [
  ["a Postgres whose spawn hangs can be ended", 25],
  ["a stop that dies is a failure, and who waits is answered", 41],
  ["a refresh that comes while the end begins is refused, and does not move the status", 59],
  ["the hooks of the first run may die", 60],
  ["a spec that comes while the end begins is refused, and does not move the status", 93],
  ["an end asked for during the exit delay is concluded, though the fiber is interrupted", 775]
] as const

const only = process.env["SEED"]
const seeds = only === undefined ? Array.from({ length: 10_000 }, (_, index) => index + 1) : [Number(only)]
const perTest = 1_000

describe("a compute in random scenarios", () => {
  for (const [title, seed] of onceBroken) {
    it(`${title} (seed ${seed})`, () => Effect.runPromise(simulateSeeds([seed], { actors })))
  }

  for (let at = 0; at < seeds.length; at += perTest) {
    const some = seeds.slice(at, at + perTest)
    it(`keeps its promises with the seeds ${some[0]} to ${some.at(-1)}`, { timeout: 120_000 }, () =>
      Effect.runPromise(simulateSeeds(some, { actors }))
    )
  }
})

describe("the simulation itself", () => {
  it("draws the same scenario from the same seed, and takes the same steps in it", async () => {
    for (const seed of [1, 2, 3, 4, 5]) {
      assert.strictEqual(printScenario(scenarioOf(seed)), printScenario(scenarioOf(seed)))
      const [one, two] = [
        await Effect.runPromise(runScenario(scenarioOf(seed), { actors })),
        await Effect.runPromise(runScenario(scenarioOf(seed), { actors }))
      ]
      assert.deepStrictEqual(one.passed, two.passed)
      assert.deepStrictEqual(one.snapshot.history, two.snapshot.history)
    }
  })

  it("notices an essential actor that gives up, and ends in order with its cause", async () => {
    const run = Effect.fail(new Error("no space left"))
    const quiet: Scenario = { seed: 0, specGiven: true, isReplica: false, stepMillis: 0, events: [] }
    const { broken, passed, snapshot } = await Effect.runPromise(
      runScenario(quiet, { actors: [{ name: "ledger", kind: "essential", run }] })
    )
    assert.deepStrictEqual(broken, [])
    assert.strictEqual(snapshot.status, "failed")
    assert.include(snapshot.error ?? "", "ledger failed too often and was given up: no space left")
    assert.lengthOf(
      passed.filter((step) => step === "actor"),
      essentialAttempts
    )
  })

  it("says the seed, the scenario and the broken promise of an actor that keeps the end from coming", async () => {
    const run = Effect.uninterruptible(Effect.never)
    const failure = await Effect.runPromise(
      Effect.flip(simulateSeeds([7], { actors: [{ name: "stubborn", kind: "auxiliary", run }] }))
    )
    assert.instanceOf(failure, PromiseBroken)
    assert.include(failure.message, "it never ended\nseed 7: ")
  })
})
