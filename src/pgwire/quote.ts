/**
 * Names and values as SQL text, so that none of them can be read as anything else (reference section 5.8).
 *
 * Refuses (throws, for it is a bug of the caller) what no SQL text can hold: NUL and lone surrogates. Whether a
 * name is one that Postgres would keep whole is asked beforehand, of `faultOfName`.
 */
import type { GenericOption } from "../spec/ParsedSpec.ts"

const sendable = (text: string): string => {
  if (text.includes("\0")) throw new RangeError("SQL text cannot hold a NUL")
  if (!text.isWellFormed()) throw new RangeError("SQL text cannot hold a lone surrogate")
  return text
}

/** `"name"`. Not idempotent: what is quoted is taken for a name again. */
export const quoteIdentifier = (name: string): string => `"${sendable(name).replaceAll("\"", "\"\"")}"`

/** `'value'`, or `E'value'` when there is a backslash, so that `standard_conforming_strings` does not matter. */
export const quoteLiteral = (value: string): string => {
  const inner = sendable(value).replaceAll("'", "''").replaceAll("\\", "\\\\")
  return inner.includes("\\") ? `E'${inner}'` : `'${inner}'`
}

export interface DollarQuoted {
  readonly text: string
  /** A tag that can stand around `text`, for the body of a DO block. */
  readonly outer: string
}

/** `$x$value$x$`; the tag grows by an `x` for as long as it occurs in the value. */
export const quoteDollar = (value: string): DollarQuoted => {
  let tag = "x"
  while (sendable(value).includes(tag)) tag += "x"
  return { text: `$${tag}$${value}$${tag}$`, outer: `${tag}x` }
}

/** An anonymous block whose body may hold anything, quoted values included. */
export const doBlock = (body: string): string => {
  const { text } = quoteDollar(body)
  return `DO LANGUAGE plpgsql ${text}`
}

const optionName = /^[A-Za-z_][A-Za-z0-9_]*( [A-Za-z_][A-Za-z0-9_]*)*$/
const bareValue = /^[-+]?[A-Za-z0-9_.]+([-.][A-Za-z0-9_.]+)*$/
const quotedValue = /^("([^"\0]|"")+"|'([^'\\\0]|'')*')$/

/** Why an option cannot stand in a statement; `null` when it can. The text never repeats the value. */
export const faultOfOption = (option: GenericOption): string | null => {
  if (!optionName.test(option.name)) return `the option name ${JSON.stringify(option.name)} is not one or more SQL words`
  if (option.value === null) return null
  if (option.quoted) {
    return option.value.includes("\0") || !option.value.isWellFormed() ? `the value of option ${option.name} is not text` : null
  }
  return bareValue.test(option.value) || quotedValue.test(option.value)
    ? null
    : `the value of option ${option.name} is neither one word nor quoted; give it the vartype "string"`
}

/** `NAME 'value'` when quoted, `NAME value`, or `NAME`. Ask `faultOfOption` first. */
export const renderOption = ({ name, quoted, value }: GenericOption): string =>
  value === null ? name : `${name} ${quoted ? quoteLiteral(value) : value}`

export const renderOptions = (options: ReadonlyArray<GenericOption>): string => options.map(renderOption).join(" ")
