/**
 * Lines for systemd's journal: a priority for each, and no second time.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { isJournal, journalLine, postgresRecordsForJournal } from "../../src/logging/journal.ts"

const postgresLine = (text: string) => {
  const lines: Array<string> = []
  Effect.runSync(postgresRecordsForJournal((line) => Effect.sync(() => void lines.push(line)))(text))
  return lines.join("")
}

describe("under the journal", () => {
  it("is who has the very stream as standard error that JOURNAL_STREAM names", () => {
    assert.isTrue(isJournal("8:4711", { dev: 8, ino: 4711 }))
    assert.isFalse(isJournal("8:4711", { dev: 8, ino: 4712 }), "redirected since")
    assert.isFalse(isJournal(undefined, { dev: 8, ino: 4711 }))
  })

  it("our own lines have their priority and neither time nor level", () => {
    const line = (level: string) =>
      journalLine("text", `2026-01-31T12:00:00.000Z ${level.padStart(5)} it is so\n`, level)
    assert.deepStrictEqual(["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"].map(line), [
      "<7>it is so\n",
      "<7>it is so\n",
      "<6>it is so\n",
      "<4>it is so\n",
      "<3>it is so\n",
      "<2>it is so\n"
    ])
  })

  it("every line of a defect's stack has the priority of the first", () => {
    const text = "2026-01-31T12:00:00.000Z ERROR it broke: Error: x\n    at y\n"
    assert.strictEqual(journalLine("text", text, "ERROR"), "<3>it broke: Error: x\n<3>    at y\n")
  })

  it("JSON stays as it is behind its priority", () => {
    assert.strictEqual(journalLine("json", '{"level":"WARN"}\n', "WARN"), '<4>{"level":"WARN"}\n')
    assert.strictEqual(postgresLine('{"level":"FATAL","message":"x"}\n'), '<2>{"level":"FATAL","message":"x"}\n')
  })

  it("Postgres's records have the priority of their severity, and no time", () => {
    assert.strictEqual(
      postgresLine(
        "PG:2026-01-31 12:00:00.000 UTC [12] LOG:  ready\nPG:2026-01-31 12:00:00 UTC [13] web@app ERROR:  no\n"
      ),
      "<6>PG:[12] LOG:  ready\n<3>PG:[13] web@app ERROR:  no\n"
    )
    assert.strictEqual(postgresLine("PG:no prefix at all\n"), "<6>PG:no prefix at all\n")
  })
})
