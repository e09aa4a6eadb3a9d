/**
 * The shared state: only rows of the table move the status, waiting is never late, and nothing that was learned is
 * forgotten.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { type Status, statuses, table, Trigger } from "../../src/compute/transitions.ts"
import { clockThatIsSet } from "../support/virtualTime.ts"

const start = Effect.gen(function* () {
  const state = yield* ComputeState
  yield* state.send("StartBegan")
  yield* state.send("PostgresReady", { postgresAlive: true })
  return state
})

describe("ComputeState", () => {
  it.effect("begins empty, now", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const { lastActive, since, startTime, status, steps } = yield* state.now
      assert.strictEqual(status, "empty")
      assert.strictEqual(since.epochMilliseconds, (yield* DateTime.now).epochMilliseconds)
      assert.strictEqual(startTime.epochMilliseconds, since.epochMilliseconds)
      assert.isNull(lastActive)
      assert.deepStrictEqual(steps, [])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("refuses a jump that is no row, and stays as it was", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const before = yield* state.now
      const refused = yield* Effect.flip(state.send("PostgresReady", { error: "must not be kept" }))
      assert.strictEqual(refused._tag, "IllegalTransition")
      assert.strictEqual(refused.from, "empty")
      assert.strictEqual(refused.on, "PostgresReady")
      assert.deepStrictEqual(yield* state.now, before)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect.prop(
    "moves only along the table, whatever is asked of it",
    {
      triggers: Schema.Array(Trigger).pipe(Schema.check(Schema.isMaxLength(30)))
    },
    ({ triggers }) =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        let at: Status = (yield* state.now).status
        for (const on of triggers) {
          const row = table.find((candidate) => candidate.from === at && candidate.on === on)
          const answer = yield* Effect.result(state.send(on))
          assert.strictEqual(answer._tag, row === undefined ? "Failure" : "Success", `${at} ${on}`)
          at = row?.to ?? at
          assert.strictEqual((yield* state.now).status, at)
        }
      }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("notes when a status began, and facts that came with it", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* TestClock.adjust("3 seconds")
      const snapshot = yield* state.send("StartBegan", { postgresAlive: true })
      assert.strictEqual(snapshot.since.epochMilliseconds - snapshot.startTime.epochMilliseconds, 3000)
      assert.isTrue(snapshot.postgresAlive)
      assert.deepStrictEqual(yield* state.now, snapshot)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("forgets the error once it is running again, unless there is a new one", () =>
    Effect.gen(function* () {
      const state = yield* start
      assert.strictEqual((yield* state.send("Broke", { error: "it broke" })).error, "it broke")
      assert.strictEqual((yield* state.send("SpecArrived")).error, "it broke")
      yield* state.send("ConfigureBegan")
      assert.isNull((yield* state.send("ConfigureDone")).error)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("wakes whoever waits, and never makes wait for what is already so", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const waiting = yield* Effect.forkChild(state.until("running", "failed"), { startImmediately: true })
      assert.strictEqual((yield* state.until("empty")).status, "empty")
      yield* state.send("StartBegan")
      assert.isUndefined(waiting.pollUnsafe())
      yield* state.send("PostgresReady")
      assert.strictEqual((yield* Fiber.join(waiting)).status, "running")
      assert.strictEqual((yield* state.until("running")).status, "running")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("shows a status that passed quickly to whoever was waiting for it", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const waiting = yield* Effect.forkChild(state.until("init"), { startImmediately: true })
      yield* state.send("StartBegan")
      yield* state.send("PostgresReady")
      yield* state.send("TerminateImmediateAsked")
      assert.strictEqual((yield* Fiber.join(waiting)).status, "init")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("shows the current snapshot and then each later one", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const seen = yield* Effect.forkChild(
        state.changes.pipe(
          Stream.map(({ status }) => status),
          Stream.take(3),
          Stream.runCollect
        ),
        { startImmediately: true }
      )
      yield* state.send("StartBegan")
      yield* state.send("PostgresReady")
      assert.deepStrictEqual([...(yield* Fiber.join(seen))], ["empty", "init", "running"])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect.prop(
    "keeps the latest moment of activity, in whatever order they come",
    {
      moments: Schema.Array(Schema.Int.pipe(Schema.check(Schema.isBetween({ minimum: 0, maximum: 1e12 }))))
    },
    ({ moments }) =>
      Effect.gen(function* () {
        yield* TestClock.setTime(1e12)
        const state = yield* ComputeState
        let latest: number | null = null
        for (const millis of moments) {
          yield* state.active(DateTime.makeUnsafe(millis))
          latest = Math.max(latest ?? millis, millis)
          assert.strictEqual((yield* state.now).lastActive?.epochMilliseconds, latest)
        }
      }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("takes no moment of the future, and one that has become one, by a clock that was set back, is now", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(1_000_000)
      const state = yield* ComputeState
      const { clock, set } = yield* clockThatIsSet
      const activeAt = (millis: number) =>
        Effect.provideService(state.active(DateTime.makeUnsafe(millis)), Clock.Clock, clock)
      yield* activeAt(5_000_000)
      assert.strictEqual((yield* state.now).lastActive?.epochMilliseconds, 1_000_000)
      set(-500_000)
      yield* activeAt(400_000)
      assert.strictEqual((yield* state.now).lastActive?.epochMilliseconds, 500_000)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("keeps all notes of many at once", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* Effect.forEach(
        Array.from({ length: 100 }),
        () => state.note((old) => ({ downtime: { current: 0, total: old.downtime.total + 1 } })),
        { concurrency: "unbounded" }
      )
      assert.strictEqual((yield* state.now).downtime.total, 100)
      assert.include(statuses, (yield* state.now).status)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("times a step from the start of the compute", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* TestClock.adjust("2 seconds")
      const step = state.timed("basebackup", Effect.as(Effect.sleep("250 millis"), "value"))
      const work = yield* Effect.forkChild(step, { startImmediately: true })
      yield* TestClock.adjust("250 millis")
      assert.strictEqual(yield* Fiber.join(work), "value")
      assert.deepStrictEqual((yield* state.now).steps, [{ name: "basebackup", startedAt: 2000, millis: 250 }])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("passes a step's failure on as it is", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      assert.strictEqual(yield* Effect.flip(state.timed("doomed", Effect.fail("why"))), "why")
    }).pipe(Effect.provide(ComputeState.layer))
  )
})
