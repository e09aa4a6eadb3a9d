/**
 * Marks functions of the bundle as to be compiled with the file that they are in, by parentheses: V8 takes
 * `(function () {…})` and `(() => …)` for called at once. The snapshot then holds their code, and the start need not
 * parse them a second time.
 *
 * Only expressions can be marked so. A declaration or a method stays as it is, as does what could not be told apart.
 */
import type { Ran } from "./train.ts"

const isAsync = /(?:^|[^\w$.])async\s*$/

/** Behind the parenthesis that closes the one at `from`. There are no strings with parentheses in our parameters. */
const closed = (text: string, from: number): number => {
  let depth = 0
  for (let at = from; at < text.length; at++) {
    if (text[at] === "(") depth++
    else if (text[at] === ")" && --depth === 0) return at + 1
  }
  return -1
}

const isArrow = (text: string): boolean => {
  const from = text.startsWith("async") ? "async".length : 0
  const parameters = text.slice(from).trimStart()
  const behind = parameters.startsWith("(") ? closed(parameters, 0) : /^[\w$]+/.exec(parameters)?.[0].length
  return behind !== undefined && behind > 0 && parameters.slice(behind).trimStart().startsWith("=>")
}

/** A function without a name is always an expression; one with a name is one behind these. */
const isExpression = (own: string, before: string): boolean =>
  /^(?:async\s+)?function\s*\*?\s*\(/.test(own) || /(?:[=(,?&|!]|\breturn)\s*$/.test(before)

const canBeMarked = (text: string, { end, start }: Ran): boolean => {
  const before = text.slice(Math.max(0, start - 16), start)
  const own = text.slice(start, end)
  if (isAsync.test(before)) return false
  if (/^(?:async\s+)?function\b/.test(own)) return isExpression(own, before)
  return isArrow(own)
}

/** The same program, and how many functions of it are marked. */
export const eager = (text: string, ran: ReadonlyArray<Ran>): { readonly text: string; readonly marked: number } => {
  const marked = ran.filter((one) => canBeMarked(text, one))
  const edits = marked.flatMap(({ end, start }) => [
    { at: start, what: "(" },
    { at: end, what: ")" }
  ])
  // Where one ends another cannot begin, and of two that end together it is the same character twice.
  edits.sort((one, other) => one.at - other.at)
  let result = ""
  let at = 0
  for (const edit of edits) {
    result += text.slice(at, edit.at) + edit.what
    at = edit.at
  }
  return { text: result + text.slice(at), marked: marked.length }
}
