/**
 * Changes settings in an ini file and nothing else: comments, order, blank lines and unknown keys stay as they are.
 *
 * Pure. Knows the ini of pgbouncer: `;` and `#` begin a comment only at the beginning of a line, values are not
 * quoted, and of two lines with one key the later counts.
 */

const head = /^\s*\[([^\]]*)\]/
const assignment = /^(\s*)([^\s=;#%][^\s=]*)(\s*=\s*)(.*?)(\s*)$/

const withValue = (line: string, value: string): string =>
  line.replace(assignment, (_all, indent: string, key: string, equals: string) => `${indent}${key}${equals}${value}`)

interface Line {
  readonly text: string
  readonly end: string
}

const linesOf = (text: string): ReadonlyArray<Line> =>
  [...text.matchAll(/([^\r\n]*)(\r\n|\n|$)/g)].map(([, line = "", end = ""]) => ({ text: line, end }))
    .filter(({ end, text }, index, all) => text !== "" || end !== "" || index < all.length - 1)

/** Could this be written as a line of its own that says exactly this? */
export const fitsIni = (key: string, value: string): boolean =>
  /^[A-Za-z_][A-Za-z0-9_.-]*$/.test(key) && !/[\r\n\0]/.test(value) && value === value.trim()

/**
 * The text with every entry of the section set; `null` when it has no such section. Entries must fit (`fitsIni`).
 * New keys go to the end of the section, in their order.
 */
export const setInIni = (text: string, section: string, entries: ReadonlyMap<string, string>): string | null => {
  const lines = linesOf(text)
  let inside = false
  let end = -1
  const seen = new Map<string, number>()
  for (const [index, { text: line }] of lines.entries()) {
    const opened = head.exec(line)?.[1]
    if (opened !== undefined) inside = opened === section
    if (!inside) continue
    const key = assignment.exec(line)?.[2]
    if (opened !== undefined || key !== undefined) end = index
    if (key !== undefined) seen.set(key, index)
  }
  if (end < 0) return null
  const newline = lines.find((line) => line.end !== "")?.end ?? "\n"
  const changed = new Map<number, string>()
  for (const [key, value] of entries) {
    const at = seen.get(key)
    if (at !== undefined) changed.set(at, value)
  }
  const added = [...entries].filter(([key]) => !seen.has(key)).map(([key, value]) => `${key} = ${value}`)
  return lines.map((line, index) => {
    const value = changed.get(index)
    const kept = value === undefined ? line.text : withValue(line.text, value)
    if (index !== end || added.length === 0) return `${kept}${line.end}`
    return `${kept}${newline}${added.join(newline)}${line.end}`
  }).join("")
}
