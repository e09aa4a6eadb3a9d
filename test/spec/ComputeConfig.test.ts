/**
 * The file of `-c` and the control plane's answers of both generations.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { parseConfigKeys, parseConfigText, parseResponse } from "../../src/spec/ComputeConfig.ts"
import { type Json, least, leastNeon, readJson } from "../support/fixtures.ts"

const key = { kty: "OKP", crv: "Ed25519", x: "AAAA", kid: "k", alg: "EdDSA", use: "sig", key_ops: ["verify"] }
const settings = (more: Json = {}): Json => ({ jwks: { keys: [key] }, ...more })
const local = { source: "f", storage: "local" } as const
const neon = { source: "f", storage: "neon" } as const
const parseFile = (document: unknown) => parseConfigText(JSON.stringify(document), local)
const problemLines = (read: ReturnType<typeof parseConfigText>): ReadonlyArray<string> =>
  Result.isFailure(read) ? read.failure.problems.map(({ message, path }) => `${path}: ${message}`) : []

describe("parseConfigText", () => {
  it("reads the fixtures, with their spec", () => {
    for (const file of ["neon-local-head", "compose-head"]) {
      const text = JSON.stringify(readJson(`test/fixtures/${file}.json`))
      const config = Result.getOrThrow(parseConfigText(text, neon))
      assert.strictEqual(config.jwks.length, 1)
      assert.isNull(config.tls)
      assert.isAbove(config.spec?.neon?.safekeepers.length ?? 0, 0)
    }
  })

  it("keeps keys whole, and takes a missing spec as none", () => {
    for (const spec of [{}, { spec: null }]) {
      const config = Result.getOrThrow(parseFile({ ...spec, compute_ctl_config: settings() }))
      assert.deepStrictEqual(config, { spec: null, jwks: [key], tls: null })
    }
  })

  it("reads TLS paths", () => {
    const tls = { key_path: "/k", cert_path: "/c" }
    const config = Result.getOrThrow(parseFile({ compute_ctl_config: settings({ tls }) }))
    assert.deepStrictEqual(config.tls, { keyPath: "/k", certPath: "/c" })
  })

  const table: ReadonlyArray<readonly [what: string, input: unknown, problemLines: ReadonlyArray<string>]> = [
    ["text", "x", [": expected an object"]],
    ["a bare spec", least, ["compute_ctl_config: expected a value, but the key is missing"]],
    ["no jwks", { compute_ctl_config: {} }, ["compute_ctl_config.jwks: expected a value, but the key is missing"]],
    [
      "half of TLS",
      { compute_ctl_config: settings({ tls: { key_path: "/k" } }) },
      ["compute_ctl_config.tls.cert_path: expected a value, but the key is missing"]
    ],
    [
      "keys that are none",
      { compute_ctl_config: { jwks: { keys: [{ kty: "PGP" }, 3, { kty: "OKP", crv: "Ed25519" }] } } },
      [
        "compute_ctl_config.jwks.keys[0]: expected a JSON Web Key",
        "compute_ctl_config.jwks.keys[1]: expected a JSON Web Key",
        "compute_ctl_config.jwks.keys[2].x: expected a value, but the key is missing"
      ]
    ]
  ]
  for (const [what, input, expected] of table) {
    it(`${what} is a problem`, () => assert.deepStrictEqual(problemLines(parseFile(input)), expected))
  }

  it("finds all problems at once, with paths from the root of the document", () => {
    const text = '{"spec": {"format_version": 1, "cluster": {"roles": [], "roles": []}}, "compute_ctl_config": {}}'
    const failure = Result.getOrThrow(Result.flip(parseConfigText(text, local)))
    assert.deepStrictEqual(
      failure.problems.map(({ path }) => path),
      ["spec.cluster.roles", "compute_ctl_config.jwks", "spec.cluster.databases"]
    )
  })

  it("has one problem with what is not JSON", () => {
    const failure = Result.getOrThrow(Result.flip(parseConfigText("<html>", local)))
    assert.deepStrictEqual(failure.problems, [{ path: "", message: "line 1, column 1: expected a JSON value" }])
  })

  it.prop("answers any JSON value", [Schema.Json, Schema.Json], ([value, keys]) => {
    parseFile(value)
    parseFile({ compute_ctl_config: value })
    parseFile({ compute_ctl_config: { jwks: { keys } } })
    parseResponse(value, local)
  })
})

describe("parseConfigKeys", () => {
  it("reads the keys of a file whose spec is not valid", () => {
    const text = JSON.stringify({ spec: { nonsense: true }, compute_ctl_config: settings() })
    assert.deepStrictEqual(Result.getOrThrow(parseConfigKeys(text, "f")), [key])
  })

  it("refuses a file whose keys are not valid", () => {
    assert.isTrue(Result.isFailure(parseConfigKeys('{"compute_ctl_config": {}}', "f")))
  })
})

describe("parseResponse", () => {
  it("reads both generations", () => {
    const older = Result.getOrThrow(parseResponse({ spec: leastNeon, status: "attached" }, neon))
    assert.deepStrictEqual([older.spec?.neon?.safekeepers.length, older.jwks, older.tls], [2, [], null])
    assert.deepStrictEqual(
      Result.getOrThrow(parseResponse({ spec: null, status: "empty", compute_ctl_config: settings() }, neon)),
      { spec: null, jwks: [key], tls: null }
    )
  })

  const table: ReadonlyArray<readonly [input: unknown, problems: ReadonlyArray<string>]> = [
    [{ status: "attached" }, ["spec: compute is attached, but spec is empty"]],
    [{ status: "attached", spec: null }, ["spec: compute is attached, but spec is empty"]],
    [{ status: "away" }, ['status: expected "empty" or "attached"']],
    [{ spec: least }, ["status: expected a value, but the key is missing"]],
    [
      { status: "away", spec: {} },
      [
        'status: expected "empty" or "attached"',
        "spec.format_version: expected a value, but the key is missing",
        "spec.cluster: expected a value, but the key is missing"
      ]
    ]
  ]
  for (const [input, expected] of table) {
    it(`refuses ${JSON.stringify(input)}`, () => {
      assert.deepStrictEqual(problemLines(parseResponse(input, local)), expected)
    })
  }
})
