/**
 * Documents that hold a spec: the file of `-c` (docs/reference/compute_ctl.md#config-file) and the control plane's
 * answers (docs/reference/compute_ctl.md#spec-answer).
 *
 * Read whole: all that is wrong with a document and with the spec in it comes at once, with paths from the document's
 * root. The spec inside is parsed by `parseSpec`, like any other. Pure; fetches nothing.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SpecInvalid } from "../errors/Failure.ts"
import { opt, TlsWire } from "./ComputeSpec.ts"
import { decoderOf } from "./decode.ts"
import { addDuplicates, type JsonDocument, readJsonText } from "./json.ts"
import type { ParsedSpec } from "./ParsedSpec.ts"
import { parseInto, type ParseOptions, resultOf } from "./parseSpec.ts"
import { Problems } from "./problems.ts"

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
  tls: opt(TlsWire, "certificate and key")
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

const decodeConfig = decoderOf(ConfigWire)
const decodeResponse = decoderOf(ResponseWire)
const decodeRawKeys = Schema.decodeUnknownResult(RawKeys)

/** What is beside the spec; what is wrong with it is put in `problems`. */
type ReadSettings = (input: unknown, problems: Problems) => typeof SettingsWire.Type | null

const settingsOfFile: ReadSettings = (input, problems) => decodeConfig(input, problems)?.compute_ctl_config ?? null

/** Both generations: the older one's answer has no `compute_ctl_config`, and so no keys. */
const settingsOfAnswer: ReadSettings = (input, problems) => {
  const wire = decodeResponse(input, problems)
  if (wire?.status === "attached" && (wire.spec ?? null) === null)
    problems.add(["spec"], "compute is attached, but spec is empty")
  return wire?.compute_ctl_config ?? null
}

/** The file of `-c`. */
export const parseConfigText = (text: string, options: ParseOptions): Result.Result<ComputeConfig, SpecInvalid> =>
  Result.flatMap(readJsonText(text, options.source), (document) => parseDocument(document, options, settingsOfFile))

/** The control plane's answer; its spec is missing only as long as it says `empty`. */
export const parseResponse = (answer: unknown, options: ParseOptions): Result.Result<ComputeConfig, SpecInvalid> =>
  parseDocument({ value: answer, duplicates: { paths: [], more: 0 } }, options, settingsOfAnswer)

/** The keys of a file of `-c` alone: they may be rotated while the spec next to them is not valid. */
export const parseConfigKeys = (text: string, source: string): Result.Result<ReadonlyArray<unknown>, SpecInvalid> =>
  Result.flatMap(readJsonText(text, source), ({ duplicates, value }) => {
    const problems = new Problems()
    addDuplicates(duplicates, problems)
    settingsOfFile(value, problems)
    return resultOf(rawKeys(value), problems, source)
  })

const rawKeys = (input: unknown): ReadonlyArray<unknown> =>
  Result.getOrNull(decodeRawKeys(input))?.compute_ctl_config?.jwks.keys ?? []

const parseDocument = (
  { duplicates, value }: JsonDocument,
  options: ParseOptions,
  settingsOf: ReadSettings
): Result.Result<ComputeConfig, SpecInvalid> => {
  const { source, under = [] } = options
  const problems = new Problems()
  addDuplicates(duplicates, problems)
  const tls = settingsOf(value, problems)?.tls ?? null
  const inside = typeof value === "object" && value !== null && "spec" in value ? value.spec : null
  const spec = inside === null ? null : parseInto(inside, options, problems.under([...under, "spec"]))
  const config = {
    spec,
    jwks: rawKeys(value),
    tls: tls === null ? null : { keyPath: tls.key_path, certPath: tls.cert_path }
  }
  return resultOf(config, problems, source)
}
