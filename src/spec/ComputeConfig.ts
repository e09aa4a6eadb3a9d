/**
 * What surrounds a spec: the file of `-c` (reference section 9.3) and the control plane's answers (section 9.2).
 *
 * The spec inside stays unread here, so that it goes through the one door (`parseSpec`) like any other.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type Problem, SpecInvalid } from "../errors/Failure.ts"
import { opt, TlsWire } from "./ComputeSpec.ts"
import { problemsOf } from "./json.ts"
import type { ParsedSpec } from "./ParsedSpec.ts"
import { type ParseOptions, parseSpec, readJsonText } from "./parseSpec.ts"

export interface Tls {
  readonly keyPath: string
  readonly certPath: string
}

export interface ComputeConfig {
  /** `null`: there is none yet; wait for `/configure`. */
  readonly spec: unknown | null
  /** Public keys that tokens of the external API are verified with. */
  readonly jwks: ReadonlyArray<unknown>
  readonly tls: Tls | null
}

/** A key that can be read; what it is good for is for the verifier to say. */
const Jwk = Schema.Union([
  Schema.Struct({ kty: Schema.Literal("OKP"), crv: Schema.String, x: Schema.String }),
  Schema.Struct({ kty: Schema.Literal("EC"), crv: Schema.String, x: Schema.String, y: Schema.String }),
  Schema.Struct({ kty: Schema.Literal("RSA"), n: Schema.String, e: Schema.String }),
  Schema.Struct({ kty: Schema.Literal("oct"), k: Schema.String })
]).annotate({ expected: "a JSON Web Key" })

const SettingsWire = Schema.Struct({
  jwks: Schema.Struct({ keys: Schema.Array(Jwk) }),
  tls: opt(TlsWire)
})

/** Decoding drops members that a shape does not name (`kid`, `alg`), so keys are also taken whole (`RawKeys`). */
const ConfigWire = Schema.Struct({ spec: Schema.optionalKey(Schema.Unknown), compute_ctl_config: SettingsWire })

const ResponseWire = Schema.Struct({
  spec: Schema.optionalKey(Schema.Unknown),
  status: Schema.Literals(["empty", "attached"]),
  compute_ctl_config: Schema.optionalKey(SettingsWire)
})

const RawKeys = Schema.Struct({
  compute_ctl_config: Schema.optionalKey(Schema.Struct({ jwks: Schema.Struct({ keys: Schema.Array(Schema.Unknown) }) }))
})

const decodeConfig = Schema.decodeUnknownResult(ConfigWire, { errors: "all" })
const decodeResponse = Schema.decodeUnknownResult(ResponseWire, { errors: "all" })
const decodeRawKeys = Schema.decodeUnknownResult(RawKeys)

export const parseComputeConfig = (input: unknown, source: string): Result.Result<ComputeConfig, SpecInvalid> =>
  Result.mapBoth(decodeConfig(input), {
    onSuccess: (wire) => readConfig(input, wire.spec, wire.compute_ctl_config),
    onFailure: (error) => new SpecInvalid({ source, problems: problemsOf(error) })
  })

export interface ControlPlaneResponse extends ComputeConfig {
  readonly status: "empty" | "attached"
}

/** Both generations: the older one's answer has no `compute_ctl_config`, and so no keys. */
export const parseControlPlaneResponse = (
  input: unknown,
  source: string
): Result.Result<ControlPlaneResponse, SpecInvalid> => {
  const decoded = decodeResponse(input)
  const fail = (problems: ReadonlyArray<Problem>) => Result.fail(new SpecInvalid({ source, problems }))
  if (Result.isFailure(decoded)) return fail(problemsOf(decoded.failure))
  const { compute_ctl_config, spec, status } = decoded.success
  if (status === "attached" && (spec ?? null) === null) {
    return fail([{ path: "spec", message: "compute is attached, but spec is empty" }])
  }
  return Result.succeed({ status, ...readConfig(input, spec, compute_ctl_config) })
}

const readConfig = (input: unknown, spec: unknown, wire: typeof SettingsWire.Type | undefined): ComputeConfig => {
  const keys = Result.getOrNull(decodeRawKeys(input))?.compute_ctl_config?.jwks.keys ?? []
  const tls = wire?.tls ?? null
  return {
    spec: spec ?? null,
    jwks: keys,
    tls: tls === null ? null : { keyPath: tls.key_path, certPath: tls.cert_path }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Documents that hold a spec, read whole: the file of `-c` and the control plane's answer. All that is wrong with the
// document and with the spec in it comes at once, with paths from the document's root.
// ---------------------------------------------------------------------------------------------------------------------

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
