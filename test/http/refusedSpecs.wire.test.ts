/**
 * One judgement for all ways in: what `validate` says of a spec, `-S` says as well, and `POST /configure` answers with
 * 400, the same words and the same path, before anything is changed.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import * as path from "node:path"
import { findSpec } from "../../src/cli/findSpec.ts"
import { validateText } from "../../src/cli/validate.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { parseSpec } from "../../src/spec/parseSpec.ts"
import { clearText, refusedSpecs } from "../support/refusedSpecs.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { ask, inMemoryServices, open, reach, refusedOf } from "./testServer.ts"

/** As the program does it for a request (`src/cli/run.ts`). */
const options = {
  parseSpec: (input: unknown) => parseSpec(input, { source: "the request", storage: "local", under: ["spec"] })
}
const settings = {
  storage: { _tag: "Local", directory: null, durability: "os" },
  computeId: null,
  controlPlaneToken: null,
  apiVersion: "head"
} as const

describe("a spec that is refused", () => {
  it.live("is refused by validate, -S and POST /configure alike, and nothing is changed", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { port } = yield* open(options)
      const before = (yield* (yield* ComputeState).now).status
      const file = path.join(yield* temporaryFolder, "spec.json")
      for (const [what, spec, place] of refusedSpecs) {
        const text = JSON.stringify(spec)
        fs.writeFileSync(file, text)
        const found = yield* Effect.result(findSpec({ ...settings, spec: { _tag: "File", path: file } }))
        if (!Result.isFailure(found) || found.failure._tag !== "SpecInvalid") return assert.fail(what)
        const { problems } = found.failure
        assert.deepStrictEqual([...new Set(problems.map((one) => one.path))], [place], what)
        assert.strictEqual(
          validateText(text, "s", "local").text,
          problems.map((one) => `s: ${one.path}: ${one.message}\n`).join(""),
          what
        )
        const answer = yield* ask(port, "POST", "/configure", { json: { spec } })
        assert.strictEqual(answer.status, 400, what)
        assert.notInclude(answer.text, clearText)
        const refused = refusedOf(answer)
        assert.strictEqual(refused.code, "spec_invalid", what)
        assert.deepStrictEqual(
          refused.problems,
          problems.map((one) => ({ path: `spec.${one.path}`, message: one.message })),
          what
        )
      }
      assert.strictEqual((yield* (yield* ComputeState).now).status, before)
    }).pipe(Effect.scoped, Effect.provide(inMemoryServices))
  )
})
