/**
 * However much is wrong with an input, finding it out takes work that is linear in it, and the answer stays short.
 * Counted in operations: elements that loops pass over, and reads of the input.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import type * as Schema from "effect/Schema"
import * as SchemaAST from "effect/SchemaAST"
import { validateText } from "../../src/cli/validate.ts"
import { ConfigureBody, ExtensionBody, Grants, HoldBody, PromoteBody } from "../../src/http/bodies.ts"
import { parseConfigText, parseResponse } from "../../src/spec/ComputeConfig.ts"
import { ComputeSpec } from "../../src/spec/ComputeSpec.ts"
import { decoderOf } from "../../src/spec/decode.ts"
import { parseSpec, parseSpecText } from "../../src/spec/parseSpec.ts"
import { maxProblems, Problems } from "../../src/spec/problems.ts"
import { least, leastNeon } from "../support/fixtures.ts"
import { countOperations, watched } from "../support/operations.ts"

const items = 100_000
/** Of a linear pass: several passes, each with a few steps. A pass of its own per item would be 10⁵. */
const perItem = 200
/** Of all problems that are told, in characters. */
const maxAnswer = 100_000

/** None of them is what any list of a spec takes. */
const bad: ReadonlyArray<unknown> = [{}, null, 7, "\0", [], { name: "" }, { name: { deep: [] } }]
const badList = Array.from({ length: items }, (_, index) => bad[index % bad.length])
const badRecord = Object.fromEntries(badList.map((one, index) => [`../${index}`, one]))

type Step = string | typeof item
const item = Symbol("an element")

/** Every list and every record of a schema, as the steps that lead to it. */
const containersOf = (
  ast: SchemaAST.AST,
  path: ReadonlyArray<Step> = []
): ReadonlyArray<readonly [typeof path, unknown]> => {
  if (SchemaAST.isUnion(ast)) return ast.types.flatMap((one) => containersOf(one, path))
  if (SchemaAST.isArrays(ast))
    return [[path, badList], ...ast.rest.flatMap((one) => containersOf(one, [...path, item]))]
  if (!SchemaAST.isObjects(ast)) return []
  return [
    ...ast.propertySignatures.flatMap(({ name, type }) => containersOf(type, [...path, String(name)])),
    ...ast.indexSignatures.flatMap(({ type }) => [
      [path, badRecord] as const,
      ...containersOf(type, [...path, "any name"])
    ])
  ]
}

const within = (path: ReadonlyArray<Step>, value: unknown): unknown =>
  path.reduceRight<unknown>((inner, step) => (step === item ? [inner] : { [step]: inner }), value)

const documentsOf = (schema: Schema.Top) =>
  containersOf(schema.ast).map(
    ([path, value]) => [path.map((step) => (step === item ? "[]" : step)).join("."), within(path, value)] as const
  )

const lengthOf = (problems: ReadonlyArray<{ readonly path: string; readonly message: string }>): number =>
  problems.reduce((sum, { message, path }) => sum + message.length + path.length, 0)

const isBounded = (problems: ReadonlyArray<{ readonly path: string; readonly message: string }>): void => {
  assert.isNotEmpty(problems)
  assert.isAtMost(problems.length, maxProblems + 1)
  assert.isAtMost(lengthOf(problems), maxAnswer)
}

describe("counted operations", () => {
  it("catch a pass over everything for each item", () => {
    const distinct = () => badList.filter((one, index) => badList.indexOf(one) === index)
    assert.throws(() => countOperations(items * perItem, distinct), /more than 20000000 operations/)
    const read = countOperations(3 * items, (read) => Reflect.get(watched(badList, read) as object, 0))
    assert.isAbove(read.operations, items)
  })
})

