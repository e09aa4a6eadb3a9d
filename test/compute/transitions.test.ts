/**
 * Laws of the transition table: what the table allows, what it must allow, and what it must never allow.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import {
  finals,
  isTerminating,
  type Status,
  Status as StatusSchema,
  statuses,
  step,
  table,
  Trigger
} from "../../src/compute/transitions.ts"

const next = (from: Status): ReadonlyArray<Status> => table.filter((row) => row.from === from).map((row) => row.to)

const reachableFrom = (start: Status): ReadonlySet<Status> => {
  const seen = new Set<Status>([start])
  for (const status of seen) for (const to of next(status)) seen.add(to)
  return seen
}

const mayEnd = (status: Status): boolean => (finals as ReadonlyArray<Status>).includes(status)

describe("the table", () => {
  it("has one answer per question", () => {
    const questions = table.map((row) => `${row.from} ${row.on}`)
    assert.strictEqual(new Set(questions).size, questions.length)
  })

  it("reaches every status from empty", () => {
    assert.deepStrictEqual([...reachableFrom("empty")].sort(), [...statuses].sort())
  })

  it("never leaves terminated, and never goes back from the end", () => {
    assert.deepStrictEqual(next("terminated"), [])
    for (const row of table)
      if (isTerminating(row.from)) assert.isTrue(isTerminating(row.to), `${row.from} → ${row.to}`)
  })

  it("has no dead end: every status has a way out, and a way to each final one that it may come to", () => {
    for (const status of statuses) {
      assert.isTrue(mayEnd(status) || next(status).length > 0, `${status} has no way out`)
      assert.isTrue(reachableFrom(status).has("terminated"), `${status} never comes to its end`)
      // Who was asked to end does not become failed; whoever else may.
      assert.strictEqual(reachableFrom(status).has("failed"), !isTerminating(status), status)
    }
  })

  it("always has a way back from a failure to running, which needs no restart", () => {
    assert.isTrue(reachableFrom("failed").has("running"))
  })

  it("can be asked to end, in both ways, wherever nobody has asked yet", () => {
    for (const from of statuses.filter((status) => !isTerminating(status))) {
      for (const on of ["TerminateFastAsked", "TerminateImmediateAsked"] as const) {
        assert.isTrue(Result.isSuccess(step(from, on)), `${from} ${on}`)
      }
    }
  })

  it("fails from every status in which something may break", () => {
    for (const from of statuses.filter(
      (status) => status !== "empty" && status !== "failed" && !isTerminating(status)
    )) {
      assert.include(next(from), "failed", from)
    }
  })

  it("has no row that stays where it is", () => {
    for (const row of table) assert.notStrictEqual(row.from, row.to)
  })

  it("says why, in a few words, on every row", () => {
    for (const row of table) assert.match(row.because, /^[A-Za-z][^\n:.]{5,80}$/)
  })

  it("uses every trigger and knows every status", () => {
    assert.deepStrictEqual([...new Set(table.map((row) => row.on))].sort(), [...Trigger.literals].sort())
    for (const row of table) for (const status of [row.from, row.to]) assert.include(StatusSchema.literals, status)
  })

  it("refuses everything else, and says what was asked of what", () => {
    for (const from of statuses) {
      for (const on of Trigger.literals) {
        const row = table.find((candidate) => candidate.from === from && candidate.on === on)
        const answer = step(from, on)
        if (row !== undefined) assert.deepStrictEqual(Result.getOrThrow(answer), row)
        else assert.include(Result.isFailure(answer) ? answer.failure.message : "", "invalid compute status: ")
      }
    }
  })
})

describe("the edges a control plane knows", () => {
  const edges: ReadonlyArray<readonly [Status, ...ReadonlyArray<Status>]> = [
    ["empty", "configuration_pending", "configuration", "running"],
    ["configuration", "failed"],
    ["empty", "configuration_pending", "init", "running"],
    ["empty", "init", "running"],
    ["empty", "init", "failed"],
    ["empty", "termination_pending_fast", "terminated"],
    ["empty", "termination_pending_immediate", "terminated"],
    ["running", "termination_pending_fast", "terminated"],
    ["running", "configuration_pending", "configuration", "running"],
    ["running", "refresh_configuration_pending", "refresh_configuration", "running"],
    ["refresh_configuration", "refresh_configuration_pending"],
    ["failed", "refresh_configuration_pending"],
    ["failed", "configuration_pending"],
    ["failed", "termination_pending_immediate"]
  ]
  it.each(edges)("%s → %s", (...path) => {
    for (let at = 1; at < path.length; at++) {
      const [from, to] = [path[at - 1] ?? "empty", path[at] ?? "empty"]
      assert.include(next(from), to, `${from} → ${to}`)
    }
  })

  it("may exit from failed and terminated only", () => {
    assert.deepStrictEqual(statuses.filter(mayEnd), ["failed", "terminated"])
  })
})
