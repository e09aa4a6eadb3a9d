/**
 * The file of `-c` and the control plane's answers of both generations.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import {
  parseComputeConfig,
  parseConfigText,
  parseControlPlaneResponse,
  parseResponseText
} from "../../src/spec/ComputeConfig.ts"
import { type Json, least, leastNeon, parseNeon, readJson } from "../support/fixtures.ts"

const key = { kty: "OKP", crv: "Ed25519", x: "AAAA", kid: "k", alg: "EdDSA", use: "sig", key_ops: ["verify"] }
const settings = (more: Json = {}): Json => ({ jwks: { keys: [key] }, ...more })
const complaints = (parsed: ReturnType<typeof parseComputeConfig>): ReadonlyArray<string> =>
  Result.isFailure(parsed) ? parsed.failure.problems.map(({ message, path }) => `${path}: ${message}`) : []

describe("parseComputeConfig", () => {
  it("reads the fixtures and leaves the spec for the door", () => {
    for (const file of ["neon-local-head", "compose-head"]) {
      const config = Result.getOrThrow(parseComputeConfig(readJson(`test/fixtures/${file}.json`), file))
      assert.strictEqual(config.jwks.length, 1)
      assert.isNull(config.tls)
      assert.isTrue(Result.isSuccess(parseNeon(config.spec)))
    }
  })

  it("keeps keys whole, and takes a missing spec as none", () => {
    for (const spec of [{}, { spec: null }]) {
      const config = Result.getOrThrow(parseComputeConfig({ ...spec, compute_ctl_config: settings() }, "f"))
      assert.deepStrictEqual(config, { spec: null, jwks: [key], tls: null })
    }
  })

  it("reads TLS paths", () => {
    const tls = { key_path: "/k", cert_path: "/c" }
    const config = Result.getOrThrow(parseComputeConfig({ compute_ctl_config: settings({ tls }) }, "f"))
    assert.deepStrictEqual(config.tls, { keyPath: "/k", certPath: "/c" })
  })

  const table: ReadonlyArray<readonly [what: string, input: unknown, complaints: ReadonlyArray<string>]> = [
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
    it(`${what} is told`, () => assert.deepStrictEqual(complaints(parseComputeConfig(input, "f")), expected))
  }

  it.prop("answers any JSON value", [Schema.Json, Schema.Json], ([value, keys]) => {
    parseComputeConfig(value, "f")
    parseComputeConfig({ compute_ctl_config: value }, "f")
    parseComputeConfig({ compute_ctl_config: { jwks: { keys } } }, "f")
    parseControlPlaneResponse(value, "f")
  })
})

describe("parseControlPlaneResponse", () => {
  it("reads both generations", () => {
    assert.deepStrictEqual(Result.getOrThrow(parseControlPlaneResponse({ spec: least, status: "attached" }, "cp")), {
      status: "attached",
      spec: least,
      jwks: [],
      tls: null
    })
    assert.deepStrictEqual(
      Result.getOrThrow(
        parseControlPlaneResponse({ spec: null, status: "empty", compute_ctl_config: settings() }, "cp")
      ),
      { status: "empty", spec: null, jwks: [key], tls: null }
    )
  })

  const table: ReadonlyArray<readonly [input: unknown, complaints: ReadonlyArray<string>]> = [
    [{ status: "attached" }, ["spec: compute is attached, but spec is empty"]],
    [{ status: "attached", spec: null }, ["spec: compute is attached, but spec is empty"]],
    [{ status: "away" }, ['status: expected "empty" or "attached"']],
    [{ spec: {} }, ["status: expected a value, but the key is missing"]]
  ]
  for (const [input, expected] of table) {
    it(`refuses ${JSON.stringify(input)}`, () => {
      assert.deepStrictEqual(complaints(parseControlPlaneResponse(input, "cp")), expected)
    })
  }
})

describe("documents read whole", () => {
  const options = { source: "f", storage: "neon" } as const

  it("give the spec, the keys, and no spec where there is none", () => {
    const text = JSON.stringify({ spec: leastNeon, compute_ctl_config: settings() })
    const config = Result.getOrThrow(parseConfigText(text, options))
    assert.strictEqual(String(config.spec?.tenant), "1".repeat(32))
    assert.deepStrictEqual(config.jwks, [key])
    assert.isNull(Result.getOrThrow(parseConfigText(JSON.stringify({ compute_ctl_config: settings() }), options)).spec)
    assert.isNull(Result.getOrThrow(parseResponseText('{"spec": null, "status": "empty"}', options)).spec)
    const answer = JSON.stringify({ spec: leastNeon, status: "attached" })
    assert.strictEqual(Result.getOrThrow(parseResponseText(answer, options)).spec?.neon?.safekeepers.length, 2)
  })

  it("give all problems at once, with paths from their root", () => {
    const text = '{"spec": {"format_version": 1, "cluster": {"roles": [], "roles": []}}, "compute_ctl_config": {}}'
    const failure = Result.getOrThrow(Result.flip(parseConfigText(text, { source: "f", storage: "local" })))
    assert.deepStrictEqual(
      failure.problems.map(({ path }) => path),
      ["spec.cluster.roles", "compute_ctl_config.jwks", "spec.cluster.databases"]
    )
  })

  it("give one problem for what is not JSON", () => {
    const failure = Result.getOrThrow(Result.flip(parseResponseText("<html>", options)))
    assert.deepStrictEqual(failure.problems, [{ path: "", message: "line 1, column 1: expected a JSON value" }])
  })
})
