/**
 * JSON text, read strictly: the value, keys that occur twice, and where it stops being JSON.
 *
 * `JSON.parse` keeps the last of two equal keys without a word, and quotes the text (which may hold secrets) in
 * its errors; this scanner does neither. It never repeats a value.
 */
import * as Result from "effect/Result"
import { SpecInvalid } from "../errors/Failure.ts"
import { type JsonPath, maxProblems, type Problems } from "./problems.ts"

export interface JsonDocument {
  readonly value: unknown
  readonly duplicates: Duplicates
}

export interface Duplicates {
  /** Where an object has a key it already had: the first places. */
  readonly paths: ReadonlyArray<JsonPath>
  /** How many places there are beside them. */
  readonly more: number
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
/** Each costs many times its bytes once it is read; a spec of fifty thousand roles has half as many. */
const maxValues = 500_000
const blank = /[ \t\n\r]*/y
const number = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y
const word = /true|false|null/y
const escape = /\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})/y

/** Walks over a text. Each method says what was expected where `at` stands then, or `null` when all is well. */
class Scanner {
  readonly duplicates: Array<JsonPath> = []
  moreDuplicates = 0
  #values = 0
  readonly #text: string
  readonly #path: Array<string | number> = []
  at = 0

  constructor(text: string) {
    this.#text = text
  }

  document(): string | null {
    const wrong = this.#value(0)
    if (wrong !== null) return wrong
    this.#take(blank)
    return this.at < this.#text.length ? "nothing after the JSON value" : null
  }

  #take(pattern: RegExp): boolean {
    pattern.lastIndex = this.at
    const found = pattern.test(this.#text)
    if (found) this.at = pattern.lastIndex
    return found
  }

  #takeMark(mark: string): boolean {
    this.#take(blank)
    const found = this.#text[this.at] === mark
    if (found) this.at += 1
    return found
  }

  #string(): string | null {
    if (!this.#takeMark('"')) return "a string"
    for (;;) {
      const code = this.#text.charCodeAt(this.at)
      if (Number.isNaN(code)) return "the end of the string"
      if (code < 0x20) return "no control character in a string"
      if (code === 0x22) break
      if (code !== 0x5c) this.at += 1
      else if (!this.#take(escape)) return "a JSON escape"
    }
    this.at += 1
    return null
  }

  #object(depth: number): string | null {
    const seen = new Set<string>()
    if (this.#takeMark("}")) return null
    for (;;) {
      this.#take(blank)
      const start = this.at
      const wrong = this.#string()
      if (wrong !== null) return wrong === "a string" ? "a key in double quotes" : wrong
      const key = String(JSON.parse(this.#text.slice(start, this.at)))
      this.#path.push(key)
      if (seen.has(key)) {
        if (this.duplicates.length < maxProblems) this.duplicates.push([...this.#path])
        else this.moreDuplicates += 1
      }
      seen.add(key)
      if (!this.#takeMark(":")) return '":"'
      const deeper = this.#value(depth + 1)
      if (deeper !== null) return deeper
      this.#path.pop()
      if (this.#takeMark("}")) return null
      if (!this.#takeMark(",")) return '"," or "}"'
    }
  }

  #array(depth: number): string | null {
    if (this.#takeMark("]")) return null
    for (let index = 0; ; index += 1) {
      this.#path.push(index)
      const deeper = this.#value(depth + 1)
      if (deeper !== null) return deeper
      this.#path.pop()
      if (this.#takeMark("]")) return null
      if (!this.#takeMark(",")) return '"," or "]"'
    }
  }

  #value(depth: number): string | null {
    if (depth > maxDepth) return `at most ${maxDepth} levels of nesting`
    if (++this.#values > maxValues) return `at most ${maxValues} values`
    if (this.#takeMark("{")) return this.#object(depth)
    if (this.#takeMark("[")) return this.#array(depth)
    if (this.#text[this.at] === '"') return this.#string()
    return this.#take(number) || this.#take(word) ? null : "a JSON value"
  }
}

export const parseJson = (text: string): Result.Result<JsonDocument, JsonFault> => {
  const scanner = new Scanner(text)
  const expected = scanner.document()
  if (expected !== null) return Result.fail(faultAt(text, scanner.at, `expected ${expected}`))
  return Result.map(
    Result.try({ try: (): unknown => JSON.parse(text), catch: () => faultAt(text, 0, "expected JSON") }),
    (value) => ({ value, duplicates: { paths: scanner.duplicates, more: scanner.moreDuplicates } })
  )
}

const faultAt = (text: string, at: number, message: string): JsonFault => {
  const before = text.slice(0, at)
  const lineStart = before.lastIndexOf("\n") + 1
  return { line: before.split("\n").length, column: at - lineStart + 1, message }
}

/** Of a spec and what it comes in, on whatever way: 16 MiB. Tens of thousands of roles fit. */
export const maxSpecBytes = 16 * 1024 * 1024

const strict = () => new TextDecoder("utf-8", { fatal: true })

const isUtf8 = (bytes: Uint8Array): boolean => {
  try {
    // A character that the end cuts in two is none that is wrong.
    strict().decode(bytes, { stream: true })
    return true
  } catch {
    return false
  }
}

/** How many bytes are in order before the first that is not. Halves what is left to look at, and looks at no more. */
const lengthInOrder = (bytes: Uint8Array): number => {
  let good = 0
  let bad = bytes.length
  while (good + 1 < bad) {
    const middle = (good + bad) >> 1
    if (isUtf8(bytes.subarray(characterStart(bytes, good), middle))) good = middle
    else bad = middle
  }
  return good
}

/** Where the character before `at` begins, which the cut may have divided. */
const characterStart = (bytes: Uint8Array, at: number): number => {
  let start = at - 1
  while (start > 0 && at - start < 4 && ((bytes[start] ?? 0) & 0xc0) === 0x80) start -= 1
  return Math.max(0, start)
}

/** JSON is UTF-8. What is not is refused: with replaced characters, two names may become one, or a secret another. */
export const decodeJsonBytes = (bytes: Uint8Array, maxBytes = maxSpecBytes): Result.Result<string, string> => {
  if (bytes.length > maxBytes) return Result.fail(`expected at most ${maxBytes} bytes`)
  try {
    return Result.succeed(strict().decode(bytes))
  } catch {
    return Result.fail(`expected UTF-8, but byte ${lengthInOrder(bytes) + 1} is not`)
  }
}

/** What was read from a file, a FIFO or standard input. */
export const decodeSpecText = (bytes: Uint8Array, source: string): Result.Result<string, SpecInvalid> =>
  Result.mapError(decodeJsonBytes(bytes), (message) => new SpecInvalid({ source, problems: [{ path: "", message }] }))

/** What is not JSON is one problem, with line and column. Keys that occur twice are for `addDuplicates`. */
export const readJsonText = (text: string, source: string): Result.Result<JsonDocument, SpecInvalid> =>
  Result.mapError(
    parseJson(text),
    ({ column, line, message }) =>
      new SpecInvalid({ source, problems: [{ path: "", message: `line ${line}, column ${column}: ${message}` }] })
  )

/** A problem for each key that occurs more than once in an object. */
export const addDuplicates = ({ more, paths }: Duplicates, problems: Problems): void => {
  for (const path of paths) problems.add(path, "expected the key once, but it is there twice")
  problems.addMore(more)
}
