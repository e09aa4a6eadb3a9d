/**
 * Where delta operations meet what the spec wants: the truth table, and that no replay does anything again.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { decideDeltas, type Delta, type DeltaWorld } from "../../src/catalog/planDeltas.ts"
import { runs } from "./scenario.ts"

/** `ab` renames a to b, `-b` drops b. */
const read = (text: string): ReadonlyArray<Delta> =>
  text.split(" ").map((one): Delta => {
    const [first = "", second = ""] = one
    return first === "-" ? { _tag: "Drop", name: second } : { _tag: "Rename", name: first, to: second }
  })

const world = (there: string, wanted: string, done: ReadonlySet<string> = new Set()): DeltaWorld => ({
  thing: "database",
  exists: new Set(there),
  wanted: (name) => wanted.includes(name),
  made: (name) => wanted.includes(name),
  kept: (name) => (name === "K" ? "reserved" : null),
  recorded: (digest) => done.has(digest)
})

/** One letter for each delta: d(one), a(bsent) or s(kipped). */
const decide = (there: string, wanted: string, deltas: string, done?: ReadonlySet<string>): string =>
  decideDeltas(read(deltas), world(there, wanted, done))
    .map(({ decisions }) => decisions.map((one) => (typeof one === "string" ? one[0] : "s")).join(""))
    .join(" ")

const table: ReadonlyArray<readonly [what: string, there: string, wanted: string, deltas: string, decided: string]> = [
  ["a rename", "a", "b", "ab", "d"],
  ["a rename that was done", "b", "b", "ab", "a"],
  ["a rename onto what exists", "ab", "ab", "ab", "s"],
  ["a rename onto what exists and is not wanted", "ab", "", "ab", "s"],
  ["a rename onto itself", "a", "a", "aa", "a"],
  ["a wanted name that would be lost", "a", "a", "ab", "s"],
  ["a wanted name that goes to another wanted one", "a", "ab", "ab", "d"],
  ["a rename of a reserved name", "K", "", "Ka", "s"],
  ["a rename to a reserved name", "a", "", "aK", "s"],
  ["a drop", "a", "", "-a", "d"],
  ["a drop that was done", "", "", "-a", "a"],
  ["a drop of what is wanted", "a", "a", "-a", "s"],
  ["a drop of a reserved name", "K", "", "-K", "s"],
  ["a drop that makes room for a rename", "ab", "b", "-b ab", "dd"],
  ["the same, a second time", "b", "b", "-b ab", "sa"],
  ["the same, where there is nothing to make room for", "b", "b", "-b ab", "sa"],
  ["the same, where nothing is in the way", "a", "b", "-b ab", "ad"],
  ["the same, with both names wanted: a replay would drop what is new", "ab", "ab", "-b ab", "ss"],
  ["the same, with both names wanted and nothing in the way", "a", "ab", "-b ab", "ad"],
  ["a drop after the rename that was in its way", "ab", "b", "ab -b", "ss"],
  ["a way out of the way over a third name, which is dropped", "ab", "b", "bt ab -t", "ddd"],
  ["the same, a second time", "b", "b", "bt ab -t", "saa"],
  ["an exchange over a third name", "ab", "ab", "at ba tb", "ddd"],
  ["an exchange of what nobody wants", "ab", "", "at ba tb", "ddd"],
  ["a chain", "a", "c", "ab bc", "dd"],
  ["a chain that was done, and its first name is wanted again", "ac", "ac", "ab bc", "sa"],
  ["a chain whose middle exists", "ab", "", "ab bc", "sd"],
  ["a row that moves up", "ab", "bc", "bc ab", "dd"],
  ["a row that moved up", "bc", "bc", "bc ab", "sa"],
  ["a rename and a drop of what it made", "a", "", "ab -b", "dd"],
  ["a drop that would drop again what a replay renames", "ab", "", "ab -b", "ss"],
  ["an exchange where nothing is yet: what is made now is not exchanged later", "", "ab", "at ba tb", "aaa"],
  ["a name that would not be filled again, for its rename ends where another is", "bcd", "b", "ba db bc", "ssa"],
  ["lists that share no name", "ac", "b", "ab -c", "d d"]
]

