/**
 * JSON text, read strictly: the value, keys that occur twice, and where it stops being JSON.
 *
 * `JSON.parse` keeps the last of two equal keys without a word, and quotes the text (which may hold secrets) in
 * its errors; this scanner does neither. It never repeats a value.
 */
import * as Result from "effect/Result"
import type * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import type { Problem } from "../errors/Failure.ts"
import { expectedMode } from "./ComputeSpec.ts"

export type JsonPath = ReadonlyArray<string | number>

export interface JsonDocument {
  readonly value: unknown
  /** Where an object has a key it already had. */
  readonly duplicates: ReadonlyArray<JsonPath>
}

/** Line and column count from 1; columns are UTF-16 units. */
export interface JsonFault {
  readonly line: number
  readonly column: number
  /** Such as `expected "," or "}"`. */
  readonly message: string
}

/** As deep as the reference reads; keeps the scanner's own recursion small. */
const maxDepth = 128
const blank = /[ \t\n\r]*/y
const number = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y
const word = /true|false|null/y
const escape = /\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})/y

export const parseJson = (text: string): Result.Result<JsonDocument, JsonFault> => {
  const duplicates: Array<JsonPath> = []
  const path: Array<string | number> = []
  let at = 0

  const take = (pattern: RegExp): boolean => {
    pattern.lastIndex = at
    const found = pattern.test(text)
    if (found) at = pattern.lastIndex
    return found
  }
  const takeMark = (mark: string): boolean => {
    take(blank)
    const found = text[at] === mark
    if (found) at += 1
    return found
  }

  /** Each of these answers what was expected where `at` stands now, or `null` when all is well. */
  const string = (): string | null => {
    if (!takeMark('"')) return "a string"
    for (;;) {
      const code = text.charCodeAt(at)
      if (Number.isNaN(code)) return "the end of the string"
      if (code < 0x20) return "no control character in a string"
      if (code === 0x22) break
      if (code !== 0x5c) at += 1
      else if (!take(escape)) return "a JSON escape"
    }
    at += 1
    return null
  }

  const object = (depth: number): string | null => {
    const seen = new Set<string>()
    if (takeMark("}")) return null
    for (;;) {
      take(blank)
      const start = at
      const wrong = string()
      if (wrong !== null) return wrong === "a string" ? "a key in double quotes" : wrong
      const key = String(JSON.parse(text.slice(start, at)))
      path.push(key)
      if (seen.has(key)) duplicates.push([...path])
      seen.add(key)
      if (!takeMark(":")) return '":"'
      const deeper = value(depth + 1)
      if (deeper !== null) return deeper
      path.pop()
      if (takeMark("}")) return null
      if (!takeMark(",")) return '"," or "}"'
    }
  }

  const array = (depth: number): string | null => {
    if (takeMark("]")) return null
    for (let index = 0; ; index += 1) {
      path.push(index)
      const deeper = value(depth + 1)
      if (deeper !== null) return deeper
      path.pop()
      if (takeMark("]")) return null
      if (!takeMark(",")) return '"," or "]"'
    }
  }

  const value = (depth: number): string | null => {
    if (depth > maxDepth) return `at most ${maxDepth} levels of nesting`
    if (takeMark("{")) return object(depth)
    if (takeMark("[")) return array(depth)
    if (text[at] === '"') return string()
    return take(number) || take(word) ? null : "a JSON value"
  }

  const wrong = value(0)
  const expected = wrong ?? (take(blank) && at < text.length ? "nothing after the JSON value" : null)
  if (expected !== null) return Result.fail(faultAt(text, at, `expected ${expected}`))
  return Result.map(
    Result.try({ try: (): unknown => JSON.parse(text), catch: () => faultAt(text, 0, "expected JSON") }),
    (parsed) => ({ value: parsed, duplicates })
  )
}

const faultAt = (text: string, at: number, message: string): JsonFault => {
  const before = text.slice(0, at)
  const lineStart = before.lastIndexOf("\n") + 1
  return { line: before.split("\n").length, column: at - lineStart + 1, message }
}

// ---------------------------------------------------------------------------------------------------------------------
// What is wrong with an input, place by place, in words that never repeat a value.
//
// Schema issues become `Problem`s here; the decoders are asked for all issues and never for the input.
// ---------------------------------------------------------------------------------------------------------------------

/** `cluster.roles[0].name`; keys that are not words are quoted in brackets. */
export const printPath = (path: ReadonlyArray<PropertyKey>): string =>
  path.reduce<string>((before, step) => {
    if (typeof step === "number") return `${before}[${step}]`
    const key = String(step)
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) return `${before}[${JSON.stringify(key)}]`
    return before === "" ? key : `${before}.${key}`
  }, "")

export const problemAt = (path: JsonPath, message: string): Problem => ({ path: printPath(path), message })

/** Schemas that have an identifier (for the JSON Schema) are expected by that name; people want the shape. */
const spoken = (expected: string): string =>
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
    message: message.replace(/^Expected (.*)$/s, (_, expected: string) => `expected ${spoken(expected)}`)
  }))
