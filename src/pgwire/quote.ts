/**
 * Names and values as SQL text, so that none of them can be read as anything else
 * (docs/reference/compute_ctl.md#quoting).
 *
 * Refuses (throws, for it is a bug of the caller) what no SQL text can hold: NUL and lone surrogates. Whether a
 * name is one that Postgres would keep whole is asked beforehand, of `faultOfName`.
 */

const sendable = (text: string): string => {
  if (text.includes("\0")) throw new RangeError("SQL text cannot hold a NUL")
  if (!text.isWellFormed()) throw new RangeError("SQL text cannot hold a lone surrogate")
  return text
}

/** `"name"`. Not idempotent: what is quoted is taken for a name again. */
export const quoteIdentifier = (name: string): string => `"${sendable(name).replaceAll('"', '""')}"`

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