describe("a delta meets what exists and what is wanted", () => {
  for (const [what, there, wanted, deltas, decided] of table) {
    it(`${what}: there "${there}", wanted "${wanted}", deltas ${deltas}`, () => {
      assert.strictEqual(decide(there, wanted, deltas), decided)
    })
  }

  const recordOf = (there: string, wanted: string, deltas: string) =>
    new Set(
      decideDeltas(read(deltas), world(there, wanted)).flatMap(({ digest, records }) => (records ? [digest] : []))
    )

  const reused: ReadonlyArray<readonly [what: string, there: string, wanted: string, deltas: string, later: string]> = [
    ["a user makes again what was dropped", "a", "", "-a", "a"],
    ["a user makes again what was already gone", "", "", "-a", "a"],
    ["a user makes again what was renamed, into whose way another was dropped", "ab", "b", "-b ab", "ab"],
    ["the spec makes again what was renamed, and a user drops what it became", "a", "ab", "ab", "a"],
    ["what was in the way of a rename is gone", "ab", "ab", "ab", "a"]
  ]
  for (const [what, there, wanted, deltas, later] of reused) {
    it(`a name that was vacated is another's when the list comes again: ${what}`, () => {
      const done = recordOf(there, wanted, deltas)
      assert.strictEqual(done.size, 1)
      assert.notInclude(decide(later, wanted, deltas, done), "d")
      assert.include(decide(later, wanted, deltas), "d", "without the record it would be moved or dropped")
    })
  }

  it("of very many lists the first are recorded", () => {
    const names = Array.from({ length: 300 }, (_, at) => `n${at}`)
    const deltas = names.map((name): Delta => ({ _tag: "Drop", name }))
    assert.strictEqual(decideDeltas(deltas, world("", "")).filter(({ records }) => records).length, 100)
  })

  it("an exchange that is recorded is not done again, whatever the names say", () => {
    const done = recordOf("ab", "ab", "at ba tb")
    assert.strictEqual(decide("ab", "ab", "at ba tb", done), "sss")
    assert.strictEqual(decide("ab", "ab", "bt ab ta", done), "ddd")
    assert.strictEqual(decideDeltas(read("at ba tb"), { ...world("ab", "ab", done), thing: "role" })[0]?.records, true)
  })

  const letter = Schema.Literals(["a", "b", "c", "d"])
  const small = Schema.Literals([0, 1, 2])
  const some = Schema.Array(letter).check(Schema.isMaxLength(4))
  it.prop(
    "no replay does anything, no wanted name is lost, and nothing is moved onto another",
    {
      there: some,
      wanted: some,
      deltas: Schema.Array(Schema.Tuple([small, letter, letter])).check(Schema.isMaxLength(5))
    },
    ({ deltas, there, wanted }) => {
      const list = deltas.map(([kind, name, to]): Delta =>
        kind === 0 ? { _tag: "Drop", name } : { _tag: "Rename", name, to }
      )
      const wish = wanted.join("")
      const run = (names: ReadonlySet<string>, done: Set<string>) => {
        const state = new Set(names)
        const chains = decideDeltas(list, world([...names].join(""), wish, done))
        for (const { decisions, deltas: chain, digest, records } of chains) {
          for (const [at, one] of chain.entries()) {
            if (decisions[at] !== "do") continue
            assert.isTrue(state.delete(one.name))
            if (one._tag === "Rename") {
              assert.isFalse(state.has(one.to))
              state.add(one.to)
            }
          }
          if (records) done.add(digest)
        }
        return { state, done: chains.flatMap(({ decisions }) => decisions).filter((one) => one === "do").length }
      }
      const done = new Set<string>()
      const first = run(new Set(there), done)
      for (const name of there) {
        if (!wanted.includes(name) || first.state.has(name)) continue
        // It went on to another wanted name.
        assert.isTrue(wanted.some((one) => first.state.has(one)))
      }
      for (const more of ["", ...there, "abcd"])
        assert.strictEqual(run(new Set([...first.state, ...wanted, ...more]), done).done, 0)
      const again = run(new Set([...first.state, ...wanted]), done)
      assert.strictEqual(run(new Set([...again.state, ...wanted]), done).done, 0)
    },
    runs(2_000)
  )
})
