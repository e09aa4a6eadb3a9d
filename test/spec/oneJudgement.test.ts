/**
 * One judgement for all ways in: a spec as a file, in a document, in a configuration, and in a request.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { validateText } from "../../src/cli/validate.ts"
import { parseConfigText } from "../../src/spec/ComputeConfig.ts"
import { parseSpec, parseSpecText } from "../../src/spec/parseSpec.ts"
import type { SpecInvalid } from "../../src/errors/Failure.ts"
import { type Json, least } from "../support/fixtures.ts"

const role = (more: Json): Json => ({ ...least, cluster: { roles: [{ name: "r", ...more }], databases: [] } })
const database = (more: Json): Json => ({
  ...least,
  cluster: { roles: [], databases: [{ name: "d", owner: "r", ...more }] }
})
const options = (name: string, value: string | null) => ({ options: [{ name, value, vartype: "enum" }] })

const refused: ReadonlyArray<readonly [what: string, spec: Json, path: string]> = [
  ["an empty password", role({ encrypted_password: "" }), "cluster.roles[0].encrypted_password"],
  ["a password in the clear", role({ encrypted_password: "hunter2" }), "cluster.roles[0].encrypted_password"],
  ["half a verifier", role({ encrypted_password: "SCRAM-SHA-256$4096:a" }), "cluster.roles[0].encrypted_password"],
  ["the role public", role({ name: "public" }), "cluster.roles[0].name"],
  ["the role none", role({ name: "none" }), "cluster.roles[0].name"],
  ["a role of Postgres", role({ name: "pg_x" }), "cluster.roles[0].name"],
  ["the private template", database({ name: "template_compute_ctl" }), "cluster.databases[0].name"],
  ["an owner that is no role", database({ owner: "none" }), "cluster.databases[0].owner"],
  ["an option that is none", role(options("FROBNICATE", null)), "cluster.roles[0].options[0].name"],
  ["a limit that is no number", role(options("CONNECTION LIMIT", "many")), "cluster.roles[0].options[0].value"],
  ["more than one word", database(options("TEMPLATE", "a; b")), "cluster.databases[0].options[0].value"]
]

const paths = (result: Result.Result<unknown, SpecInvalid>): ReadonlyArray<string> =>
  Result.isFailure(result) ? [...new Set(result.failure.problems.map(({ path }) => path))] : []
const read = { source: "s", storage: "local" } as const

describe("one judgement", () => {
  for (const [what, spec, path] of refused) {
    it(`refuses ${what} with its path, whichever way it comes`, () => {
      const config = JSON.stringify({ spec, compute_ctl_config: { jwks: { keys: [] } } })
      assert.deepStrictEqual(paths(parseSpecText(JSON.stringify(spec), read)), [path])
      assert.deepStrictEqual(paths(parseConfigText(config, read)), [`spec.${path}`])
      assert.deepStrictEqual(paths(parseSpec(spec, { ...read, under: ["spec"] })), [`spec.${path}`])
      for (const [text, at] of [
        [JSON.stringify(spec), path],
        [JSON.stringify({ spec }), `spec.${path}`],
        [config, `spec.${path}`]
      ] as const) {
        const report = validateText(text, "s", "local")
        assert.strictEqual(report.exitCode, 1)
        assert.isTrue(report.text.startsWith(`s: ${at}: expected `), report.text)
        assert.notInclude(report.text, "hunter2")
      }
    })
  }
})
