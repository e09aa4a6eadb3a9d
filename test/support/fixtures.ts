/**
 * Specs for tests of parsing: the fixtures, the least that is a spec, and a print that shows everything.
 */
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import type { Problem } from "../../src/errors/Failure.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { parseSpec } from "../../src/spec/parseSpec.ts"

export type Json = { [key: string]: unknown }

export const readJson = (file: string): Json =>
  JSON.parse(fs.readFileSync(new URL(`../../${file}`, import.meta.url), "utf8"))

export const fixtures = {
  cloud2024: readJson("test/fixtures/cloud-2024.json"),
  neonLocal: readJson("test/fixtures/neon-local-head.json")["spec"] as Json,
  compose: readJson("test/fixtures/compose-head.json")["spec"] as Json,
  example: readJson("examples/spec.json")
}

/** What local storage needs, and nothing more. */
export const least: Json = { format_version: 1, cluster: { roles: [], databases: [] } }

/** What Neon's storage needs, and nothing more. */
export const leastNeon: Json = {
  ...least,
  tenant_id: "1".repeat(32),
  timeline_id: "2".repeat(32),
  pageserver_connstring: "host=pageserver port=6400",
  safekeeper_connstrings: ["sk1:5454", "sk2:5454"]
}

export const parseLocal = (input: unknown) => parseSpec(input, { source: "test", storage: "local" })
export const parseNeon = (input: unknown) => parseSpec(input, { source: "test", storage: "neon" })

export const specOf = (input: unknown, storage: "neon" | "local"): ParsedSpec =>
  Result.getOrThrow(parseSpec(input, { source: "test", storage }))

const problems = (input: unknown, storage: "neon" | "local"): ReadonlyArray<Problem> => {
  const parsed = parseSpec(input, { source: "test", storage })
  return Result.isFailure(parsed) ? parsed.failure.problems : []
}

/** Lines `path: message`. */
export const problemLines = (input: unknown, storage: "neon" | "local"): ReadonlyArray<string> =>
  problems(input, storage).map(({ message, path }) => `${path}: ${message}`)

/** With secrets, so that specs can be compared. */
export const show = (spec: ParsedSpec): string =>
  JSON.stringify(
    spec,
    function (this: Record<string, unknown>, key) {
      const value = this[key]
      if (Redacted.isRedacted(value)) return `secret ${String(Redacted.value(value))}`
      if (value instanceof Set || value instanceof Map) return [...value]
      return typeof value === "bigint" ? `lsn ${value}` : value
    },
    1
  )
