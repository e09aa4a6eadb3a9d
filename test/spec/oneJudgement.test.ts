/**
 * One judgement for all ways in: a spec as a file, in a document, in a configuration, and in a request.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { validateText } from "../../src/cli/validate.ts"
import { parseConfigText } from "../../src/spec/ComputeConfig.ts"
import { parseSpec, parseSpecText } from "../../src/spec/parseSpec.ts"
import type { SpecInvalid } from "../../src/errors/Failure.ts"
import { clearText, refusedSpecs } from "../support/refusedSpecs.ts"

const paths = (result: Result.Result<unknown, SpecInvalid>): ReadonlyArray<string> =>
  Result.isFailure(result) ? [...new Set(result.failure.problems.map(({ path }) => path))] : []
const read = { source: "s", storage: "local" } as const

describe("one judgement", () => {
  for (const [what, spec, path] of refusedSpecs) {
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
        assert.isTrue(report.text.startsWith(`s: ${at}: `) && report.text.includes("expected "), report.text)
        assert.notInclude(report.text, clearText)
      }
    })
  }
})
