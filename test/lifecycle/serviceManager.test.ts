/**
 * What a service manager is told of a compute, and when, in virtual time.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { TestClock } from "effect/testing"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { supervise } from "../../src/compute/Supervisor.ts"
import { type ManagerEnvironment, serviceManager } from "../../src/lifecycle/serviceManager.ts"

const pid = 4711

/** The manager's actor at work, and each message that was sent, its assignments joined by a space. */
const managed = Effect.fnUntraced(function* (environment: ManagerEnvironment = {}) {
  const sent: Array<string> = []
  const manager = serviceManager({ NOTIFY_SOCKET: "/run/notify", ...environment }, pid, (socket, assignments) =>
    Effect.sync(() => {
      assert.strictEqual(socket, "/run/notify")
      sent.push(assignments.join(" "))
    })
  )
  if (manager === null) return assert.fail("there is a socket, and nobody is told")
  yield* Effect.forkChild(supervise([manager.actor]), { startImmediately: true })
  return { manager, sent, state: yield* ComputeState }
})

const running = Effect.fnUntraced(function* (environment: ManagerEnvironment = {}) {
  const all = yield* managed(environment)
  yield* all.state.send("StartBegan", { postgresAlive: true })
  yield* all.state.send("PostgresReady")
  yield* TestClock.adjust(0)
  return all
})

describe("a service manager", () => {
  it("is not told anything where there is no socket", () => {
    assert.isNull(serviceManager({}, pid))
    assert.isNull(serviceManager({ NOTIFY_SOCKET: "" }, pid))
  })

  it.effect("hears of a short start once, when Postgres accepts connections", () =>
    Effect.gen(function* () {
      const { sent } = yield* running()
      assert.deepStrictEqual(sent, ["READY=1 STATUS=Postgres accepts connections"])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("hears the steps of a long start, at most one message a second", () =>
    Effect.gen(function* () {
      const { sent, state } = yield* managed()
      yield* state.send("StartBegan")
      for (const name of ["claim", "build", "spawn"]) {
        yield* state.timed(name, Effect.void)
        yield* TestClock.adjust("400 millis")
      }
      assert.deepStrictEqual(sent, ["STATUS=Starting: spawn is done"])
      yield* state.send("PostgresReady", { postgresAlive: true })
      yield* TestClock.adjust(0)
      assert.strictEqual(sent[1], "READY=1 STATUS=Postgres accepts connections")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("gives a recovery more time as long as it lasts, and hears how far it is", () =>
    Effect.gen(function* () {
      const { sent, state } = yield* managed()
      yield* state.send("StartBegan")
      yield* TestClock.adjust("2 seconds")
      const before = sent.length
      yield* state.raise({ code: "recovering", message: "WAL is replayed up to 0/5000000, 12 %" })
      yield* TestClock.adjust("45 seconds")
      const extensions = () => sent.filter((message) => message === "EXTEND_TIMEOUT_USEC=60000000").length
      assert.strictEqual(extensions(), 3)
      assert.include(sent.slice(before), "STATUS=WAL is replayed up to 0/5000000, 12 %")
      yield* state.clear("recovering")
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(extensions(), 3)
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("finds a compute ready that waits for a spec, and hears for what", () =>
    Effect.gen(function* () {
      const { sent, state } = yield* managed()
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(sent, ["STATUS=Starting"])
      yield* state.note({ waitingFor: "a spec: nobody has sent one" })
      yield* TestClock.adjust(0)
      assert.strictEqual(sent[1], "READY=1 STATUS=Waiting for a spec: nobody has sent one")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("hears what is not as it should be, and the end", () =>
    Effect.gen(function* () {
      const { sent, state } = yield* running()
      yield* state.raise({ code: "base_publication_failed", message: "no room" })
      yield* TestClock.adjust("1 second")
      assert.strictEqual(sent[1], "STATUS=Postgres accepts connections; not as it should be: base_publication_failed")
      yield* state.send("TerminateFastAsked")
      yield* TestClock.adjust(0)
      assert.strictEqual(sent[2], "STOPPING=1 STATUS=Stopping Postgres")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("hears why a compute failed; one whose Postgres lives is not on its way out", () =>
    Effect.gen(function* () {
      const { sent, state } = yield* running()
      yield* state.send("Broke", { error: "a lot is no number" })
      yield* TestClock.adjust("1 second")
      assert.strictEqual(sent[1], "STATUS=Failed: a lot is no number")
      yield* state.note({ postgresAlive: false })
      yield* TestClock.adjust(0)
      assert.strictEqual(sent[2], "STOPPING=1")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("is told three times in its watchdog's time that the program lives, if it watches this process", () =>
    Effect.gen(function* () {
      const pings = (sent: ReadonlyArray<string>) => sent.filter((message) => message === "WATCHDOG=1").length
      const watched = yield* managed({ WATCHDOG_USEC: "30000000", WATCHDOG_PID: String(pid) })
      const other = yield* managed({ WATCHDOG_USEC: "30000000", WATCHDOG_PID: "1" })
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual([pings(watched.sent), pings(other.sent)], [6, 0])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("hears of a reload its beginning, by the clock of the manager, and its end, however it ends", () =>
    Effect.gen(function* () {
      const { manager, sent } = yield* running()
      yield* Effect.exit(manager.reload(Effect.die("a bug")))
      const [, began, ended] = sent
      assert.match(began ?? "", /^RELOADING=1 MONOTONIC_USEC=\d+$/)
      assert.strictEqual(ended, "READY=1")
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("hears nothing of a reload before the compute is ready: it would count as ready", () =>
    Effect.gen(function* () {
      const { manager, sent } = yield* managed()
      yield* manager.reload(Effect.void)
      assert.deepStrictEqual(sent, [])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it.effect("that cannot be told is a condition, and is told again later", () =>
    Effect.gen(function* () {
      let works = false
      const sent: Array<string> = []
      const manager = serviceManager({ NOTIFY_SOCKET: "@abstract" }, pid, (_, assignments) =>
        works ? Effect.sync(() => void sent.push(assignments.join(" "))) : Effect.fail(new Error("no helper"))
      )
      const state = yield* ComputeState
      yield* Effect.forkChild(supervise(manager === null ? [] : [manager.actor]), { startImmediately: true })
      yield* state.send("StartBegan")
      yield* state.send("PostgresReady")
      yield* TestClock.adjust("1 second")
      assert.deepInclude(
        (yield* state.now).degraded.map(({ about, code }) => [code, about]),
        ["actor_failing", "service manager"]
      )
      works = true
      yield* TestClock.adjust("1 minute")
      assert.include(sent[0], "READY=1")
      assert.deepStrictEqual((yield* state.now).degraded, [])
    }).pipe(Effect.provide(ComputeState.layer))
  )
})
