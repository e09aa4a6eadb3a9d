/**
 * The monitor's ticks in virtual time, with a Postgres that answers what the test says.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import { TestClock } from "effect/testing"
import { monitor } from "../../src/activity/ActivityMonitor.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { idleTooLong } from "../../src/compute/transitions.ts"
import { TimedOut, WireFailed } from "../../src/errors/Failure.ts"
import { Admin } from "../../src/pgwire/Admin.ts"
import { makeOwnSessions } from "../../src/pgwire/ownSessions.ts"
import type { Wire } from "../../src/pgwire/Wire.ts"
import { emptySpec } from "../support/specs.ts"
import { clockThatIsSet } from "../support/virtualTime.ts"

type Row = ReadonlyArray<string | null>

const broken = new WireFailed({ operation: "query", peer: "memory", detail: "connection lost" })
const idle = (at: number, idleSince: number | null = null): Row => [
  String(at),
  "0",
  idleSince === null ? null : String(idleSince),
  "0",
  "0",
  "0",
  "0",
  "0",
  "0"
]
const busy = (at: number): Row => idle(at).with(1, "1")

/** Counts samples and connections; `answer` decides each sample. */
const scripted = (answer: (samples: number) => Effect.Effect<Row, WireFailed>) =>
  Effect.gen(function* () {
    const samples = yield* Ref.make(0)
    const connections = yield* Ref.make(0)
    const rows: Wire["rows"] = (_, within = "1 hour") =>
      Effect.flatMap(
        Ref.updateAndGet(samples, (n) => n + 1),
        (n) => Effect.map(answer(n), (row) => [row])
      ).pipe(
        Effect.timeoutOrElse({
          duration: within,
          orElse: () => Effect.fail(new TimedOut({ what: "a query", millis: 0 }))
        })
      )
    const wire: Wire = {
      peer: "memory",
      backendPid: 1,
      localPort: null,
      rows,
      simple: () => Effect.die("the monitor asks one query a sample"),
      pipeline: () => Effect.die("the monitor asks one query a sample"),
      copyOut: () => {
        throw new Error("the monitor copies nothing")
      },
      terminate: Effect.void
    }
    const admin = Layer.succeed(
      Admin,
      Admin.of({
        at: {
          host: "memory",
          port: 1,
          user: null,
          password: null,
          database: null,
          options: null,
          applicationName: null
        },
        superuser: "cloud_admin",
        systemDatabase: "postgres",
        sessions: makeOwnSessions(),
        guard: () => Effect.void,
        prove: () => Effect.void,
        expectMajor: () => Effect.void,
        startupOptions: () => Effect.succeed(""),
        connect: () =>
          Effect.as(
            Ref.update(connections, (n) => n + 1),
            wire
          )
      })
    )
    return { admin, samples: Ref.get(samples), connections: Ref.get(connections) }
  })

const running = Effect.gen(function* () {
  const state = yield* ComputeState
  yield* state.send("StartBegan")
  yield* state.send("PostgresReady")
  return state
})

const start = (admin: Layer.Layer<Admin>, exitWhenIdle = false) =>
  monitor({ exitWhenIdle }).run.pipe(Effect.provide(admin), Effect.forkChild({ startImmediately: true }))

