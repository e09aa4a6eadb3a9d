/**
 * A failure with its whole chain of causes and its hint, as text for `/status`, logs and the terminal.
 */
import * as Result from "effect/Result"
import type { Failure } from "./Failure.ts"
import { meanings } from "./policy.ts"

/** A cause chain longer than this is cut: a cycle must not hang the report of an error. */
const maxCauses = 12

const describe = (error: unknown): string => {
  if (error instanceof Error) return error.message === "" ? error.name : error.message
  if (typeof error === "string") return error
  // A cause may be anything, also what JSON can not say; the report of an error must not be the next error.
  return Result.getOrElse(Result.try(() => JSON.stringify(error) ?? String(error)), () => Object.prototype.toString.call(error))
}

/** From the outermost sentence to the root cause. Repeated sentences are told once. */
export const causesOf = (error: unknown): ReadonlyArray<string> => {
  const chain: Array<string> = []
  let current: unknown = error
  while (current !== undefined && current !== null && chain.length < maxCauses) {
    const text = describe(current)
    if (chain.at(-1) !== text) chain.push(text)
    current = typeof current === "object" && "cause" in current ? current.cause : undefined
  }
  return chain
}

export const hintOf = (failure: Failure): string =>
  "hint" in failure && failure.hint !== "" ? failure.hint : meanings[failure._tag].hint

/** One line: `sentence: cause: cause`. What `/status` carries as `error`. */
export const explain = (failure: Failure): string => causesOf(failure).join(": ")
