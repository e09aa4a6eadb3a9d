/**
 * SIGHUP through the whole lifecycle, in virtual time: the spec is read again and applied, or nothing changes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import { TestClock } from "effect/testing"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { Promotions } from "../../src/compute/Promotions.ts"
import { supervise } from "../../src/compute/Supervisor.ts"
import { SpecInvalid } from "../../src/errors/Failure.ts"
import { runLifecycle } from "../../src/lifecycle/Lifecycle.ts"
import { reloadActor } from "../../src/lifecycle/reload.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { simulationLayer } from "../../src/testing/Simulation.ts"
import { emptySpec, localFacts } from "../support/specs.ts"
import { recordedLog } from "./fixture.ts"

const compute = simulationLayer.pipe(
  Layer.provideMerge(Layer.mergeAll(Commands.layer, Promotions.layer)),
  Layer.provideMerge(ComputeState.layer)
)

const named = (operationId: string): ParsedSpec => ({ ...emptySpec, operationId })

/** A compute that runs the spec `first`, one SIGHUP, and what is then so. */
const afterHangUp = Effect.fnUntraced(function* (refetch: Parameters<typeof reloadActor>[1]) {
  const state = yield* ComputeState
  const hangUps = yield* Queue.unbounded<void>()
  yield* Effect.forkChild(runLifecycle({ spec: named("first"), inputs: localFacts }), { startImmediately: true })
  yield* Effect.forkChild(supervise([reloadActor(Queue.take(hangUps), refetch, null)]), { startImmediately: true })
  yield* state.until("running")
  yield* Queue.offer(hangUps, undefined)
  yield* TestClock.adjust("1 second")
  const { degraded, spec, status } = yield* state.now
  return { status, spec: spec?.operationId, conditions: degraded.length }
})

const asItWas: Effect.Success<ReturnType<typeof afterHangUp>> = { status: "running", spec: "first", conditions: 0 }

describe("SIGHUP without a terminal", () => {
  it.effect("applies the spec as it now is", () =>
    Effect.gen(function* () {
      const now = yield* afterHangUp(Effect.succeed(named("second")))
      assert.deepStrictEqual(now, { ...asItWas, spec: "second" })
    }).pipe(Effect.provide(compute))
  )

  for (const [what, refetch, says] of [
    [
      "a spec that cannot be read",
      Effect.fail(new SpecInvalid({ source: "/etc/spec.json", problems: [{ path: "spec", message: "no JSON" }] })),
      /Error: the spec was read again and is not applied.*\/etc\/spec\.json.*no JSON/s
    ],
    [
      "a spec of another compute",
      Effect.succeed<ParsedSpec>({ ...named("other"), mode: { _tag: "Replica" } }),
      /Error: the spec was read again and is not applied.*spec\.mode/s
    ],
    ["a source that has none", Effect.succeed(null), /Warn: there is no spec where it came from/],
    ["a spec of the command line", null, /Warn: received SIGHUP, and nothing is read again.*\/configure/]
  ] as const) {
    it.effect(`leaves the compute as it is with ${what}, and says so`, () =>
      Effect.gen(function* () {
        const { layer, lines } = recordedLog()
        assert.deepStrictEqual(yield* Effect.provide(afterHangUp(refetch), layer), asItWas)
        assert.match(lines.join("\n"), says)
      }).pipe(Effect.provide(compute))
    )
  }
})
