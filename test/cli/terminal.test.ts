/**
 * What a person at a terminal sees of a compute.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import { postgresOnScreen, savedSentence, screen, showCompute, showLogLine } from "../../src/cli/terminal.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"

const paper = (coloured = false, columns = 40) => {
  let written = ""
  const to = screen(
    (text) => void (written += text),
    () => columns,
    coloured
  )
  return { to, take: () => [written, (written = "")][0] ?? "" }
}

describe("the screen", () => {
  it("keeps the line that changes below those that stay, within its width", () => {
    const { take, to } = paper()
    to.line("one")
    to.progress("recovering: 10 %")
    to.line("two")
    to.progress(`recovering: 20 % ${"x".repeat(50)}`)
    to.progress(null)
    to.progress(null)
    const wide = `recovering: 20 % ${"x".repeat(50)}`.slice(0, 39)
    assert.strictEqual(take(), `one\n\r\x1b[Krecovering: 10 %\r\x1b[Ktwo\nrecovering: 10 %\r\x1b[K${wide}\r\x1b[K`)
  })

  it("shows warnings and errors of the log, in colour unless nobody wants any", () => {
    for (const [coloured, warning, error] of [
      [false, "warning:", "error:"],
      [true, "\x1b[33mwarning:\x1b[0m", "\x1b[31merror:\x1b[0m"]
    ] as const) {
      const { take, to } = paper(coloured)
      showLogLine(to, "2026-01-31T12:00:00.000Z  INFO apply the spec: 3 ms\n", "INFO")
      showLogLine(to, "2026-01-31T12:00:00.000Z  WARN a disk\x1b[31m is slow {actor=x}\n", "WARN")
      showLogLine(to, "2026-01-31T12:00:00.000Z  WARN Postgres is recovering: WAL is replayed up to 0/1\n", "WARN")
      showLogLine(to, "2026-01-31T12:00:00.000Z ERROR it broke\n  at once\n", "ERROR")
      assert.strictEqual(take(), `${warning} a disk?[31m is slow {actor=x}\n${error} it broke\n  at once\n`)
    }
  })

  it.effect("shows of a backend that was killed why, and not what everybody else met then", () =>
    Effect.gen(function* () {
      const { take, to } = paper()
      const record = (text: string) => `PG:2026-01-31 12:00:00.000 UTC [7] ${text}\n`
      const killed = "server process (PID 9) was terminated by signal 9: Killed"
      yield* postgresOnScreen(to)(
        record(`LOG:  ${killed}\u200bDETAIL:  Failed process was running: select 1`) +
          record("LOG:  terminating any other active server processes") +
          record("FATAL:  the database system is in recovery mode") +
          record("WARNING:  terminating connection because of crash of another server process")
      )
      assert.strictEqual(take(), `Postgres: [7] LOG:  ${killed}\n  DETAIL:  Failed process was running: select 1\n`)
    })
  )

  it.effect("shows what Postgres warns of, and neither its routine nor sessions that meet a start or a stop", () =>
    Effect.gen(function* () {
      const { take, to } = paper()
      const record = (text: string) => `PG:2026-01-31 12:00:00.000 UTC [7] ${text}\n`
      yield* postgresOnScreen(to)(
        record("LOG:  checkpoint starting: time") +
          record("FATAL:  terminating connection due to administrator command") +
          record("FATAL:  the database system is starting up") +
          record("WARNING:  a slot\u200bDETAIL:  is old")
      )
      assert.strictEqual(take(), "Postgres: [7] WARNING:  a slot\n  DETAIL:  is old\n")
    })
  )
})

describe("a compute on a terminal", () => {
  it.effect("is one line per step as it ends, then what is to be known of it, and at last what was saved", () =>
    Effect.gen(function* () {
      const { take, to } = paper()
      const state = yield* ComputeState
      const banner = Effect.sync(() => to.line("BANNER"))
      const shown = yield* Effect.forkChild(
        showCompute(to, (now) => savedSentence({ _tag: "Local", directory: "/data" }, "/pgdata", now), banner)
      )
      yield* state.send("StartBegan")
      yield* state.timed("build PGDATA", Effect.void)
      yield* state.raise({ code: "recovering", message: "Postgres is recovering: 40 %" })
      yield* Effect.yieldNow
      yield* state.clear("recovering")
      yield* state.timed("start Postgres", Effect.sleep("1500 millis")).pipe(Effect.forkChild)
      yield* TestClock.adjust("1500 millis")
      yield* state.note(({ metrics }) => ({ metrics: { ...metrics, total_startup_ms: 1700 } }))
      yield* state.send("PostgresReady")
      yield* state.send("TerminateFastAsked")
      yield* state.send("PostgresGone")
      yield* Effect.yieldNow
      yield* Fiber.interrupt(shown)
      const lines = take().split("\n")
      assert.match(lines[0] ?? "", /^✓ build PGDATA +0 ms$/)
      assert.match(lines[1] ?? "", /Postgres is recovering: 40 %[^]*✓ start Postgres +1\.5 s$/)
      assert.match(lines[2] ?? "", /^✓ ready, in all +1\.7 s$/)
      assert.strictEqual(lines[3], "BANNER")
      assert.strictEqual(lines[4], "Stopping in order; Ctrl-C again takes the next shutdown stage")
      assert.strictEqual(lines[5], "Stopped in order: all that was committed is in /data")
      assert.deepStrictEqual(lines.slice(6), [""])
    }).pipe(Effect.provide(ComputeState.layer))
  )

  it("says where the data is by the kind of storage, and up to where", () => {
    const now = { flushLsn: 0x16b3748n as never, metrics: { total_startup_ms: 1 } as never }
    assert.match(savedSentence({ _tag: "Neon" }, "/pgdata", now), /with the safekeepers, up to 0\/16B3748$/)
    assert.match(savedSentence({ _tag: "Volume" }, "/pgdata", now), /in \/pgdata, up to 0\/16B3748$/)
    const never = { flushLsn: null, metrics: { total_startup_ms: 0 } as never }
    assert.match(savedSentence({ _tag: "Volume" }, "/pgdata", never), /^Stopped before Postgres was ready/)
  })
})
