/**
 * The supervision tree in virtual time: no actor fails unseen, an auxiliary one never ends the compute, an essential
 * one that cannot be kept alive does.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import * as Random from "effect/Random"
import * as Ref from "effect/Ref"
import * as TestClock from "effect/testing/TestClock"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import {
  type Actor,
  type ActorKind,
  essentialAttempts,
  healedAfter,
  supervise,
  turn
} from "../../src/compute/Supervisor.ts"
import { causesOf } from "../../src/errors/policy.ts"

const kinds = ["essential", "auxiliary"] as const
const forever: Actor = { name: "sleeper", kind: "essential", run: Effect.never }

/** An actor whose attempts are counted, and end as the test says. */
const counted = Effect.fnUntraced(function* (
  name: string,
  kind: ActorKind,
  then: (nth: number) => Effect.Effect<void, unknown>
) {
  const starts = yield* Ref.make<ReadonlyArray<number>>([])
  const run = Effect.gen(function* () {
    const now = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
    const all = yield* Ref.updateAndGet(starts, (old) => [...old, now])
    yield* then(all.length)
  })
  return { actor: { name, kind, run } satisfies Actor, starts: Ref.get(starts) }
})

const conditions = Effect.flatMap(ComputeState, (state) => Effect.map(state.now, ({ degraded }) => degraded))

const restartsOf = (actor: string) =>
  Effect.map(
    Metric.snapshot,
    (all) =>
      all.find(({ attributes, id }) => id === "compute_ctl_actor_restarts_total" && attributes?.["actor"] === actor)
        ?.state
  )

const background = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

/** Everything that was logged at info level and above. */
const recorded = () => {
  const lines: Array<string> = []
  const layer = Logger.layer([
    Logger.make(({ logLevel, message }) => void lines.push(`${logLevel}: ${[message].flat().join(" ")}`))
  ])
  return { lines, layer }
}

