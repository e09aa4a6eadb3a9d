/**
 * Finds the spec: on the command line, in a file, or at the control plane, with the last good one in its stead when the
 * control plane is down. Parses it as `compute_ctl validate` does; starts nothing.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { pullDefaults, pullSpec, type Waiting } from "../controlplane/ControlPlane.ts"
import { isDown, type LastGoodSpec, standIn } from "../controlplane/LastGoodSpec.ts"
import type { Failure } from "../errors/Failure.ts"
import { keyWatcher, type Verifier } from "../http/Verifier.ts"
import type { ProgramOptions } from "../lifecycle/options.ts"
import { parseConfigKeys, parseConfigText, parseResponse, type Tls } from "../spec/ComputeConfig.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { type ParseOptions, parseSpecText } from "../spec/parseSpec.ts"
import { readText } from "./readText.ts"
import type { RunSettings } from "./RunSettings.ts"

export interface Found {
  readonly spec: ParsedSpec | null
  readonly jwks: ReadonlyArray<unknown> | null
  /** The control plane's answer that they are from; `null`: they are from elsewhere. */
  readonly answer: unknown | null
  /** Where the compute's own certificate is kept. */
  readonly tls: Tls | null
}

/** What finding a spec needs of the settings; commands that only look at one have no more. */
export type SpecSettings = Pick<RunSettings, "spec" | "storage" | "computeId" | "controlPlaneToken" | "apiVersion">

/** How a spec is parsed that comes from `source`, whoever asks. */
export const parseOptionsOf = (
  { apiVersion, storage }: Pick<RunSettings, "storage" | "apiVersion">,
  source: string
): ParseOptions => ({
  source,
  apiVersion,
  storage: storage._tag === "Neon" ? "neon" : "local"
})

/** Reads and parses the spec from wherever it is. */
export const findSpec = Effect.fnUntraced(function* (
  settings: SpecSettings,
  waiting: Waiting = () => Effect.void
): Effect.fn.Return<Found, Failure> {
  const from = settings.spec
  switch (from._tag) {
    case "Inline":
      return yield* bareSpec(settings, from.text, "-s")
    case "File":
      return yield* bareSpec(settings, yield* readText(from.path), from.path)
    case "ConfigFile": {
      const text = yield* readText(from.path)
      const config = yield* Effect.fromResult(parseConfigText(text, parseOptionsOf(settings, from.path)))
      return { ...config, jwks: keysFor(settings, config.jwks), answer: null }
    }
    case "ControlPlane": {
      const json = yield* pullSpec({
        base: from.uri,
        computeId: settings.computeId ?? "",
        token: settings.controlPlaneToken,
        waiting,
        ...pullDefaults
      })
      return yield* readAnswer(settings, json, from.uri)
    }
  }
})

const bareSpec = (settings: SpecSettings, text: string, source: string): Effect.Effect<Found, Failure> =>
  Effect.map(Effect.fromResult(parseSpecText(text, parseOptionsOf(settings, source))), (spec) => ({
    spec,
    jwks: null,
    answer: null,
    tls: null
  }))

/** Keys mean that tokens are asked for. Without any, nobody is admitted (head), or nobody is asked (2024). */
const keysFor = ({ apiVersion }: SpecSettings, jwks: ReadonlyArray<unknown>): ReadonlyArray<unknown> | null =>
  apiVersion === "2024" && jwks.length === 0 ? null : jwks

/** What a control plane answered, or once answered. */
const readAnswer = (settings: SpecSettings, answer: unknown, source: string): Effect.Effect<Found, Failure> =>
  Effect.map(Effect.fromResult(parseResponse(answer, parseOptionsOf(settings, source))), ({ jwks, spec, tls }) => ({
    spec,
    jwks: keysFor(settings, jwks),
    answer,
    tls
  }))

/** From where it is; from what was kept when the control plane is down and `kept` is given. */
export const findOrRecall = Effect.fnUntraced(function* (
  settings: RunSettings,
  kept: LastGoodSpec | null,
  path: string,
  waiting: Waiting
) {
  const found = yield* Effect.result(findSpec(settings, waiting))
  if (Result.isSuccess(found)) return { ...found.success, degraded: [] }
  const answer = kept !== null && isDown(found.failure) ? yield* kept.read : null
  if (answer === null) return yield* Effect.fail(found.failure)
  const condition = standIn(found.failure, path)
  yield* Effect.logWarning(condition.message)
  return { ...(yield* readAnswer(settings, answer, path)), degraded: [condition] }
})

/** Standard input can be read once, and a spec on the command line stays what it is. */
export const refetchOf = (
  settings: RunSettings,
  verifier: Verifier | null,
  kept: LastGoodSpec | null
): Effect.Effect<ParsedSpec | null, Failure> | null =>
  settings.spec._tag === "Inline" || ("path" in settings.spec && settings.spec.path === "-")
    ? null
    : Effect.gen(function* () {
        const { answer, jwks, spec } = yield* findSpec(settings)
        if (spec !== null) kept?.remember(spec, answer)
        if (verifier === null && jwks !== null)
          yield* Effect.logWarning("keys came with the spec, and the HTTP API asks for tokens from the next start on")
        if (verifier !== null && jwks !== null && !verifier.isCurrent(jwks))
          yield* Effect.catch(verifier.rotate(jwks), (wrong) =>
            Effect.logWarning(`the HTTP API keeps its keys: ${wrong.message}`)
          )
        return spec
      })

export const watchersOf = (
  { spec }: RunSettings,
  given: ReadonlyArray<unknown> | null,
  verifier: Verifier | null
): ProgramOptions["watchers"] => {
  if (given === null || verifier === null || spec._tag !== "ConfigFile" || spec.path === "-") return []
  const read = readText(spec.path).pipe(Effect.flatMap((text) => Effect.fromResult(parseConfigKeys(text, spec.path))))
  return [keyWatcher({ path: spec.path, given, read }, verifier)]
}
