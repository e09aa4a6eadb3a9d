/**
 * Problems of an input: where each is (`cluster.roles[0].name`) and what was expected there, never the value itself.
 *
 * However much is wrong, the work is linear in the input and the report is short: the first problems in words, and how
 * many more places are wrong. Pure.
 */
import type { Problem } from "../errors/Failure.ts"
import { redactUrls } from "../errors/redactUrls.ts"

export type JsonPath = ReadonlyArray<string | number>

/** A person corrects a few and asks again; a body made of nothing but faults must not be answered with more of them. */
export const maxProblems = 100
const maxKeyLength = 80
const maxPathLength = 512
const maxMessageLength = 512

/** What came from outside may be megabytes long, and is only named. */
const shortened = (text: string, most: number): string =>
  text.length <= most ? text : `${text.slice(0, most).toWellFormed()}…`

/** `cluster.roles[0].name`; keys that are not words are quoted in brackets. */
export const printPath = (path: ReadonlyArray<PropertyKey>): string => {
  let printed = ""
  for (const step of path) {
    if (printed.length > maxPathLength) return `${printed}…`
    const key = shortened(String(step), maxKeyLength)
    if (typeof step === "number") printed += `[${key}]`
    else if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) printed += `[${JSON.stringify(key)}]`
    else printed += printed === "" ? key : `.${key}`
  }
  return printed
}

const problemAt = (path: JsonPath, message: string): Problem => ({
  path: printPath(path),
  message: shortened(redactUrls(message), maxMessageLength)
})

interface Found {
  /** By path and message. */
  readonly problems: Map<string, Problem>
  more: number
}

/** Collects problems, each once: a fault of storage is found by the whole schema and by what storage is read from. */
export class Problems {
  readonly #found: Found
  readonly #at: JsonPath

  constructor(found: Found = { problems: new Map(), more: 0 }, at: JsonPath = []) {
    this.#found = found
    this.#at = at
  }

  /** The same, for a value that sits there in the whole input. */
  under(path: JsonPath): Problems {
    return new Problems(this.#found, [...this.#at, ...path])
  }

  /** From now on they are only counted. */
  get isFull(): boolean {
    return this.#found.problems.size >= maxProblems
  }

  get count(): number {
    return this.#found.problems.size + this.#found.more
  }

  add(path: JsonPath, message: string): void {
    if (this.isFull) return this.addMore(1)
    const problem = problemAt([...this.#at, ...path], message)
    this.#found.problems.set(`${problem.path}\n${problem.message}`, problem)
  }

  addMore(places: number): void {
    this.#found.more += places
  }

  list(): ReadonlyArray<Problem> {
    const all = [...this.#found.problems.values()]
    const { more } = this.#found
    return more === 0 ? all : [...all, { path: "", message: `and ${more} more places that are wrong` }]
  }
}
