/**
 * Options of a role or a database (`CONNECTION LIMIT 5`) as SQL text, and what keeps one from being written.
 */
import { quoteLiteral } from "../pgwire/quote.ts"
import type { GenericOption } from "../spec/ParsedSpec.ts"

const optionName = /^[A-Za-z_][A-Za-z0-9_]*( [A-Za-z_][A-Za-z0-9_]*)*$/
const bareValue = /^[-+]?[A-Za-z0-9_.]+([-.][A-Za-z0-9_.]+)*$/
const quotedValue = /^("([^"\0]|"")+"|'([^'\\\0]|'')*')$/

/** Why an option cannot stand in a statement; `null` when it can. The text never repeats the value. */
export const faultOfOption = (option: GenericOption): string | null => {
  if (!optionName.test(option.name))
    return `the option name ${JSON.stringify(option.name)} is not one or more SQL words`
  if (option.value === null) return null
  if (option.quoted) {
    return option.value.includes("\0") || !option.value.isWellFormed()
      ? `the value of option ${option.name} is not text`
      : null
  }
  return bareValue.test(option.value) || quotedValue.test(option.value)
    ? null
    : `the value of option ${option.name} is neither one word nor quoted; give it the vartype "string"`
}

/** `NAME 'value'` when quoted, `NAME value`, or `NAME`. Ask `faultOfOption` first. */
export const renderOption = ({ name, quoted, value }: GenericOption): string =>
  value === null ? name : `${name} ${quoted ? quoteLiteral(value) : value}`

export const renderOptions = (options: ReadonlyArray<GenericOption>): string => options.map(renderOption).join(" ")
