/**
 * Reports of `compute_ctl validate`, for specs alone and inside documents.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import * as path from "node:path"
import { findSpec } from "../../src/cli/findSpec.ts"
import { readText } from "../../src/cli/readText.ts"
import type { SpecSource } from "../../src/cli/RunSettings.ts"
import { maxSpecBytes } from "../../src/spec/json.ts"
import { joinReports, schemaText, unreadable, validateText } from "../../src/cli/validate.ts"
import { type Json, least, leastNeon } from "../support/fixtures.ts"
import { temporaryFolder } from "../support/postgres.ts"

const read = (file: string) => fs.readFileSync(new URL(`../../${file}`, import.meta.url), "utf8")
const validate = (value: unknown, storage: "neon" | "local" = "neon") =>
  validateText(JSON.stringify(value), "x.json", storage)
const config: Json = { jwks: { keys: [] } }

describe("a spec that may not even be looked at", () => {
  it.effect("cannot be read, and that is all", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const file = path.join(yield* temporaryFolder, "spec.json")
        fs.symlinkSync(file, file)
        assert.strictEqual((yield* Effect.flip(readText(file)))._tag, "SpecUnreadable")
      })
    )
  )
})

describe("validateText", () => {
  for (const name of ["cloud-2024", "neon-local-head", "compose-head"]) {
    it(`finds nothing in ${name}`, () => {
      const file = `test/fixtures/${name}.json`
      assert.deepStrictEqual(validateText(read(file), file, "neon"), { text: `${file}: ok\n`, exitCode: 0 })
    })
  }

  it("finds nothing in the example, for local storage", () => {
    assert.deepStrictEqual(validateText(read("examples/spec.json"), "s", "local"), { text: "s: ok\n", exitCode: 0 })
  })

  it("the example names no pageserver, which Neon's storage needs", () => {
    assert.include(
      validateText(read("examples/spec.json"), "s", "neon").text,
      "pageserver connection information should be provided"
    )
  })

  const table: ReadonlyArray<readonly [what: string, value: unknown, text: string]> = [
    [
      "two problems",
      { ...leastNeon, format_version: "1", tenant_id: null },
      "x.json: format_version: expected a number\nx.json: tenant_id: tenant id should be provided\n"
    ],
    [
      "a spec in a document",
      { spec: { ...leastNeon, mode: "x" } },
      'x.json: spec.mode: expected "Primary", "Replica" or {"Static": LSN}\n'
    ],
    [
      "a document and its spec",
      { spec: { ...leastNeon, mode: "x" }, compute_ctl_config: {} },
      "x.json: compute_ctl_config.jwks: expected a value, but the key is missing\n" +
        'x.json: spec.mode: expected "Primary", "Replica" or {"Static": LSN}\n'
    ],
    ["a document without a spec", { compute_ctl_config: config }, "x.json: ok\n"],
    ["a null spec", { spec: null }, "x.json: spec: expected an object\n"],
    ["no object", [], "x.json: expected an object\n"]
  ]
  for (const [what, value, text] of table) {
    it(`reports ${what}`, () => {
      assert.deepStrictEqual(validate(value), { text, exitCode: text.endsWith("ok\n") ? 0 : 1 })
    })
  }

  const twice = { ...leastNeon, safekeeper_connstrings: ["sk1:5454", "sk2:5454", "sk1:5454"] }

  it("a safekeeper that is named twice is a warning where the start takes it, and a problem where it does not", () => {
    const warning =
      "x.json: warning: safekeeper_connstrings: sk1:5454 is there twice and has one voice; " +
      "the later API refuses such lists\nx.json: ok\n"
    assert.deepStrictEqual(validate(twice), { text: warning, exitCode: 0 })
    assert.deepStrictEqual(validate({ spec: twice, compute_ctl_config: config }), {
      text: "x.json: spec.safekeeper_connstrings[2]: duplicate entry in safekeeper_connstrings: sk1:5454!\n",
      exitCode: 1
    })
  })

  it("reports what is not JSON, and keys that occur twice", () => {
    assert.strictEqual(validateText("{\n]", "x", "neon").text, "x: line 2, column 1: expected a key in double quotes\n")
    const twice = `{"spec": ${JSON.stringify(least)}, "spec": ${JSON.stringify(least)}}`
    assert.strictEqual(
      validateText(twice, "x", "local").text,
      "x: spec: expected the key once, but it is there twice\n"
    )
  })

  it("reports bytes that are not UTF-8, and more of them than any way in takes", () => {
    const bytes = Buffer.from(JSON.stringify(least))
    assert.strictEqual(validateText(bytes, "x", "local").text, "x: ok\n")
    const bad = Buffer.concat([bytes.subarray(0, 40), Buffer.from([0xc3, 0x28]), bytes.subarray(40)])
    assert.strictEqual(validateText(bad, "x", "local").text, "x: expected UTF-8, but byte 42 is not\n")
    const cut = Buffer.from([...bytes, 0xe2, 0x82])
    assert.match(validateText(cut, "x", "local").text, /^x: expected UTF-8, but byte \d+ is not\n$/)
    const long = Buffer.concat([bytes, Buffer.alloc(maxSpecBytes, " ")])
    assert.strictEqual(validateText(long, "x", "local").text, `x: expected at most ${maxSpecBytes} bytes\n`)
  })

  it("one bad file makes the whole bad", () => {
    const reports = [validate(least, "local"), unreadable("y.json", "no such file")]
    assert.deepStrictEqual(joinReports(reports), {
      text: "x.json: ok\ny.json: cannot be read: no such file\n",
      exitCode: 1
    })
    assert.strictEqual(joinReports([validate(least, "local")]).exitCode, 0)
  })
})

describe("validate and a run", () => {
  const settings = { storage: { _tag: "Neon" }, computeId: null, controlPlaneToken: null, apiVersion: "head" } as const
  /** Lines as `validate` prints them, of what a run fails with. */
  const runLines = (spec: SpecSource, source: string) =>
    Effect.map(Effect.result(findSpec({ ...settings, spec })), (found) =>
      Result.isSuccess(found)
        ? `${source}: ok\n`
        : found.failure._tag === "SpecInvalid"
          ? found.failure.problems
              .map(({ message, path }) => `${source}: ${path === "" ? "" : `${path}: `}${message}\n`)
              .join("")
          : assert.fail(found.failure.message)
    )
  const twice = JSON.stringify(leastNeon).replace("{", '{"format_version": "x", ')
  const bare = [
    read("test/fixtures/cloud-2024.json"),
    JSON.stringify(least),
    JSON.stringify({ ...leastNeon, mode: "x", cluster: { roles: [{ name: "" }], databases: [] } }),
    twice,
    `${twice.slice(0, -1)}, "mode": "x"}`,
    "[]",
    "{\n]"
  ]
  const documents = [
    read("test/fixtures/neon-local-head.json"),
    JSON.stringify({ compute_ctl_config: config }),
    JSON.stringify({ spec: { ...leastNeon, mode: "x" }, compute_ctl_config: {} }),
    `{"spec": ${twice}, "compute_ctl_config": {"jwks": {"keys": [3]}}}`
  ]

  it.effect("find the same problems in a spec on the command line and in a file", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryFolder, "spec.json")
      for (const text of bare) {
        fs.writeFileSync(file, text)
        assert.strictEqual(yield* runLines({ _tag: "Inline", text }, "-s"), validateText(text, "-s", "neon").text)
        assert.strictEqual(yield* runLines({ _tag: "File", path: file }, file), validateText(text, file, "neon").text)
      }
    })
  )

  it.effect("find the same fault in bytes that are not UTF-8", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryFolder, "spec.json")
      const bytes = Buffer.from(JSON.stringify(leastNeon).replace("{", '{"x": "\u00ff",'), "latin1")
      fs.writeFileSync(file, bytes)
      const expected = validateText(bytes, file, "neon").text
      assert.match(expected, /expected UTF-8/)
      for (const _tag of ["File", "ConfigFile"] as const)
        assert.strictEqual(yield* runLines({ _tag, path: file }, file), expected)
    })
  )

  it.effect("find the same problems in a configuration file", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryFolder, "config.json")
      for (const text of documents) {
        fs.writeFileSync(file, text)
        const ofRun = yield* runLines({ _tag: "ConfigFile", path: file }, file)
        assert.strictEqual(ofRun, validateText(text, file, "neon").text)
      }
    })
  )
})

describe("schemaText", () => {
  it("is JSON for people and machines", () => {
    const text = schemaText()
    assert.isTrue(text.endsWith("}\n"))
    assert.strictEqual(JSON.parse(text).title, "ComputeSpec")
  })
})
