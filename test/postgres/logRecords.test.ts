/**
 * Laws of cutting a log into records: chopping does not matter, nothing is lost, memory is bounded.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { end, lineJoint, nothing, push, quote, silence, type Unfinished } from "../../src/postgres/logRecords.ts"

const stamped = "2026-11-24 13:58:46.111 UTC [1] LOG:  "
/** Words from which logs are made that hit every branch: stamps, line ends, long runs, wide characters. */
const Word = Schema.Literals([stamped, "\n", "\n", "\t", "a", "bc", "é", "🐘", "2026-11-24 ", "x".repeat(40), ""])
const Words = Schema.Array(Word)
const Sizes = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 60 })))

const split = (chunks: ReadonlyArray<string>, limit?: number): ReadonlyArray<string> => {
  let state: Unfinished = nothing
  const records: Array<string> = []
  for (const chunk of chunks) {
    const [next, out] = push(state, chunk, limit)
    state = next
    records.push(...out)
    if (limit !== undefined) assert.isAtMost(state.line.length + (state.record?.length ?? 0), 2 * limit)
  }
  return [...records, ...end(state)]
}

const chop = (text: string, sizes: ReadonlyArray<number>): ReadonlyArray<string> => {
  const chunks: Array<string> = []
  let from = 0
  for (let index = 0; from < text.length; index++) {
    const size = sizes.length === 0 ? text.length : (sizes[index % sizes.length] ?? 1)
    chunks.push(text.slice(from, from + size))
    from += size
  }
  return chunks
}

/** The text that records came from, when no line end was lost. */
const unsplit = (records: ReadonlyArray<string>): string =>
  records.map((record) => record.replaceAll(lineJoint, "\n")).join("\n")

describe("records", () => {
  it.prop("are the same however the text was chopped", { words: Words, sizes: Sizes }, ({ sizes, words }) => {
    const text = words.join("")
    assert.deepStrictEqual(split(chop(text, sizes)), split([text]))
    for (const limit of [38, 41, 100]) assert.deepStrictEqual(split(chop(text, sizes), limit), split([text], limit))
  })

  it.prop("hold all of the text", { words: Words }, ({ words }) => {
    const text = words.join("")
    assert.strictEqual(unsplit(split([text])), text.replace(/\n$/, ""))
  })

  it.prop("hold all of the text when they are in pieces too", { words: Words, sizes: Sizes }, ({ sizes, words }) => {
    const text = words.join("")
    const pieces = split(chop(text, sizes), 10).map((record) =>
      record.replace(/^\[continued\] /, "").replace(/ \[continues\]$/, "")
    )
    // Whether a line ended between two pieces is the one thing that pieces do not tell.
    assert.strictEqual(unsplit(pieces).replaceAll("\n", ""), text.replaceAll("\n", ""))
  })

  it.prop("begin with a stamp, except the first", { words: Words }, ({ words }) => {
    for (const record of split([words.join("")]).slice(1)) assert.match(record, /^\d+-\d{2}-\d{2} \d{2}:\d{2}:\d{2}/)
  })

  it("join the lines of one record", () => {
    const text = `${stamped}first\n\tsecond\n\tthird\n${stamped}next\n`
    assert.deepStrictEqual(split([text]), [`${stamped}first${lineJoint}\tsecond${lineJoint}\tthird`, `${stamped}next`])
  })

  it("end when it is silent, but a line without its end waits", () => {
    const [state] = push(nothing, `${stamped}whole\nhal`)
    const [after, records] = silence(state)
    assert.deepStrictEqual(records, [`${stamped}whole`])
    assert.deepStrictEqual(push(after, "f\n")[1], [])
    assert.deepStrictEqual(end(push(after, "f\n")[0]), ["half"])
  })

  it("are marked when they leave in pieces", () => {
    assert.deepStrictEqual(split([`${"y".repeat(25)}\nz\n`], 10), [
      "yyyyyyyyyy [continues]",
      "[continued] yyyyyyyyyy [continues]",
      `[continued] yyyyy${lineJoint}z`
    ])
    // Many short lines without a stamp are one record too, and may not grow for ever either.
    assert.deepStrictEqual(split(["aaaa\nbbbb\ncccc\ndddd\n"], 10), [
      `aaaa${lineJoint}bbbb${lineJoint}cccc [continues]`,
      "[continued] dddd"
    ])
  })
})

describe("a quoted record", () => {
  it("is one line, bounded, and holds no password", () => {
    assert.strictEqual(quote(`a${lineJoint}b`), "a b")
    assert.strictEqual(quote("x".repeat(5000)).length, 2000)
    const statement = "STATEMENT:  CREATE ROLE r PASSWORD 'it''s s3cret' LOGIN; ALTER ROLE q password E's3cret"
    assert.notInclude(quote(statement), "s3cret")
    assert.include(quote(statement), "LOGIN")
  })
})
