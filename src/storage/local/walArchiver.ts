/**
 * Upkeep while Postgres runs: the next spare, a new base before replay gets long, and settings that stay safe.
 *
 * A base that fails is logged and tried again later: the last one still starts. The database is not touched while
 * nothing writes, so an idle compute stays idle.
 */
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Failure } from "../../errors/Failure.ts"
import { parseLsn } from "../../spec/Lsn.ts"
import * as Option from "effect/Option"
import type { Admin } from "../../pgwire/Admin.ts"
import { baseDue, type BaseLimits, retryMillis } from "./basePolicy.ts"
import { printWalFile, segmentNumberBefore, segmentNumberOf } from "./wal.ts"
import { copyRunning, countDatabases } from "./publishBase.ts"
import { namesIn, statOrNull } from "./disk.ts"
import { type Base, damaged, type Layout, readBase, readBootId, writeReached } from "./layout.ts"
import { flushWal } from "./publish.ts"
import { type Durability, restoreSettings } from "./durability.ts"
import { prepareSpare } from "./spare.ts"
import { warnings } from "./warnings.ts"

export interface Keeping {
  readonly layout: Layout
  readonly pgdata: string
  readonly admin: Admin["Service"]
  readonly durability: Durability
  readonly limits: BaseLimits
  readonly every: Duration.Duration
}

const currentBase = Effect.fnUntraced(function*(layout: Layout) {
  return (yield* readBase(layout)) ?? (yield* damaged(layout, "current.json has vanished while Postgres runs"))
})

/** Changes whenever WAL is written: the newest change to any segment. */
const walChangedAt = Effect.fnUntraced(function*(layout: Layout) {
  let newest = 0
  for (const name of yield* namesIn(layout.wal)) {
    if (!/^[0-9A-F]{24}$/.test(name)) continue
    newest = Math.max(newest, (yield* statOrNull(`${layout.wal}/${name}`))?.mtimeMs ?? 0)
  }
  return newest
})

interface Seen {
  /** The first transaction counted towards the next base, per base. */
  readonly n: number
  readonly from: bigint
}

interface Looked {
  readonly seen: Seen
  /** Why a new base is due, or `null`. */
  readonly due: string | null
}

const couldNotLook = (failure: Failure) => Effect.as(Effect.logDebug("could not look at the WAL", failure), null)

const observe = Effect.fnUntraced(function*(
  keeping: Keeping,
  base: Base,
  seen: Seen | null
): Effect.fn.Return<Looked, Failure> {
  const { admin, durability, layout, limits, pgdata } = keeping
  const { segmentBytes } = base.current
  const { pgTimeline } = base
  const firstNumber = segmentNumberOf(base.start, segmentBytes)
  const [row] = yield* Effect.scoped(Effect.gen(function*() {
    const wire = yield* admin.connect("local_storage")
    if (yield* restoreSettings(wire, durability)) yield* flushWal(layout, firstNumber, segmentBytes)
    return yield* wire.rows(
      `SELECT pg_catalog.pg_current_wal_lsn()::text,
              pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text`,
      "10 seconds"
    )
  }))
  const walAt = Option.getOrElse(parseLsn(row?.[0] ?? ""), () => base.start)
  const next = BigInt(row?.[1] ?? "0")
  const written = printWalFile({ pgTimeline, number: segmentNumberBefore(walAt, segmentBytes) }, segmentBytes)
  yield* writeReached(layout, written, yield* readBootId)
  const recorded = BigInt(base.current.transaction)
  const { n } = base.current
  const now: Seen = seen?.n === n ? seen : { n, from: recorded === 0n ? next : recorded }
  const first = printWalFile({ pgTimeline, number: firstNumber }, segmentBytes)
  const due = baseDue({
    baseStart: base.start,
    baseBytes: base.current.tarBytes,
    walAt,
    transactions: Number(next - now.from),
    databases: (yield* countDatabases(pgdata)) - base.current.databases,
    broken: (yield* statOrNull(`${layout.wal}/${first}`)) === null
  }, limits)
  return { seen: now, due }
})

/** Never returns; fails only when durability can no longer be had. */
export const keepUp: (keeping: Keeping) => Effect.Effect<void, Failure> = Effect.fnUntraced(function*(keeping) {
  const { admin, every, layout, pgdata } = keeping
  const warn = yield* warnings(pgdata, admin)
  let changedAt = -1
  let seen: Seen | null = null
  let failures = 0
  let notBefore = 0
  let spareFor = 0
  // The WAL writer may have heard of `fsync = on` a moment after `secure` looked, and flushes on behalf of others.
  if (keeping.durability === "os") {
    const { current, start } = yield* currentBase(layout)
    yield* flushWal(layout, segmentNumberOf(start, current.segmentBytes), current.segmentBytes)
  }
  while (true) {
    const base: Base = yield* currentBase(layout)
    if (spareFor !== base.current.n) {
      spareFor = base.current.n
      yield* prepareSpare(layout, base, pgdata).pipe(
        Effect.catchTag("FileFailed", (failure) =>
          Effect.logWarning("the next start will be slower: no spare could be made", failure))
      )
    }
    const changed = yield* walChangedAt(layout)
    const now = yield* Clock.currentTimeMillis
    if ((changed !== changedAt || failures > 0) && now >= notBefore) {
      const looked: Looked | null = yield* observe(keeping, base, seen).pipe(
        // A look that did not succeed is repeated; only a broken promise ends the actor.
        Effect.catchTags({ WireFailed: couldNotLook, TimedOut: couldNotLook })
      )
      if (looked !== null) {
        seen = looked.seen
        changedAt = changed
      }
      const due = looked?.due ?? null
      if (due !== null) {
        yield* Effect.logInfo(`making a new base: ${due}`)
        const made: Exit.Exit<Base, Failure> = yield* Effect.exit(copyRunning(layout, base, pgdata, admin))
        if (Exit.isSuccess(made)) {
          failures = 0
          yield* warn
          continue
        }
        // Being told to stop is not a failure of the base.
        if (Exit.hasInterrupts(made)) return yield* Effect.interrupt
        failures += 1
        notBefore = (yield* Clock.currentTimeMillis) + retryMillis(failures)
        const seconds = retryMillis(failures) / 1000
        yield* Effect.logError(`no new base (attempt ${failures}, again in ${seconds} s)`, made.cause)
      } else failures = 0
    }
    yield* Effect.sleep(every)
  }
})