describe("10⁵ bad items in", () => {
  const documents = documentsOf(ComputeSpec)

  it("every list of a spec: there are as many as one sees", () => {
    assert.includeMembers(
      documents.map(([path]) => path),
      ["cluster.roles", "cluster.roles.[].options", "delta_operations", "remote_extensions.extension_data"]
    )
    assert.isAbove(documents.length, 17)
  })

  for (const [path, document] of documents) {
    it(`${path} of a spec`, () => {
      const { value } = countOperations(items * perItem, (read) =>
        parseSpec(watched(document, read), { source: "test", storage: "neon" })
      )
      assert.isTrue(Result.isFailure(value))
      if (Result.isFailure(value)) isBounded(value.failure.problems)
    })
  }

  for (const [name, schema] of Object.entries({ ConfigureBody, ExtensionBody, Grants, HoldBody, PromoteBody })) {
    for (const [path, document] of [["", badList] as const, ...documentsOf(schema)]) {
      it(`${name} ${path}`, () => {
        const problems = new Problems()
        countOperations(items * perItem, (read) => decoderOf(schema)(watched(document, read), problems))
        if (path !== "compute_ctl_config.jwks.keys") isBounded(problems.list())
      })
    }
  }
})

/** Well-formed, and wrong only in its meaning. */
const fewer = 10_000
const many = <A>(one: (index: number) => A): ReadonlyArray<A> => Array.from({ length: fewer }, (_, index) => one(index))
const cluster = (more: object) => ({ ...least, cluster: { roles: [], databases: [], ...more } })
const option = (name: string, value: string) => ({ name, value, vartype: "bool" })

const meanings: Readonly<Record<string, object>> = {
  "options of one role": cluster({ roles: [{ name: "r", options: many((at) => option(`NO ${at}`, "x y")) }] }),
  "options of many roles": cluster({ roles: many((at) => ({ name: `r${at}`, options: [option("LOGIN", "x y")] })) }),
  "options of one database": cluster({
    databases: [{ name: "d", owner: "o", options: many(() => option("ENCODING", "x y")) }]
  }),
  "roles in one option": cluster({
    roles: [{ name: "r", options: [option("IN ROLE", many((at) => `r${at}`).join(",") + ",")] }]
  }),
  "names of settings": cluster({ settings: many((at) => option(`a b ${at}`, "x")) }),
  "changes of databases": { ...least, delta_operations: many(() => ({ action: "rename_db", name: "", new_name: "" })) },
  "safekeepers twice": { ...leastNeon, safekeeper_connstrings: many((at) => `sk${at % (fewer / 2)}:5454`) },
  "safekeepers without ports": { ...leastNeon, safekeeper_connstrings: many((at) => `sk${at}`) },
  "shards that are not asked for": {
    ...leastNeon,
    pageserver_connection_info: {
      shard_count: 255,
      shards: Object.fromEntries(many((at) => [`x${at}`, { pageservers: [] }]))
    }
  },
  pageservers: { ...leastNeon, pageserver_connstring: "x,".repeat(fewer) },
  "plain names of files": {
    ...least,
    remote_extensions: {
      library_index: {},
      extension_data: { e: { archive_path: "", control_data: Object.fromEntries(many((at) => [`../${at}`, ""])) } }
    }
  },
  "names of extensions": {
    ...least,
    remote_extensions: {
      library_index: {},
      extension_data: Object.fromEntries(many((at) => [`../${at}`, { archive_path: "", control_data: {} }]))
    }
  }
}

describe("10⁴ items of the right shape and the wrong meaning", () => {
  for (const [name, document] of Object.entries(meanings)) {
    it(name, () => {
      const { value } = countOperations(fewer * perItem, (read) =>
        parseSpec(watched(document, read), { source: "test", storage: "neon" })
      )
      assert.isTrue(Result.isFailure(value))
      if (Result.isFailure(value)) isBounded(value.failure.problems)
    })
  }
})

