/**
 * Documents that hold a spec: the file of `-c` (docs/reference/compute_ctl.md#config-file) and the control plane's
 * answers (docs/reference/compute_ctl.md#spec-answer).
 *
 * Read whole: all that is wrong with a document and with the spec in it comes at once, with paths from the document's
 * root. The spec inside is parsed by `parseSpec`, like any other. Pure; fetches nothing.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type Problem, SpecInvalid } from "../errors/Failure.ts"
import { opt, TlsWire } from "./ComputeSpec.ts"
import { type JsonInput, readJsonText } from "./json.ts"
import type { ParsedSpec } from "./ParsedSpec.ts"
import { type ParseOptions, parseSpec } from "./parseSpec.ts"
import { problemsOf } from "./problems.ts"

export interface Tls {
  readonly keyPath: string
  readonly certPath: string
}

export interface ComputeConfig {
  /** `null`: there is none yet; wait for `/configure`. */
  readonly spec: ParsedSpec | null
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

interface Decoded {
  readonly tls: typeof TlsWire.Type | null
  readonly problems: ReadonlyArray<Problem>
}

const decoded = (settings: typeof SettingsWire.Type | undefined, problems: ReadonlyArray<Problem> = []): Decoded => ({
  tls: settings?.tls ?? null,
  problems
})

const decodeFile = (input: unknown): Decoded =>
  Result.match(decodeConfig(input), {
    onSuccess: (wire) => decoded(wire.compute_ctl_config),
    onFailure: (error) => decoded(undefined, problemsOf(error))
  })

/** Both generations: the older one's answer has no `compute_ctl_config`, and so no keys. */
const decodeAnswer = (input: unknown): Decoded =>
  Result.match(decodeResponse(input), {
    onSuccess: ({ compute_ctl_config, spec = null, status }) =>
      decoded(
        compute_ctl_config,
        status === "attached" && spec === null
          ? [{ path: "spec", message: "compute is attached, but spec is empty" }]
          : []
      ),
    onFailure: (error) => decoded(undefined, problemsOf(error))
  })

/** The file of `-c`. */
export const parseConfigText = (text: string, options: ParseOptions): Result.Result<ComputeConfig, SpecInvalid> =>
  Result.flatMap(readJsonText(text, options.source), (input) => parseDocument(input, options, decodeFile))

/** The control plane's answer; its spec is missing only as long as it says `empty`. */
export const parseResponse = (answer: unknown, options: ParseOptions): Result.Result<ComputeConfig, SpecInvalid> =>
  parseDocument({ value: answer, duplicates: [] }, options, decodeAnswer)

/** The keys of a file of `-c` alone: they may be rotated while the spec next to them is not valid. */
export const parseConfigKeys = (text: string, source: string): Result.Result<ReadonlyArray<unknown>, SpecInvalid> =>
  Result.flatMap(readJsonText(text, source), ({ duplicates, value }) => {
    const problems = [...duplicates, ...decodeFile(value).problems]
    return problems.length > 0 ? Result.fail(new SpecInvalid({ source, problems })) : Result.succeed(rawKeys(value))
  })

const rawKeys = (input: unknown): ReadonlyArray<unknown> =>
  Result.getOrNull(decodeRawKeys(input))?.compute_ctl_config?.jwks.keys ?? []

const parseDocument = (
  { duplicates, value }: JsonInput,
  options: ParseOptions,
  decode: (input: unknown) => Decoded
): Result.Result<ComputeConfig, SpecInvalid> => {
  const { problems: outside, tls } = decode(value)
  const inside = typeof value === "object" && value !== null && "spec" in value ? value.spec : null
  const spec = inside === null ? null : parseSpec(inside, { ...options, under: [...(options.under ?? []), "spec"] })
  const problems = [
    ...duplicates,
    ...outside,
    ...(spec !== null && Result.isFailure(spec) ? spec.failure.problems : [])
  ]
  if (problems.length > 0) return Result.fail(new SpecInvalid({ source: options.source, problems }))
  return Result.succeed({
    spec: spec === null ? null : Result.getOrNull(spec),
    jwks: rawKeys(value),
    tls: tls === null ? null : { keyPath: tls.key_path, certPath: tls.cert_path }
  })
}
