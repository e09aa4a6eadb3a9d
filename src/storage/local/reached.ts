/**
 * How far the WAL is known to have been written: what an end of replay is compared with. Kept in `reached`, which is
 * written at each start, about every second while WAL is written, and at the end.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { FileFailed, StorageDamaged } from "../../errors/Failure.ts"
import { replaceFile } from "../../platform/files.ts"
import { type Lsn, parseLsn, printLsn } from "../../spec/identifiers.ts"
import { type Layout, readNote } from "./layout.ts"

export interface Reached {
  /** The boot of the kernel in which Postgres last ran here; `null` where that cannot be known. */
  readonly bootId: string | null
  /** The newest segment seen written. */
  readonly segment: string
  /** WAL before it had been written; a power cut may have taken it. */
  readonly written: Lsn
  /** WAL before it was on the disk. */
  readonly flushed: Lsn
  /** Pages before it may be of WAL that was lost long ago, and prove nothing. */
  readonly stale: Lsn
}

const Stored = Schema.Struct({
  segment: Schema.String,
  bootId: Schema.NullOr(Schema.String),
  written: Schema.optionalKey(Schema.String),
  flushed: Schema.optionalKey(Schema.String),
  stale: Schema.optionalKey(Schema.String)
})
const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Stored))

const lsn = (text: string | undefined): Lsn => Option.getOrElse(parseLsn(text ?? ""), () => 0n)

/** `null` also for what a power cut left of one; one that says something else is damaged. */
export const readReached = (layout: Layout): Effect.Effect<Reached | null, FileFailed | StorageDamaged> =>
  Effect.map(readNote(layout, layout.reached, decode, "up to where WAL was written"), (stored) =>
    stored === null
      ? null
      : { ...stored, written: lsn(stored.written), flushed: lsn(stored.flushed), stale: lsn(stored.stale) }
  )

/** On the disk before it takes the old one's place. */
export const writeReached = (layout: Layout, { bootId, flushed, segment, stale, written }: Reached) =>
  Effect.asVoid(
    replaceFile({
      path: layout.reached,
      content: `${JSON.stringify(
        { segment, bootId, written: printLsn(written), flushed: printLsn(flushed), stale: printLsn(stale) },
        null,
        2
      )}\n`,
      owner: layout.owner
    })
  )

/** More was written, and `flushed` says whether it is on the disk. What was known stays known. */
export const advanceReached = Effect.fnUntraced(function* (
  layout: Layout,
  bootId: string | null,
  at: { readonly segment: string; readonly lsn: Lsn; readonly flushed: boolean }
) {
  const before = yield* readReached(layout)
  yield* writeReached(layout, {
    bootId,
    segment: at.segment,
    written: at.lsn,
    flushed: at.flushed ? at.lsn : (before?.flushed ?? 0n),
    stale: before?.stale ?? 0n
  })
})
