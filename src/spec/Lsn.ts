/**
 * A byte position in the write-ahead log: 64 bits, printed `X/Y` in hexadecimal.
 *
 * Parsing is as lenient as the control planes are (either case, surrounding
 * blanks); printing is Postgres's `%X/%X`, without zero padding.
 */
import * as Option from "effect/Option"

export type Lsn = bigint

/** `0/0`: no position. In a basebackup request it means "the latest there is". */
export const invalidLsn: Lsn = 0n

export const parseLsn = (text: string): Option.Option<Lsn> => {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text.trim())
  if (match === null) return Option.none()
  return Option.some((BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`))
}

export const printLsn = (lsn: Lsn): string =>
  `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffff_ffffn).toString(16).toUpperCase()}`
