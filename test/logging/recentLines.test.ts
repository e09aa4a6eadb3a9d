/**
 * The last lines of the log: as they were written, in either format, and bounded.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { type LogFormat, logLayer, newLogContext } from "../../src/logging/Log.ts"
import { recentLines } from "../../src/logging/recentLines.ts"

const filter = { level: "info", modules: new Map() } as const

const logged = (format: LogFormat, log: Effect.Effect<void>) => {
  const recent = recentLines(format)
  return Effect.as(
    Effect.provide(log, logLayer({ format, filter, sink: recent.add, context: newLogContext() })),
    recent
  )
}

describe("the last lines", () => {
  for (const format of ["text", "json"] as const) {
    it.effect(`of a log as ${format} have their time, level and words, and what is filtered is not there`, () =>
      Effect.gen(function* () {
        const lines = yield* logged(
          format,
          Effect.gen(function* () {
            yield* Effect.logInfo("a line\nin two")
            yield* Effect.logDebug("nobody wants it")
            yield* Effect.logWarning("another")
          })
        )
        const [one, other, ...more] = lines.entries()
        assert.deepStrictEqual(more, [])
        assert.match(one?.at ?? "", /^1970-01-01T00:00:00\.\d+Z$/)
        assert.deepStrictEqual([one?.level, other?.level], ["INFO", "WARN"])
        assert.include(one?.message, "a line")
        assert.strictEqual(other?.message, "another")
      })
    )
  }

  it("are two hundred, and the longest of them is cut", () => {
    const recent = recentLines("text")
    for (let n = 0; n < 500; n++) recent.add(`2026-01-31T12:00:00.000Z  INFO line ${n}\n`)
    assert.deepStrictEqual(
      [recent.entries().length, recent.entries()[0]?.message, recent.entries().at(-1)?.message],
      [200, "line 300", "line 499"]
    )
    recent.add(`2026-01-31T12:00:00.000Z ERROR ${"x".repeat(1_000_000)}\n`)
    const last = recent.entries().at(-1)
    assert.strictEqual(last?.level, "ERROR")
    assert.isAtMost(last?.message.length ?? 0, 2_100)
    assert.match(last?.message ?? "", /998000 characters more in the log/)
  })

  it("that cannot be read back are there all the same", () => {
    for (const format of ["text", "json"] as const) {
      const recent = recentLines(format)
      recent.add("compute_ctl failed in a way it should not\n")
      assert.deepStrictEqual(recent.entries(), [
        { at: "", level: "", message: "compute_ctl failed in a way it should not" }
      ])
    }
  })
})
