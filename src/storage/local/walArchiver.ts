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
import * as Option from "effect/Option"
import type { Failure } from "../../errors/Failure.ts"
import type { Admin } from "../../pgwire/Admin.ts"
import { type Lsn, parseLsn } from "../../spec/identifiers.ts"
import { namesIn, statOrNull } from "./disk.ts"
import { type Durability, restoreSettings } from "./durability.ts"
import { type Base, damaged, type Layout, readBase, readBootId, warnings, writeReached } from "./layout.ts"
import { copyRunning, countDatabases, flushWal } from "./publishBase.ts"
import { prepareSpare } from "./restoreBase.ts"
import { printWalFile, segmentNumberBefore, segmentNumberOf } from "./wal.ts"

// ---------------------------------------------------------------------------------------------------------------------
// When local storage makes a new base, and which files of PGDATA belong into one.
//
// A base costs a copy of the cluster; the WAL since the last one costs replay at the next start.
// ---------------------------------------------------------------------------------------------------------------------

export interface BaseLimits {
  /** WAL since the base, in bytes, that is always allowed. */
  readonly walBytes: number
  /** Transactions that wrote, since the base: with small records, bytes alone understate replay time. */
  readonly transactions: number
  /** Databases made since the base: replaying one copies a whole directory but is a few bytes of WAL. */
  readonly databases: number
}

export const defaultBaseLimits: BaseLimits = { walBytes: 64 * 1024 * 1024, transactions: 100_000, databases: 8 }

/** Replay runs at about 300 MB/s, so this bounds it to a few seconds however large the cluster is. */
const mostWalBytes = 512 * 1024 * 1024

export interface BaseFacts {
  readonly baseStart: Lsn
  readonly baseBytes: number
  readonly walAt: Lsn
  readonly transactions: number
  readonly databases: number
  /** A segment that the base needs is gone: nothing could be started from it any more. */
  readonly broken: boolean
}

/** Why a new base is due; `null` when it is not. A large cluster may gather a quarter of its size in WAL first. */
export const baseDue = (facts: BaseFacts, limits: BaseLimits): string | null => {
  const allowed = BigInt(Math.max(limits.walBytes, Math.min(Math.floor(facts.baseBytes / 4), mostWalBytes)))
  if (facts.broken) return "WAL that the present base needs was removed"
  if (facts.walAt - facts.baseStart > allowed) return `${facts.walAt - facts.baseStart} bytes of WAL since the base`
  if (facts.transactions > limits.transactions) return `${facts.transactions} transactions since the base`
  if (facts.databases > limits.databases) return `${facts.databases} databases made since the base`
  return null
}

/** Pause before the next try after `failures` in a row: 10 s, doubling, at most 10 minutes. */
export const retryMillis = (failures: number): number => Math.min(10_000 * 2 ** Math.max(0, failures - 1), 600_000)

/** Folders whose content Postgres makes anew at each start, or that must not be carried over. */
const emptied = new Set([
  "pg_wal",
  "pg_replslot",
  "pg_dynshmem",
  "pg_notify",
  "pg_serial",
  "pg_snapshots",
  "pg_stat_tmp",
  "pg_subtrans"
])

/** The files at the top that are Postgres's own. The settings files are written by us at each start. */
const topFiles = new Set(["PG_VERSION", "pg_ident.conf"])

/** Never in a base, wherever they are: temporary files, and a cache that is rebuilt when missing. */
const passing = /^(pgsql_tmp.*|pg_internal\.init.*|t\d+_\d+(_.+)?|\.DS_Store)$/

/** `empty`: the folder without its content. Paths are relative to PGDATA, with `/`. */
export const contentRule = (path: string, kind: "file" | "directory"): "copy" | "empty" | "skip" => {
  const slash = path.lastIndexOf("/")
  if (passing.test(path.slice(slash + 1))) return "skip"
  if (slash !== -1) return "copy"
  if (kind === "file") return topFiles.has(path) ? "copy" : "skip"
  if (emptied.has(path)) return "empty"
  return path === "base" || path === "global" || path.startsWith("pg_") ? "copy" : "skip"
}

// ---------------------------------------------------------------------------------------------------------------------

export interface Keeping {
  readonly layout: Layout
  readonly pgdata: string
  readonly admin: Admin["Service"]
  readonly durability: Durability
  readonly limits: BaseLimits
  readonly every: Duration.Duration
}

const currentBase = Effect.fnUntraced(function* (layout: Layout) {
  return (yield* readBase(layout)) ?? (yield* damaged(layout, "current.json has vanished while Postgres runs"))
})

/** Changes whenever WAL is written: the newest change to any segment. */
const walChangedAt = Effect.fnUntraced(function* (layout: Layout) {
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

const observe = Effect.fnUntraced(function* (
  keeping: Keeping,
  base: Base,
  seen: Seen | null
): Effect.fn.Return<Looked, Failure> {
  const { admin, durability, layout, limits, pgdata } = keeping
  const { segmentBytes } = base.current
  const { pgTimeline } = base
  const firstNumber = segmentNumberOf(base.start, segmentBytes)
  const [row] = yield* Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* admin.connect("local_storage")
      if (yield* restoreSettings(wire, durability)) yield* flushWal(layout, firstNumber, segmentBytes)
      return yield* wire.rows(
        `SELECT pg_catalog.pg_current_wal_lsn()::text,
              pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text`,
        "10 seconds"
      )
    })
  )
  const walAt = Option.getOrElse(parseLsn(row?.[0] ?? ""), () => base.start)
  const next = BigInt(row?.[1] ?? "0")
  const written = printWalFile({ pgTimeline, number: segmentNumberBefore(walAt, segmentBytes) }, segmentBytes)
  yield* writeReached(layout, written, yield* readBootId)
  const recorded = BigInt(base.current.transaction)
  const { n } = base.current
  const now: Seen = seen?.n === n ? seen : { n, from: recorded === 0n ? next : recorded }
  const first = printWalFile({ pgTimeline, number: firstNumber }, segmentBytes)
  const due = baseDue(
    {
      baseStart: base.start,
      baseBytes: base.current.tarBytes,
      walAt,
      transactions: Number(next - now.from),
      databases: (yield* countDatabases(pgdata)) - base.current.databases,
      broken: (yield* statOrNull(`${layout.wal}/${first}`)) === null
    },
    limits
  )
  return { seen: now, due }
})

/** Never returns; fails only when durability can no longer be had. */
export const keepUp: (keeping: Keeping) => Effect.Effect<void, Failure> = Effect.fnUntraced(function* (keeping) {
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
          Effect.logWarning("the next start will be slower: no spare could be made", failure)
        )
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