describe("the activity monitor", () => {
  it.effect("waits until the compute runs, then takes a sample every 500 ms over one connection", () =>
    Effect.gen(function* () {
      const { admin, connections, samples } = yield* scripted((n) => Effect.succeed(idle(n)))
      const state = yield* ComputeState
      yield* start(admin)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* samples, 0)
      yield* running
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* samples, 21)
      assert.strictEqual(yield* connections, 1)
      assert.isNull((yield* state.now).lastActive)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("last_active never goes back", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(1_000_000)
      const { admin } = yield* scripted((n) => Effect.succeed(idle(1_000_000, n < 3 ? 700_000 : 600_000)))
      const state = yield* running
      yield* start(admin)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* state.now).lastActive?.epochMilliseconds, 700_000)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect(
    "a clock that was ahead leaves last_active in the future until the next look, not for as long as it was",
    () =>
      Effect.gen(function* () {
        yield* TestClock.setTime(10_000_000)
        const { clock, set } = yield* clockThatIsSet
        set(3_600_000)
        const { admin } = yield* scripted((n) =>
          n === 1 ? Effect.succeed(busy(13_600_000)) : Effect.succeed(idle(10_000_000))
        )
        const state = yield* running
        yield* Effect.provideService(start(admin), Clock.Clock, clock)
        assert.strictEqual((yield* state.now).lastActive?.epochMilliseconds, 13_600_000)
        set(-3_600_000)
        yield* TestClock.adjust("10 minutes")
        const { activity, lastActive } = yield* state.now
        assert.strictEqual(lastActive?.epochMilliseconds, 10_000_500)
        assert.strictEqual(activity?.last.client, 10_000_000)
      }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("a failed sample is downtime and a new connection; the next answer ends it, the total stays", () =>
    Effect.gen(function* () {
      const { admin, connections } = yield* scripted((n) =>
        n >= 2 && n <= 4 ? Effect.fail(broken) : Effect.succeed(idle(n))
      )
      const state = yield* running
      yield* start(admin)
      yield* TestClock.adjust("500 millis")
      // The failure is the second sample's, half a second after the first, which was answered.
      assert.deepStrictEqual((yield* state.now).downtime, { current: 500, total: 500 })
      yield* TestClock.adjust("500 millis")
      assert.deepStrictEqual((yield* state.now).downtime, { current: 1_000, total: 1_000 })
      yield* TestClock.adjust("10 seconds")
      const { downtime, status } = yield* state.now
      assert.deepStrictEqual(downtime, { current: 0, total: 2_000 })
      assert.strictEqual(status, "running")
      assert.strictEqual(yield* connections, 4)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("an answer that does not come is a failed sample", () =>
    Effect.gen(function* () {
      const { admin, connections } = yield* scripted(() => Effect.never)
      const state = yield* running
      yield* start(admin)
      yield* TestClock.adjust("1 minute")
      assert.isAtLeast(yield* connections, 2)
      assert.isAtLeast((yield* state.now).downtime.current, 50_000)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("an answer of another shape is a failed sample, and never stops the compute", () =>
    Effect.gen(function* () {
      const { admin } = yield* scripted(() => Effect.succeed(["x"]))
      const state = yield* running
      const fiber = yield* start(admin)
      yield* TestClock.adjust("1 hour")
      assert.isUndefined(fiber.pollUnsafe())
      assert.strictEqual((yield* state.now).status, "running")
      assert.isAbove((yield* state.now).downtime.total, 3_500_000)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("waits while the compute is failed, and takes samples again when it is healed", () =>
    Effect.gen(function* () {
      const { admin, connections, samples } = yield* scripted((n) => Effect.succeed(idle(n)))
      const state = yield* running
      yield* start(admin)
      yield* TestClock.adjust("1 second")
      yield* state.send("Broke")
      yield* TestClock.adjust("1 second")
      const before = yield* samples
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* samples, before)
      yield* state.send("SpecArrived")
      yield* state.send("ConfigureBegan")
      yield* state.send("ConfigureDone")
      yield* TestClock.adjust("1 second")
      assert.isAbove(yield* samples, before)
      assert.strictEqual(yield* connections, 2)
      assert.deepStrictEqual((yield* state.now).downtime, { current: 0, total: 0 })
    }).pipe(Effect.provide(ComputeState.layer))
  )

  for (const trigger of ["TerminateFastAsked", "TerminateImmediateAsked"] as const) {
    it.effect(`is done at once after ${trigger}, also in the middle of a sample`, () =>
      Effect.gen(function* () {
        const { admin } = yield* scripted(() => Effect.never)
        const state = yield* running
        const fiber = yield* start(admin)
        yield* state.send(trigger)
        yield* Fiber.join(fiber)
        assert.isTrue(DateTime.isDateTime((yield* state.now).since))
      }).pipe(Effect.provide(ComputeState.layer))
    )
  }

  it.effect("is done without a sample when the compute ends before it ran", () =>
    Effect.gen(function* () {
      const { admin, samples } = yield* scripted(() => Effect.die("nobody should take a sample"))
      const state = yield* ComputeState
      const fiber = yield* start(admin)
      yield* state.send("TerminateFastAsked")
      yield* Fiber.join(fiber)
      assert.strictEqual(yield* samples, 0)
    }).pipe(Effect.provide(ComputeState.layer))
  )
})

describe("a compute that ends when nobody uses it", () => {
  const suspendAfter = Effect.fnUntraced(function* (suspendTimeoutSeconds: number) {
    const state = yield* running
    yield* state.note({ spec: { ...emptySpec, suspendTimeoutSeconds } })
    return state
  })
  const statusAfter = Effect.fnUntraced(function* (state: ComputeState["Service"], time: Duration.Input) {
    yield* TestClock.adjust(time)
    return (yield* state.now).status
  })

  it.effect("ends when the time of its spec has passed since the last use, and says why", () =>
    Effect.gen(function* () {
      const { admin } = yield* scripted((n) => Effect.succeed(n < 20 ? busy(n) : idle(n)))
      const state = yield* suspendAfter(60)
      yield* start(admin, true)
      assert.strictEqual(yield* statusAfter(state, "68 seconds"), "running")
      assert.isTrue((yield* state.now).exitWhenIdle)
      assert.strictEqual(yield* statusAfter(state, "2 seconds"), "termination_pending_immediate")
      assert.strictEqual((yield* state.now).history.at(-1)?.because, idleTooLong)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  for (const [what, seconds, ends] of [
    ["never, when the spec says so", -1, false],
    ["after five minutes, when the spec says nothing", 0, true]
  ] as const)
    it.effect(`ends ${what}`, () =>
      Effect.gen(function* () {
        const { admin } = yield* scripted((n) => Effect.succeed(idle(n)))
        const state = yield* suspendAfter(seconds)
        yield* start(admin, true)
        assert.strictEqual(yield* statusAfter(state, "299 seconds"), "running")
        assert.strictEqual(yield* statusAfter(state, "10 minutes"), ends ? "termination_pending_immediate" : "running")
      }).pipe(Effect.provide(ComputeState.layer))
    )

  it.effect("does not unless it was asked to", () =>
    Effect.gen(function* () {
      const { admin } = yield* scripted((n) => Effect.succeed(idle(n)))
      const state = yield* suspendAfter(1)
      yield* start(admin)
      assert.strictEqual(yield* statusAfter(state, "10 minutes"), "running")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("waits for holds, and its time begins anew with their end and with a new spec", () =>
    Effect.gen(function* () {
      const { admin } = yield* scripted((n) => Effect.succeed(idle(n)))
      const state = yield* suspendAfter(60)
      yield* start(admin, true)
      yield* state.note({ holds: [{ id: "1", reason: "backup", createdAt: 0, expiresAt: 0, endsAt: 0 }] })
      assert.strictEqual(yield* statusAfter(state, "10 minutes"), "running")
      yield* state.note({ holds: [] })
      assert.strictEqual(yield* statusAfter(state, "59 seconds"), "running")
      for (const on of ["SpecArrived", "ConfigureBegan", "ConfigureDone"] as const) yield* state.send(on)
      assert.strictEqual(yield* statusAfter(state, "59 seconds"), "running")
      assert.strictEqual(yield* statusAfter(state, "2 seconds"), "termination_pending_immediate")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("does not take a time in which Postgres did not answer, or a clock that was set, for idleness", () =>
    Effect.gen(function* () {
      const { admin } = yield* scripted((n) => (n >= 20 && n < 60 ? Effect.fail(broken) : Effect.succeed(idle(n))))
      const state = yield* suspendAfter(60)
      const { clock, set } = yield* clockThatIsSet
      yield* Effect.provideService(start(admin, true), Clock.Clock, clock)
      set(3_600_000)
      assert.strictEqual(yield* statusAfter(state, "2 minutes"), "running")
      set(-7_200_000)
      assert.strictEqual(yield* statusAfter(state, "100 seconds"), "running")
      assert.strictEqual(yield* statusAfter(state, "2 minutes"), "termination_pending_immediate")
    }).pipe(Effect.provide(ComputeState.layer))
  )
})
