/**
 * `compute_ctl validate` and `compute_ctl schema`: text in, report and exit code out. Reads no file itself.
 *
 * Takes a bare spec, or one inside a document (`{"spec": …}`), which may be the config file of `-c`.
 */
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SpecInvalid } from "../errors/Failure.ts"
import { parseConfigText } from "../spec/ComputeConfig.ts"
import { ComputeSpec } from "../spec/ComputeSpec.ts"
import { decodeSpecText, readJsonText } from "../spec/json.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { type ParseOptions, parseSpecDocument } from "../spec/parseSpec.ts"
import { storageWarnings } from "../spec/parseStorage.ts"

/** A description stands beside what it describes, where editors look for it; Effect prints an `allOf` of one. */
const withDescriptions = (node: unknown): unknown => {
  if (Array.isArray(node)) return node.map(withDescriptions)
  if (!Predicate.isObject(node)) return node
  const { allOf, ...rest } = Object.fromEntries(
    Object.entries(node).map(([key, value]) => [key, withDescriptions(value)])
  )
  if (!Array.isArray(allOf)) return rest
  const isDescription = (part: object) => Object.keys(part).join() === "description"
  const others = allOf.filter((part) => !isDescription(part))
  const isReference = others.length === 1 && Object.keys(others[0]).join() === "$ref"
  return {
    ...rest,
    ...(isReference ? others[0] : others.length === 0 ? {} : { allOf: others }),
    ...Object.assign({}, ...allOf.filter(isDescription))
  }
}

/**
 * The spec's JSON Schema (draft 2020-12), printed from the Schema that decodes it, so that the two can not differ. A
 * first check for editors and control planes: what JSON Schema can not say (bytes of a name, where addresses may come
 * from) only `parseSpec` says.
 */
export const specJsonSchema = (): unknown => {
  const { definitions, schema } = Schema.toJsonSchemaDocument(ComputeSpec)
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "ComputeSpec",
    description: "What one Postgres compute shall be: its cluster, where its data lives, and how it behaves.",
    ...(withDescriptions(schema) as object),
    $defs: withDescriptions(definitions)
  }
}

export interface Report {
  readonly text: string
  readonly exitCode: 0 | 1
}

/** One line `SOURCE: ok` after a line per warning, or one line `SOURCE: path: expected …` per problem. */
export const validateText = (input: string | Uint8Array, source: string, storage: "neon" | "local"): Report => {
  const text = typeof input === "string" ? Result.succeed(input) : decodeSpecText(input, source)
  const parsed = Result.flatMap(text, (one) => parse(one, { source, storage }))
  if (Result.isSuccess(parsed)) {
    const warnings = storageWarnings(parsed.success?.neon ?? null).map((warning) => `${source}: warning: ${warning}\n`)
    return { text: `${warnings.join("")}${source}: ok\n`, exitCode: 0 }
  }
  const lines = parsed.failure.problems.map(
    ({ message, path }) => `${source}: ${path === "" ? "" : `${path}: `}${message}\n`
  )
  return { text: lines.join(""), exitCode: 1 }
}

/** For a file that could not be read; `why` comes from the system. */
export const unreadable = (source: string, why: string): Report => ({
  text: `${source}: cannot be read: ${why}\n`,
  exitCode: 1
})

export const joinReports = (reports: ReadonlyArray<Report>): Report => ({
  text: reports.map((report) => report.text).join(""),
  exitCode: reports.some((report) => report.exitCode === 1) ? 1 : 0
})

export const schemaText = (): string => `${JSON.stringify(specJsonSchema(), null, 2)}\n`

/**
 * By the functions that a run parses specs with, so that the two agree: a document with settings is the later
 * generation's, all else may be read by `-S`, which is the older's.
 */
const parse = (text: string, options: ParseOptions): Result.Result<ParsedSpec | null, SpecInvalid> =>
  Result.flatMap(readJsonText(text, options.source), ({ duplicates, value }) => {
    const inDocument = Predicate.isObject(value) && !("cluster" in value)
    if (inDocument && "compute_ctl_config" in value)
      return Result.map(parseConfigText(text, options), ({ spec }) => spec)
    const older = { ...options, apiVersion: "2024" } as const
    return inDocument && "spec" in value
      ? parseSpecDocument({ duplicates, value: value.spec }, { ...older, under: ["spec"] })
      : parseSpecDocument({ duplicates, value }, older)
  })
