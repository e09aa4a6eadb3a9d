/**
 * Problems of an input: where each is (`cluster.roles[0].name`) and what was expected there, never the value itself.
 *
 * Schema issues become `Problem`s here; the decoders are asked for all issues and never for the input. Pure.
 */
import type * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import type { Problem } from "../errors/Failure.ts"
import { expectedMode } from "./ComputeSpec.ts"

export type JsonPath = ReadonlyArray<string | number>

/** `cluster.roles[0].name`; keys that are not words are quoted in brackets. */
export const printPath = (path: ReadonlyArray<PropertyKey>): string =>
  path.reduce<string>((before, step) => {
    if (typeof step === "number") return `${before}[${step}]`
    const key = String(step)
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) return `${before}[${JSON.stringify(key)}]`
    return before === "" ? key : `${before}.${key}`
  }, "")

export const problemAt = (path: JsonPath, message: string): Problem => ({ path: printPath(path), message })

/** A schema with an identifier (for the JSON Schema) calls itself by it in "expected ..."; people want the shape. */
const shapeName = (expected: string): string =>
  expected
    .split(" | ")
    .map((one) =>
      one === "ComputeMode"
        ? expectedMode
        : one
            .replace(/^(?:object|[A-Z][A-Za-z0-9]*)$/, "an object")
            .replace(/^array$/, "an array")
            .replace(/^(string|number|boolean)$/, "a $1")
    )
    .join(" or ")

const leaf: SchemaIssue.LeafHook = (issue) =>
  issue._tag === "MissingKey" ? "expected a value, but the key is missing" : SchemaIssue.defaultLeafHook(issue)

const format = SchemaIssue.makeFormatterStandardSchemaV1({ leafHook: leaf })

/** `under` is where the decoded value sits in the whole input. */
export const problemsOf = (error: Schema.SchemaError, under: JsonPath = []): ReadonlyArray<Problem> =>
  format(error.issue).issues.map(({ message, path }) => ({
    path: printPath([...under, ...(path ?? []).map((step) => (typeof step === "object" ? step.key : step))]),
    message: message.replace(/^Expected (.*)$/s, (_, expected: string) => `expected ${shapeName(expected)}`)
  }))

/**
 * Without repetitions: a fault of storage is found by the whole schema and again by the part that storage is read from.
 */
export const distinct = (problems: ReadonlyArray<Problem>): ReadonlyArray<Problem> =>
  problems.filter(
    (one, index) => problems.findIndex((other) => other.path === one.path && other.message === one.message) === index
  )
