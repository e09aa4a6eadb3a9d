/**
 * The same program with Postgres and storage simulated, in virtual time: what when the storage never answers? And does
 * a compute keep its promises, whatever happens, with an actor of one's own in it?
 */
import { assert, it } from "@effect/vitest"
import {
  Commands,
  ComputeState,
  parseSpec,
  type PlanInputs,
  Promotions,
  runLifecycle,
  Simulation,
  simulationLayer
} from "compute-ctl"
import { simulateSeeds } from "compute-ctl/testing"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import { TestClock } from "effect/testing"

const input = { format_version: 1, suspend_timeout_seconds: -1, cluster: { roles: [], databases: [] } }
const spec = Result.getOrThrow(parseSpec(input, { source: "example", storage: "local" }))
/** Nobody starts it: the paths are of no file. */
const storage = { _tag: "Local", durability: "os", superuser: "cloud_admin", pgdata: "/pgdata" } as const
const inputs: PlanInputs = {
  apiVersion: "head",
  postgresMajor: 17,
  platform: "linux",
  overcommitMemory: null,
  extensionServerPort: 3081,
  privilegedRole: "neon_superuser",
  storage: { ...storage, sockets: "/pgdata", osUsers: ["postgres"] },
  port: 5432
}
const asked = Layer.mergeAll(Commands.layer, Promotions.layer)
const compute = simulationLayer.pipe(Layer.provideMerge(asked), Layer.provideMerge(ComputeState.layer))

it.effect("a compute whose storage hangs can still be ended", () =>
  Effect.gen(function* () {
    yield* (yield* Simulation).interfere("commitLsn start", "hang")
    const fiber = yield* runLifecycle({ spec, inputs }).pipe(Effect.forkChild({ startImmediately: true }))
    yield* (yield* Commands).terminate("immediate")
    yield* TestClock.adjust("1 minute")
    assert.isNull((yield* Fiber.join(fiber)).exit)
    assert.strictEqual((yield* (yield* ComputeState).now).status, "terminated")
  }).pipe(Effect.provide(compute))
)

it("an actor of one's own is kept alive in random scenarios, and never changes the status", () => {
  const meter = { name: "meter", kind: "auxiliary", run: Effect.forever(Effect.sleep("1 second")) } as const
  return Effect.runPromise(simulateSeeds([1, 2, 3, 4, 5], { actors: [meter] }))
})
