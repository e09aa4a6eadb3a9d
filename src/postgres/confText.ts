/**
 * Text of postgresql.conf: written so that no value can leave its line, and read back. Pure.
 *
 * Knows the grammar of the file, not what any setting means.
 */
import type { GenericOption } from "../spec/ParsedSpec.ts"

// By the grammar of guc-file.l.

/** What the lexer takes for a name: an identifier, or two with a dot between (no `a.b.c`, no `$`). */
const namePattern = /^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$/

export const isSettingName = (name: string): boolean => namePattern.test(name)

/** Directives look like settings in a file, and read other files. */
export const isInclude = (name: string): boolean => /^include(_if_exists|_dir)?$/i.test(name)

const escapes: Readonly<Record<string, string>> = {
  "'": "''",
  "\\": "\\\\",
  "\n": "\\n",
  "\r": "\\r",
  "\b": "\\b",
  "\f": "\\f"
}

/**
 * `'value'`. Postgres reads `\n` in quotes as a newline, so that no value needs more than its line. A NUL cannot
 * be written in this grammar at all: `renderSetting` refuses it before it gets here, and here it is dropped.
 */
export const quoteConf = (value: string): string =>
  `'${value.replaceAll("\0", "").replace(/['\\\n\r\b\f]/g, (found) => escapes[found] ?? found)}'`

/** One whole token: a word, a number with a unit, or an already quoted string. Anything else must be quoted. */
const bareTokens: ReadonlyArray<RegExp> = [
  /^[A-Za-z_][A-Za-z0-9_.:/-]*$/,
  /^[-+]?(?:[0-9]+|0x[0-9A-Fa-f]+)[A-Za-z]*$/,
  /^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$/,
  /^'(?:[^'\\\n\r]|\\[^\n\r]|'')*'$/
]

/** A value whose vartype is not `string` goes in as it is, as long as it is one token; otherwise it is quoted. */
const bareConf = (value: string): string => {
  const trimmed = value.trim()
  return bareTokens.some((token) => token.test(trimmed)) ? trimmed : quoteConf(trimmed)
}

/** `null` when the setting can be written; else why not. A name without a value stops Postgres from starting. */
export const unwritable = (setting: GenericOption): string | null => {
  if (!isSettingName(setting.name)) return "is not a name that a configuration file can hold"
  if (setting.value === null) return "has no value"
  if (setting.value.includes("\0")) return "has a NUL in its value"
  return null
}

/** For comments and warnings: one line whatever is in it. */
export const printName = (name: string): string => JSON.stringify(name)

/** One line. What cannot be written becomes a comment that says why; it never spoils the rest of the file. */
export const renderSetting = (setting: GenericOption): string => {
  const reason = unwritable(setting)
  if (reason !== null) return `# left out: ${printName(setting.name)} ${reason}`
  const value = setting.value ?? ""
  return `${setting.name} = ${setting.quoted ? quoteConf(value) : bareConf(value)}`
}

export interface ConfEntry {
  /** Lower case: Postgres compares names so. */
  readonly name: string
  readonly value: string
}

const controls: Readonly<Record<string, string>> = { n: "\n", r: "\r", b: "\b", f: "\f", t: "\t" }

const unquoteConf = (token: string): string =>
  token.startsWith("'")
    ? token.slice(1, -1).replace(/''|\\([0-7]{1,3}|.)/g, (whole, escaped: string | undefined) => {
        if (escaped === undefined) return whole.slice(1)
        if (/^[0-7]/.test(escaped)) return String.fromCharCode(Number.parseInt(escaped, 8) & 255)
        return controls[escaped] ?? escaped
      })
    : token

const entryLine =
  /^[ \t\r]*([A-Za-z_][A-Za-z0-9_.]*)[ \t\r]*=?[ \t\r]*('(?:[^'\\]|\\.|'')*'|[^\s'#=][^\s'#]*)[ \t\r]*(?:#[^\n]*)?$/

/** The setting on one line, or `null` for blanks, comments and what Postgres would not take either. */
export const readLine = (line: string): ConfEntry | null => {
  const match = entryLine.exec(line)
  return match === null ? null : { name: (match[1] ?? "").toLowerCase(), value: unquoteConf(match[2] ?? "") }
}

/** In order, duplicates kept: the last one counts. Files that the text includes are not seen. */
export const readConf = (text: string): ReadonlyArray<ConfEntry> =>
  text
    .split("\n")
    .map(readLine)
    .filter((entry) => entry !== null)

/** Comma-separated names such as `shared_preload_libraries`: blanks and quotes are taken off, empty names dropped. */
export const readList = (value: string): ReadonlyArray<string> =>
  value
    .split(",")
    .map((name) => name.trim().replace(/^"(.*)"$/, "$1"))
    .filter((name) => name !== "")
