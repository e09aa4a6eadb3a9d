/**
 * The ini of pgbouncer as a text: the spec's settings are a block of their own at the end of `[pgbouncer]`, and whether
 * a setting that pgbouncer shows is the one that was wanted. Pure.
 *
 * Of two lines with one key the later counts, so a block at the end overrides what people wrote without touching it,
 * and what the spec no longer names falls back to that. The block has no section header: with each one pgbouncer
 * begins again from its defaults. `;` and `#` begin a comment only at the beginning of a line, and values are not
 * quoted.
 */

export type Settings = ReadonlyMap<string, string>

const section = "pgbouncer"
const blockBegin =
  "; compute_ctl: settings of the spec, written anew with each spec; of two lines with one key the later counts"
const blockEnd = "; compute_ctl: end of the spec's settings"

const head = /^\s*\[([^\]]*)\]/
const assignment = /^\s*([^\s=;#%][^\s=]*)\s*=\s*(.*?)\s*$/
const comment = /^\s*([;#].*)?$/

interface Line {
  readonly text: string
  readonly end: string
}

const linesOf = (text: string): ReadonlyArray<Line> =>
  [...text.matchAll(/([^\r\n]*)(\r\n|\n|$)/g)]
    .map(([, line = "", end = ""]) => ({ text: line, end }))
    .filter(({ end, text }, index, all) => text !== "" || end !== "" || index < all.length - 1)

/** Could this be written as a line of its own that says exactly this? */
export const fitsIni = (key: string, value: string): boolean =>
  /^[A-Za-z_][A-Za-z0-9_.-]*$/.test(key) && !/[\r\n\0]/.test(value) && value === value.trim()

/** The block's lines, its marks included; `null`: there is none. One that lost its end is what still looks like it. */
const findBlock = (lines: ReadonlyArray<Line>): { readonly from: number; readonly to: number } | null => {
  const from = lines.findIndex(({ text }) => text === blockBegin)
  if (from < 0) return null
  const after = lines.findIndex(({ text }, index) => index > from && !assignment.test(text))
  if (after < 0) return { from, to: lines.length }
  return { from, to: lines[after]?.text === blockEnd ? after + 1 : after }
}

const withoutBlock = (lines: ReadonlyArray<Line>): ReadonlyArray<Line> => {
  const block = findBlock(lines)
  if (block === null) return lines
  const kept = [...lines.slice(0, block.from), ...lines.slice(block.to)]
  const last = kept.at(-1)
  // The file ends as it did: with a line break, or without.
  if (block.to === lines.length && last !== undefined)
    kept[kept.length - 1] = { ...last, end: lines.at(-1)?.end ?? last.end }
  return kept
}

/** What the spec before this one has put there. */
export const settingsInIni = (text: string): Settings => {
  const lines = linesOf(text)
  const block = findBlock(lines)
  if (block === null) return new Map()
  return new Map(
    lines.slice(block.from, block.to).flatMap((line): ReadonlyArray<readonly [string, string]> => {
      const [, key, value = ""] = assignment.exec(line.text) ?? []
      return key === undefined ? [] : [[key, value]]
    })
  )
}

/**
 * The text with these settings and none of the block before; `null` when it has no section `[pgbouncer]`. Everything
 * that people wrote stays as it is. Settings must fit (`fitsIni`).
 */
export const withSettings = (text: string, settings: Settings): string | null => {
  const lines = withoutBlock(linesOf(text))
  let inside = false
  let end = -1
  for (const [index, { text: line }] of lines.entries()) {
    const opened = head.exec(line)?.[1]
    if (opened !== undefined) inside = opened === section
    if (inside && !comment.test(line)) end = index
  }
  if (end < 0) return null
  const newline = lines.find((line) => line.end !== "")?.end ?? "\n"
  const block =
    settings.size === 0 ? [] : [blockBegin, ...[...settings].map(([key, value]) => `${key} = ${value}`), blockEnd]
  return lines
    .map((line, index) => (index === end ? [line.text, ...block].join(newline) : line.text) + line.end)
    .join("")
}

/** A number as C reads it with base 0, or as decimal; a setting's kind is pgbouncer's to know. */
const numbersOf = (text: string): ReadonlyArray<number> => [
  ...(/^0[0-7]+$/.test(text) ? [Number.parseInt(text, 8)] : []),
  ...(/^(0x[0-9a-f]+|[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)$/i.test(text) ? [Number(text)] : [])
]

/** Six digits of fractions and of large times are shown. */
const precision = 1e-5

const isSameNumber = (shown: string, wanted: string): boolean => {
  if (!/^-?[\d.]+(e[-+]?\d+)?$/.test(shown)) return false
  const value = Number(shown)
  const exact = /^-?\d+$/.test(shown) && !/[.e]/.test(wanted)
  return numbersOf(wanted).some((one) =>
    exact ? one === value : Math.abs(one - value) <= precision * Math.max(1, Math.abs(one))
  )
}

/** Is this value, as SHOW CONFIG has it, what that one of the ini means? Words count in any case, `~` is somebody's. */
export const isShown = (shown: string | null, wanted: string): boolean => {
  const value = shown ?? ""
  return (
    value.toLowerCase() === wanted.toLowerCase() ||
    isSameNumber(value, wanted) ||
    (/^~[^/]*\//.test(wanted) && value.endsWith(wanted.slice(wanted.indexOf("/"))))
  )
}
