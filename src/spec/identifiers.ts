/**
 * Names in storage: a tenant and one of its timelines (16 bytes each, 32 hex digits on the wire), and a position in the
 * write-ahead log.
 */
import * as Option from "effect/Option"

/**
 * A byte position in the write-ahead log: 64 bits, printed `X/Y` in hexadecimal. Parsing is as lenient as the control
 * planes are (either case, surrounding blanks); printing is Postgres's `%X/%X`, without zero padding.
 */
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

export type TenantId = string & { readonly TenantId: unique symbol }
export type TimelineId = string & { readonly TimelineId: unique symbol }

const parseHex = (text: string): Option.Option<string> =>
  /^[0-9A-Fa-f]{32}$/.test(text) ? Option.some(text.toLowerCase()) : Option.none()

export const parseTenantId = (text: string): Option.Option<TenantId> => parseHex(text) as Option.Option<TenantId>
export const parseTimelineId = (text: string): Option.Option<TimelineId> => parseHex(text) as Option.Option<TimelineId>

/** A tenant's shard in the text form `<tenant>-NNCC`; unsharded (count 0) it is the bare tenant id. */
export const printTenantShard = (tenant: TenantId, number: number, count: number): string =>
  count === 0 ? tenant : `${tenant}-${printShardIndex(number, count)}`

/** `NNCC`: shard number and shard count, two lower-case hex digits each. */
export const printShardIndex = (number: number, count: number): string =>
  number.toString(16).padStart(2, "0") + count.toString(16).padStart(2, "0")
