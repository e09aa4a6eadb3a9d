/**
 * When the vm-monitor listens, and when it is done.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { connect } from "node:net"
import { thresholdOf } from "../../src/autoscaling/decisions.ts"
import { VmMetrics } from "../../src/autoscaling/metrics.ts"
import { vmMonitor } from "../../src/autoscaling/VmMonitor.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { supervise } from "../../src/compute/Supervisor.ts"
import { ListenFailed } from "../../src/errors/Failure.ts"
import { freePort } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"
import { connectAgent, fakeCgroup, GiB, MiB, nothingManaged } from "./scriptedAgent.ts"

const isOpen = (port: number) =>
  Effect.callback<boolean>((resume) => {
    const socket = connect(port, "127.0.0.1")
    const done = (open: boolean) => {
      socket.destroy()
      resume(Effect.succeed(open))
    }
    socket.once("connect", () => done(true)).once("error", () => done(false))
  })

const becomes = (port: number, wanted: boolean) =>
  Effect.repeat(isOpen(port), { until: (open) => open === wanted }).pipe(Effect.timeout("10 seconds"), Effect.asVoid)

const layers = Layer.mergeAll(Layer.fresh(ComputeState.layer), Layer.fresh(VmMetrics.layer))

describe("the vm-monitor as an actor", () => {
  it.live(
    "listens from the start that succeeded until the compute ends, also while it is failed with a live Postgres",
    () =>
      Effect.gen(function* () {
        const port = yield* freePort
        const state = yield* ComputeState
        const actor = yield* Effect.forkScoped(
          supervise([vmMonitor({ ...nothingManaged, address: `127.0.0.1:${port}` })])
        )
        yield* state.send("StartBegan", { spec: emptySpec })
        assert.isFalse(yield* isOpen(port))
        yield* state.send("PostgresReady", { postgresAlive: true })
        yield* becomes(port, true)
        const agent = yield* connectAgent(port)
        yield* state.send("SpecArrived")
        yield* state.send("ConfigureBegan")
        yield* state.send("Broke")
        yield* agent.send("HealthCheck", 2)
        assert.deepStrictEqual(yield* agent.next, { type: "HealthCheck", id: 2 })
        yield* state.note({ postgresAlive: false })
        assert.deepStrictEqual(yield* agent.closed, { code: 1001, reason: "the monitor is going away" })
        yield* becomes(port, false)
        yield* state.note({ postgresAlive: true })
        yield* state.send("SpecArrived")
        yield* state.send("ConfigureBegan")
        yield* state.send("ConfigureDone")
        yield* becomes(port, true)
        yield* state.send("TerminateFastAsked")
        yield* Fiber.join(actor).pipe(Effect.timeout("10 seconds"))
        assert.isFalse(yield* isOpen(port))
      }).pipe(Effect.provide(layers))
  )

  it.live("each agent finds the machine and the spec as they are when it connects", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      const state = yield* ComputeState
      const group = yield* fakeCgroup
      const asked: Array<boolean> = []
      let total = 8 * GiB
      yield* Effect.forkScoped(
        supervise([
          vmMonitor({
            address: `127.0.0.1:${port}`,
            cgroup: "neon-postgres",
            cgroupRoot: group.root,
            fileCacheConnstr: null,
            totalMemory: Effect.sync(() => total),
            disableLfcResizing: (spec) => {
              asked.push(spec?.disableLfcResizing ?? false)
              return true
            }
          })
        ])
      )
      yield* state.send("StartBegan", { spec: emptySpec })
      yield* state.send("PostgresReady", { postgresAlive: true })
      yield* becomes(port, true)
      const metrics = yield* VmMetrics
      const threshold = Effect.map(metrics.now, ({ thresholdBytes }) => thresholdBytes)
      const seen = (wanted: number) =>
        Effect.repeat(threshold, { until: (now) => now === wanted, schedule: Schedule.spaced("5 millis") }).pipe(
          Effect.timeout("10 seconds")
        )
      yield* connectAgent(port)
      yield* seen(thresholdOf(8 * GiB))
      // 1 GiB is left, and more than its threshold is in use: it asks for more.
      total = GiB
      group.use(954 * MiB)
      yield* state.note({ spec: { ...emptySpec, disableLfcResizing: true } })
      const after = yield* connectAgent(port)
      yield* seen(thresholdOf(GiB))
      assert.deepInclude(yield* after.next, { type: "UpscaleRequest" })
      assert.deepStrictEqual(asked, [false, true])
    }).pipe(Effect.provide(layers))
  )

  it.live("a port that is taken is a condition of the compute, and does not end it", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      const state = yield* ComputeState
      const monitor = vmMonitor({ ...nothingManaged, address: `127.0.0.1:${port}` })
      yield* state.send("StartBegan", { spec: emptySpec })
      yield* state.send("PostgresReady", { postgresAlive: true })
      yield* Effect.forkScoped(Effect.scoped(monitor.run))
      yield* becomes(port, true)
      const error = yield* Effect.flip(monitor.run)
      assert.instanceOf(error, ListenFailed)
      const supervised = yield* Effect.forkScoped(supervise([monitor]))
      const raised = state.changes.pipe(
        Stream.filter(({ degraded }) => degraded.length > 0),
        Stream.runHead
      )
      const { degraded } = Option.getOrThrow(yield* raised)
      assert.deepInclude(degraded[0], { code: "actor_failing", about: "vm-monitor" })
      assert.isUndefined(supervised.pollUnsafe())
    }).pipe(Effect.provide(layers))
  )
})
