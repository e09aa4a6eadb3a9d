/**
 * What surrounds a spec: the file of `-c` (reference section 9.3) and the control plane's answers (section 9.2).
 *
 * The spec inside stays unread here, so that it goes through the one door (`parseSpec`) like any other.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { TlsWire } from "./ExtensionSpec.ts"
import { type Problem, SpecInvalid } from "../errors/Failure.ts"
import { problemsOf } from "./SpecProblem.ts"
import { opt } from "./SpecScalars.ts"

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
  compute_ctl_config: Schema.optionalKey(
    Schema.Struct({ jwks: Schema.Struct({ keys: Schema.Array(Schema.Unknown) }) })
  )
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

const readConfig = (
  input: unknown,
  spec: unknown,
  wire: typeof SettingsWire.Type | undefined
): ComputeConfig => {
  const keys = Result.getOrNull(decodeRawKeys(input))?.compute_ctl_config?.jwks.keys ?? []
  const tls = wire?.tls ?? null
  return {
    spec: spec ?? null,
    jwks: keys,
    tls: tls === null ? null : { keyPath: tls.key_path, certPath: tls.cert_path }
  }
}
