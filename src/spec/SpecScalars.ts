/**
 * The scalars of the wire: sized numbers, ids, LSNs, names that Postgres can hold. Messages say what was expected.
 */
import * as Schema from "effect/Schema"

/** Missing or `null`. */
export const opt = <S extends Schema.Constraint>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

/** Doubles hold integers of 64 bits only nearly; sizes of swap and disk do not care about the last kilobyte. */
const integer = (minimum: number, maximum: number, expected: string) =>
  Schema.Finite.check(
    Schema.makeFilter((value: number) => Number.isInteger(value), {
      expected,
      toJsonSchema: () => ({ type: "integer" }),
      arbitraryConstraint: { number: "integer" }
    }),
    Schema.isBetween({ minimum, maximum }, { expected })
  )

export const U8 = integer(0, 2 ** 8 - 1, "an integer from 0 to 255")
export const U32 = integer(0, 2 ** 32 - 1, "an integer from 0 to 4294967295")
export const U64 = integer(0, 2 ** 64, "an integer that is not negative")
export const NonZeroU64 = integer(1, 2 ** 64, "an integer above 0")
export const I64 = integer(-(2 ** 63), 2 ** 63, "an integer")

export const HexId = Schema.String.check(Schema.isPattern(/^[0-9A-Fa-f]{32}$/u, { expected: "32 hexadecimal digits" }))

export const LsnText = Schema.String.check(Schema.isPattern(/^\s*[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}\s*$/u, {
  expected: "an LSN such as 0/16B3748 (LsnParseError)"
}))

const bytes = new TextEncoder()

/** Postgres cuts longer names short (NAMEDATALEN 64), and then two of them may be one. */
const maxNameBytes = 63

/** What keeps text from reaching Postgres as it is; `null` when nothing does. */
const faultOfText = (text: string): string | null => {
  if (text.includes("\0")) return "expected text without NUL bytes"
  return text.isWellFormed() ? null : "expected text without lone surrogates"
}

export const faultOfName = (name: string): string | null => {
  if (name === "") return "expected a name that is not empty"
  const length = bytes.encode(name).length
  return faultOfText(name) ??
    (length > maxNameBytes
      ? `expected a name of at most ${maxNameBytes} bytes (UTF-8); this one has ${length}, `
        + "and Postgres would cut it short"
      : null)
}

/** Text that goes into SQL or a configuration file. */
export const PgText = Schema.String.check(Schema.makeFilter((text: string) => faultOfText(text) ?? undefined))

/** The name of a role or database. */
export const PgName = Schema.String.check(Schema.makeFilter((name: string) => faultOfName(name) ?? undefined))