describe("every way in, with 10⁵ bad roles", () => {
  const roles = `[${"{},".repeat(items - 1)}{}]`
  const spec = `{"format_version":1,"cluster":{"roles":${roles},"databases":[]}}`
  const options = { source: "test", storage: "local" } as const
  const ways: Readonly<Record<string, () => ReadonlyArray<{ readonly path: string; readonly message: string }>>> = {
    "-S, -s": () => Result.getOrThrow(Result.flip(parseSpecText(spec, options))).problems,
    "-c": () => {
      const text = `{"spec":${spec},"compute_ctl_config":{"jwks":{"keys":[]}}}`
      return Result.getOrThrow(Result.flip(parseConfigText(text, options))).problems
    },
    "-p": () => {
      const answer = { spec: JSON.parse(spec), status: "attached" }
      return Result.getOrThrow(Result.flip(parseResponse(answer, options))).problems
    },
    validate: () =>
      validateText(spec, "x", "local")
        .text.trimEnd()
        .split("\n")
        .map((message) => ({ path: "", message }))
  }
  for (const [name, problems] of Object.entries(ways)) {
    it(`${name}: the first hundred are told, and how many more there are`, () => {
      const { value } = countOperations(items * perItem, problems)
      isBounded(value)
      assert.include(value[0]?.message, "expected a value, but the key is missing")
      assert.include(value.at(-1)?.message, `and ${items - maxProblems} more places that are wrong`)
    })
  }

  it("keys that occur twice are counted, too", () => {
    const text = `{${'"a":1,'.repeat(items)}"a":1}`
    const { value } = countOperations(items * perItem, () => parseSpecText(text, options))
    const { problems } = Result.getOrThrow(Result.flip(value))
    assert.deepStrictEqual(problems[0], { path: "a", message: "expected the key once, but it is there twice" })
    isBounded(problems)
  })

  it("what is more than half a million values is refused before it is read", () => {
    const text = `[${"0,".repeat(500_000)}0]`
    const { problems } = Result.getOrThrow(Result.flip(parseSpecText(text, options)))
    assert.match(problems[0]?.message ?? "", /expected at most 500000 values$/)
  })
})

describe("long and repetitive text", () => {
  const hostile: ReadonlyArray<string> = [
    `${".".repeat(60)}!`,
    `${"a-".repeat(60)}!`,
    ...[".", "a.", "'", '"', "''", "AAAA", " ", "/", "\\"].map((part) => part.repeat(1_000_000)),
    `"${"a".repeat(1_000_000)}"`,
    `'${"a".repeat(1_000_000)}'`,
    `SCRAM-SHA-256$4096:${"AAAA".repeat(1_000_000)}`
  ]
  const long: ReadonlyArray<readonly [string, (text: string) => object]> = [
    ["a role's name", (text) => cluster({ roles: [{ name: text }] })],
    ["a verifier", (text) => cluster({ roles: [{ name: "r", encrypted_password: text }] })],
    ["an option's name", (text) => cluster({ roles: [{ name: "r", options: [option(text, "x")] }] })],
    ["an option's value", (text) => cluster({ roles: [{ name: "r", options: [option("CONNECTION LIMIT", text)] }] })],
    ["roles in an option", (text) => cluster({ roles: [{ name: "r", options: [option("IN ROLE", text)] }] })],
    [
      "a database's option",
      (text) => cluster({ databases: [{ name: "d", owner: "o", options: [option("TABLESPACE", text)] }] })
    ],
    ["a setting's name", (text) => cluster({ settings: [option(text, "x")] })],
    ["a setting's value", (text) => cluster({ settings: [option("neon.safekeepers", text)] })],
    ["an id", (text) => ({ ...leastNeon, tenant_id: text })],
    ["a pageserver", (text) => ({ ...leastNeon, pageserver_connstring: text })],
    ["a safekeeper", (text) => ({ ...leastNeon, safekeeper_connstrings: [text, text] })],
    ["an LSN", (text) => ({ ...leastNeon, mode: { Static: text } })]
  ]
  for (const [name, document] of long) {
    it(`${name} is judged, and not repeated whole`, () => {
      for (const text of hostile) {
        const parsed = parseSpec(document(text), { source: "test", storage: "neon" })
        if (Result.isFailure(parsed)) isBounded(parsed.failure.problems)
      }
    })
  }
})
