/**
 * Laws of parsing: it answers anything, unknown keys change nothing, and what the Schema makes it takes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { inspect } from "node:util"
import { specJsonSchema } from "../../src/cli/validate.ts"
import { SpecInvalid } from "../../src/errors/Failure.ts"
import { ComputeSpec } from "../../src/spec/ComputeSpec.ts"
import { parseSpecText } from "../../src/spec/parseSpec.ts"
import { specOf, fixtures, type Json, leastNeon, parseLocal, parseNeon, show } from "../support/fixtures.ts"
import { conforms } from "./conforms.ts"

const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

/** Every place in a document, as the way to it. */
const places = (
  value: unknown,
  at: ReadonlyArray<string | number> = []
): ReadonlyArray<ReadonlyArray<string | number>> => [
  at,
  ...(Array.isArray(value)
    ? value.flatMap((one, index) => places(one, [...at, index]))
    : isRecord(value)
      ? Object.entries(value).flatMap(([key, one]) => places(one, [...at, key]))
      : [])
]

const replace = (value: unknown, [step, ...rest]: ReadonlyArray<string | number>, by: unknown): unknown => {
  if (step === undefined) return by
  if (Array.isArray(value)) return value.map((one, index) => (index === step ? replace(one, rest, by) : one))
  return isRecord(value) ? { ...value, [step]: replace(value[step], rest, by) } : value
}

/** Keys of these are data, so a new one is not unknown. */
const maps = new Set(["pgbouncer_settings", "library_index", "extension_data", "control_data", "shards"])

const sprinkle = (value: unknown, extra: unknown, name = ""): unknown => {
  if (Array.isArray(value)) return value.map((one) => sprinkle(one, extra))
  if (!isRecord(value)) return value
  const inner = Object.fromEntries(Object.entries(value).map(([key, one]) => [key, sprinkle(one, extra, key)]))
  return maps.has(name) ? inner : { a_key_of_tomorrow: extra, ...inner, "another one": extra }
}

const documents = [fixtures.cloud2024, fixtures.neonLocal, fixtures.compose, fixtures.example, leastNeon]
const index = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 10_000 })))
const runs = { arbitrary: { runs: 300 } }

const answers = (input: unknown) => {
  for (const parse of [parseLocal, parseNeon]) {
    const parsed = parse(input)
    if (Result.isSuccess(parsed)) continue
    assert.instanceOf(parsed.failure, SpecInvalid)
    assert.isNotEmpty(parsed.failure.problems)
  }
}

describe("parseSpec", () => {
  it.prop("answers any JSON value", [Schema.Json], ([value]) => answers(value), runs)

  it.prop(
    "answers a good spec with any value in any place",
    [index, index, Schema.Json],
    ([which, where, value]) => {
      const document = documents[which % documents.length]
      const all = places(document)
      answers(replace(document, all[where % all.length] ?? [], value))
    },
    runs
  )

  it.prop(
    "answers any text",
    [Schema.String, index],
    ([text, cut]) => {
      for (const one of [text, JSON.stringify(leastNeon).slice(0, cut % 300) + text]) {
        parseSpecText(one, { source: "test", storage: "neon" })
      }
    },
    runs
  )

  it("answers what is not JSON", () => {
    for (const value of [undefined, () => 1, Symbol("s"), 1n, new Map(), Object.create(null), NaN]) answers(value)
  })

  it.prop("ignores unknown keys at every level", [Schema.Json], ([extra]) => {
    for (const document of documents) {
      const storage = document === fixtures.example ? "local" : "neon"
      assert.strictEqual(show(specOf(sprinkle(document, extra), storage)), show(specOf(document, storage)))
    }
  })

  it.prop(
    "never repeats a secret that is out of place",
    [index, index],
    ([which, where]) => {
      const document = documents[which % documents.length]
      const all = places(document)
      for (const secret of ["hunter2\0", ["hunter2"], { hunter: "hunter2\0" }]) {
        const parsed = parseNeon(replace(document, all[where % all.length] ?? [], secret))
        if (Result.isFailure(parsed))
          assert.notInclude(parsed.failure.message + inspect(parsed.failure, { depth: 9 }), "hunter2")
      }
    },
    runs
  )
})

describe("the Schema and its print", () => {
  const schema = specJsonSchema()

  it.prop(
    "what the Schema makes is a spec but for its options and ancestor, and conforms to the JSON Schema",
    [Arbitrary.schema(ComputeSpec)],
    ([spec]) => {
      assert.deepStrictEqual(conforms(schema, spec), [])
      const parsed = parseLocal(JSON.parse(JSON.stringify(spec)))
      if (Result.isSuccess(parsed)) return
      for (const { path } of parsed.failure.problems)
        assert.match(path, /^(cluster\.(roles|databases)\[\d+\]\.options\[\d+\]\.(name|value)|ancestor_lsn)$/)
    },
    // Most addresses that fit the pattern are longer than one may be.
    { arbitrary: { maxDiscards: 50_000 } }
  )

  it("fixtures conform to the JSON Schema", () => {
    for (const document of documents) assert.deepStrictEqual(conforms(schema, document), [])
  })

  it("the JSON Schema refuses what it can", () => {
    assert.deepStrictEqual(conforms(schema, { ...leastNeon, tenant_id: "x", mode: "primary" }), ["/tenant_id", "/mode"])
    assert.deepStrictEqual(conforms(schema, { cluster: { roles: [{}], databases: [] }, swap_size_bytes: 0.5 }), [
      "/format_version",
      "/cluster/roles/0/name",
      "/swap_size_bytes"
    ])
  })

  it("is draft 2020-12 without an id", () => {
    assert.deepInclude(schema as Json, {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      title: "ComputeSpec"
    })
    assert.notProperty(schema as Json, "$id")
  })
})
