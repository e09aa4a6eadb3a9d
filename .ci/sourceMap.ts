/**
 * The source map of a bundle whose text was changed after the bundler wrote it. Only columns move: nothing that the
 * build puts into a bundle begins or ends a line.
 */

const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

/** The first number of a segment (base 64, least significant digits first, the lowest bit is the sign); the rest. */
const firstOf = (segment: string): readonly [value: number, rest: string] => {
  let value = 0
  for (let at = 0; at < segment.length; at++) {
    const digit = digits.indexOf(segment.charAt(at))
    value += (digit & 31) * 32 ** at
    if (digit < 32) return [value % 2 === 1 ? -((value - 1) / 2) : value / 2, segment.slice(at + 1)]
  }
  throw new Error(`${segment} is no segment of a source map`)
}

const encoded = (value: number): string => {
  let left = value < 0 ? -value * 2 + 1 : value * 2
  let text = ""
  do {
    const digit = left % 32
    left = Math.floor(left / 32)
    text += digits.charAt(left > 0 ? digit + 32 : digit)
  } while (left > 0)
  return text
}

/**
 * Where each column of a line is once characters were put into it. Of equal characters side by side (parentheses) it is
 * anybody's guess which is the new one, and does not matter; what is not alike at all moves to the end of the change.
 */
const columnsOf = (before: string, after: string): ((column: number) => number) => {
  const columns: Array<number> = []
  let to = 0
  for (let from = 0; from < before.length; from++) {
    const left = after.length - to - (before.length - from)
    let skip = 0
    // The next few characters, not one, say that this is the place.
    while (skip < left && after.slice(to + skip, to + skip + 4) !== before.slice(from, from + 4)) skip++
    // Something else is new within these few: then the nearest place that one character is at.
    if (skip === left) for (skip = 0; skip < left && after[to + skip] !== before[from];) skip++
    columns.push(to + skip)
    to += skip + 1
  }
  return (column) => columns[column] ?? column - before.length + after.length
}

/** `before` is the text that `mappings` is about, `after` the same with something put into its lines. */
export const movedMappings = (mappings: string, before: string, after: string): string => {
  const [old, changed] = [before.split("\n"), after.split("\n")]
  if (old.length !== changed.length) throw new Error("the build has put lines into a bundle; its source map is wrong")
  const moved = (line: string, index: number): string => {
    const [was = "", is = ""] = [old[index], changed[index]]
    if (was === is || line === "") return line
    const columnOf = columnsOf(was, is)
    let [at, told] = [0, 0]
    return line
      .split(",")
      .map((segment) => {
        const [step, rest] = firstOf(segment)
        at += step
        const column = columnOf(at)
        const text = `${encoded(column - told)}${rest}`
        told = column
        return text
      })
      .join(",")
  }
  return mappings.split(";").map(moved).join(";")
}