describe("an essential actor", () => {
  const bad: ReadonlyArray<readonly [string, Effect.Effect<void, unknown>, string]> = [
    ["fails", Effect.fail(new Error("disk on fire")), "disk on fire"],
    ["dies of a bug", Effect.die(new Error("a bug")), "a bug"],
    ["ends, though it never should", Effect.void, "it ended"],
    ["interrupts itself", Effect.interrupt, "it was interrupted"]
  ]
  for (const [how, run, cause] of bad) {
    it.effect(`that ${how} at every attempt gives up after ${essentialAttempts} of them, with its cause`, () =>
      Effect.gen(function* () {
        const { actor, starts } = yield* counted("crasher", "essential", () => run)
        const fiber = yield* background(Effect.flip(supervise([actor, forever])))
        yield* TestClock.adjust("1 minute")
        const failure = yield* Fiber.join(fiber)
        assert.strictEqual(failure._tag, "ActorGaveUp")
        assert.strictEqual(failure.actor, "crasher")
        assert.lengthOf(yield* starts, essentialAttempts)
        assert.include(causesOf(failure).join("\n"), cause)
      }).pipe(Effect.provide(ComputeState.layer))
    )
  }

  it.effect("that fails now and then, and works for a while in between, is never given up", () =>
    Effect.gen(function* () {
      const { actor, starts } = yield* counted("rare", "essential", () =>
        Effect.andThen(Effect.sleep(Duration.sum(healedAfter, Duration.seconds(1))), Effect.fail("now and then"))
      )
      const fiber = yield* background(supervise([actor]))
      yield* TestClock.adjust(Duration.times(healedAfter, 4 * essentialAttempts))
      assert.isUndefined(fiber.pollUnsafe())
      assert.isAbove((yield* starts).length, 2 * essentialAttempts)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("that gives up stops the others", () =>
    Effect.gen(function* () {
      const stopped = yield* Deferred.make<void>()
      const run = Effect.onInterrupt(Effect.never, () => Deferred.succeed(stopped, undefined))
      const crasher: Actor = { name: "crasher", kind: "essential", run: Effect.fail("no") }
      const fiber = yield* background(Effect.flip(supervise([{ name: "other", kind: "auxiliary", run }, crasher])))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      yield* Deferred.await(stopped)
    }).pipe(Effect.provide(ComputeState.layer))
  )
})

describe("an auxiliary actor", () => {
  for (const [how, run] of [
    ["fails", Effect.fail("no")],
    ["dies of a bug", Effect.die("a bug")],
    ["interrupts itself", Effect.interrupt]
  ] as const) {
    it.effect(`that ${how} for a day is tried for as long, with pauses that grow to half a minute`, () =>
      Effect.gen(function* () {
        const { actor, starts } = yield* counted("watcher", "auxiliary", () => run)
        const fiber = yield* background(supervise([actor, forever]))
        yield* TestClock.adjust("1 day")
        assert.isUndefined(fiber.pollUnsafe())
        const times = yield* starts
        const pauses = times.slice(1).map((at, index) => at - (times[index] ?? 0))
        assert.isBelow(pauses[0] ?? 0, 200)
        for (const pause of pauses) assert.isAtMost(pause, 36_000)
        for (const pause of pauses.slice(12)) assert.isAtLeast(pause, 24_000)
        assert.isAbove(new Set(pauses.slice(-20).map(Math.round)).size, 10, "no two of a fleet in step")
        assert.deepStrictEqual(
          (yield* conditions).map(({ about, code }) => [code, about]),
          [["actor_failing", "watcher"]]
        )
      }).pipe(Effect.provide(ComputeState.layer), Random.withSeed(1))
    )
  }

  it.effect("that ends is done, and is not started again", () =>
    Effect.gen(function* () {
      const release = yield* Deferred.make<void>()
      const { actor, starts } = yield* counted("once", "auxiliary", () => Effect.void)
      const fiber = yield* background(
        supervise([actor, { name: "waits", kind: "auxiliary", run: Deferred.await(release) }])
      )
      yield* TestClock.adjust("1 hour")
      assert.isUndefined(fiber.pollUnsafe())
      assert.lengthOf(yield* starts, 1)
      assert.deepStrictEqual(yield* conditions, [])
      yield* Deferred.succeed(release, undefined)
      yield* Fiber.join(fiber)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("that hangs is left alone, and the others go on", () =>
    Effect.gen(function* () {
      const { actor, starts } = yield* counted("other", "auxiliary", (nth) =>
        nth < 3 ? Effect.fail("no") : Effect.never
      )
      const fiber = yield* background(supervise([{ name: "hangs", kind: "auxiliary", run: Effect.never }, actor]))
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(fiber.pollUnsafe())
      assert.lengthOf(yield* starts, 3)
    }).pipe(Effect.provide(ComputeState.layer))
  )
})

describe("what an operator sees of an actor that fails", () => {
  for (const kind of kinds) {
    const log = recorded()
    it.effect(`(${kind}) is one condition and one line when it begins, and one line when it is well again`, () =>
      Effect.gen(function* () {
        const before = yield* restartsOf(`${kind} lamp`)
        assert.isUndefined(before)
        const { actor } = yield* counted(`${kind} lamp`, kind, (nth) =>
          nth < 4 ? Effect.fail(new Error(`broken ${nth} times`)) : Effect.never
        )
        yield* background(supervise([actor]))
        yield* TestClock.adjust("5 seconds")
        const [raised, ...others] = yield* conditions
        assert.deepStrictEqual(others, [])
        assert.deepInclude(raised, { code: "actor_failing", about: `${kind} lamp` })
        assert.include(raised?.message ?? "", "broken 3 times", "the latest cause counts")
        assert.deepStrictEqual(
          log.lines.filter((line) => line.startsWith("Warn")),
          [`Warn: the ${kind} lamp failed (broken 1 times) and is started again`]
        )
        assert.deepInclude(yield* restartsOf(`${kind} lamp`), { count: 3 })

        yield* TestClock.adjust(healedAfter)
        assert.deepStrictEqual(yield* conditions, [])
        assert.lengthOf(
          log.lines.filter((line) => line.startsWith("Info")),
          1
        )
        assert.include(log.lines.at(-1) ?? "", `no longer true: the ${kind} lamp failed`)
      }).pipe(Effect.provide(ComputeState.layer.pipe(Layer.provideMerge(log.layer))))
    )
  }

  it.effect("stays for as long as it fails: a minute of failures is one condition", () =>
    Effect.gen(function* () {
      const log = recorded()
      const broken = yield* Ref.make(true)
      const run = Effect.flatMap(Ref.get(broken), (is) => (is ? Effect.fail("still") : Effect.never))
      yield* background(Effect.provide(supervise([{ name: "archiver", kind: "auxiliary", run }]), log.layer))
      for (let second = 0; second < 60; second++) {
        assert.lengthOf(yield* conditions, 1)
        yield* TestClock.adjust("1 second")
      }
      yield* Ref.set(broken, false)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* conditions, [])
      assert.lengthOf(
        log.lines.filter((line) => line.startsWith("Warn")),
        1
      )
    }).pipe(Effect.provide(ComputeState.layer))
  )
})

it.effect("supervise interrupts every actor when it is interrupted itself", () =>
  Effect.gen(function* () {
    const stopped = yield* Ref.make(0)
    const actor = (name: string, kind: ActorKind): Actor => ({
      name,
      kind,
      run: Effect.onInterrupt(Effect.never, () => Ref.update(stopped, (count) => count + 1))
    })
    const fiber = yield* background(supervise([actor("a", "essential"), actor("b", "auxiliary")]))
    yield* Fiber.interrupt(fiber)
    assert.strictEqual(yield* Ref.get(stopped), 2)
    assert.deepStrictEqual(yield* conditions, [])
  }).pipe(Effect.provide(ComputeState.layer))
)

describe("an actor that works in turns", () => {
  it.effect("shows when it hangs in one, by its name, until it goes on", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const gate = yield* Deferred.make<void>()
      const run = turn(
        state,
        Duration.minutes(1)
      )(Deferred.await(gate)).pipe(Effect.andThen(turn(state, Duration.minutes(1))(Effect.never)))
      yield* background(supervise([{ name: "slow one", kind: "auxiliary", run }]))
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual(yield* conditions, [])
      yield* TestClock.adjust("1 second")
      const message = "the slow one has been at one turn of its work for more than 1m"
      assert.deepStrictEqual(yield* conditions, [{ code: "actor_hanging", about: "slow one", message }])
      yield* Deferred.succeed(gate, undefined)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* conditions, [], "a new turn has its own time")
    }).pipe(Effect.provide(ComputeState.layer))
  )
})
