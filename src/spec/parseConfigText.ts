/**
 * Documents that hold a spec, read whole: the file of `-c` and the control plane's answer. All that is wrong with the
 * document and with the spec in it comes at once, with paths from the document's root.
 */
import * as Result from "effect/Result"
import { type ComputeConfig, parseComputeConfig, parseControlPlaneResponse } from "./ComputeConfig.ts"
import { SpecInvalid } from "../errors/Failure.ts"
import type { ParsedSpec } from "./ParsedSpec.ts"
import { type ParseOptions, parseSpec, readJsonText } from "./parseSpec.ts"

export interface BelievedConfig extends Omit<ComputeConfig, "spec"> {
  /** `null`: none yet; wait for `/configure`. */
  readonly spec: ParsedSpec | null
}

/** Reference section 9.3. */
export const parseConfigText = (text: string, options: ParseOptions): Result.Result<BelievedConfig, SpecInvalid> =>
  parseAround(text, options, parseComputeConfig)

/** Reference section 9.2, both generations. `attached` without a spec is a problem. */
export const parseResponseText = (text: string, options: ParseOptions): Result.Result<BelievedConfig, SpecInvalid> =>
  parseAround(text, options, parseControlPlaneResponse)

const parseAround = (
  text: string,
  options: ParseOptions,
  parse: (input: unknown, source: string) => Result.Result<ComputeConfig, SpecInvalid>
): Result.Result<BelievedConfig, SpecInvalid> =>
  Result.flatMap(readJsonText(text, options.source), ({ twice, value }) => {
    const config = parse(value, options.source)
    const inside = typeof value === "object" && value !== null && "spec" in value ? value.spec : null
    const spec = inside === null ? null : parseSpec(inside, { ...options, under: [...(options.under ?? []), "spec"] })
    const problems = [
      ...twice,
      ...(Result.isFailure(config) ? config.failure.problems : []),
      ...(spec !== null && Result.isFailure(spec) ? spec.failure.problems : [])
    ]
    if (Result.isFailure(config) || problems.length > 0) {
      return Result.fail(new SpecInvalid({ source: options.source, problems }))
    }
    const { jwks, tls } = config.success
    return Result.succeed({ spec: spec === null ? null : Result.getOrNull(spec), jwks, tls })
  })
