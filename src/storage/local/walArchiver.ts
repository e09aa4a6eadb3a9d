/**
 * Upkeep while Postgres runs: the next spare, a new base before replay gets long, and settings that stay safe.
 *
 * A base that fails is a condition, and is tried again later: the last one still starts. The database is not touched
 * while nothing writes, so an idle compute stays idle. Runs until it is interrupted.
 */
import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type { ComputeState } from "../../compute/ComputeState.ts"
import { counters } from "../../compute/counters.ts"
import { turn } from "../../compute/Supervisor.ts"
import type { Failure } from "../../errors/Failure.ts"
import { causesOf } from "../../errors/policy.ts"
import type { Admin } from "../../pgwire/Admin.ts"
import { attemptPromise, textOrNull } from "../../platform/files.ts"
import type { Spawn } from "../../platform/Spawn.ts"
import { parseLsn } from "../../spec/identifiers.ts"
import { baseDue, type BaseLimits, baseOverdue, paceFor } from "./basePolicy.ts"
import type { KnownFiles } from "./copyTree.ts"
import { statOrNull } from "./disk.ts"
import { type Durability, restoreSettings } from "./durability.ts"
import { followWal, walChangedAt } from "./followWal.ts"
import { type Base, baseBytes, damaged, type Layout, readBase } from "./layout.ts"
import { connectToCluster, copyRunning, countDatabases } from "./publishBase.ts"
import { giveUpSpare, isFull, keepReserve, makeRoom } from "./room.ts"
import { watchRoom } from "./roomWatch.ts"
import type { Pace } from "./pacing.ts"
import { prepareSpare } from "./spare.ts"
import { entriesIn } from "./treeFiles.ts"
import { flushWal } from "./wal.ts"
import { printWalFile, segmentNumberOf } from "./walSegments.ts"

export interface WalArchiverOptions {
  readonly state: ComputeState["Service"]
  readonly layout: Layout
  readonly pgdata: string
  readonly admin: Admin["Service"]
  readonly durability: Durability
  readonly limits: BaseLimits
  readonly every: Duration.Duration
  /** Is told how long a base took. */
  readonly measured: (bytes: number, taken: Duration.Duration) => Effect.Effect<void>
  readonly known: KnownFiles
}

const currentBase = Effect.fnUntraced(function* (layout: Layout) {
  return (yield* readBase(layout)) ?? (yield* damaged(layout, "current.json has vanished while Postgres runs"))
})

/** The first transaction that counts towards the next base: `from`, since base `n`. */
interface Counted {
  readonly n: number
  readonly from: bigint
}

interface Observed {
  readonly counted: Counted
  readonly pace: Pace
  /** Why a new base is due, or `null`. */
  readonly due: string | null
}

const followed = ({ admin, durability, layout }: WalArchiverOptions) =>
  Effect.gen(function* () {
    const base = yield* currentBase(layout)
    const wire = yield* connectToCluster(admin, layout, base)
    const { segmentBytes } = base.current
    return { wire, segmentBytes, pgTimeline: base.pgTimeline, isFlushed: durability === "os" }
  })

const couldNotLook = (failure: Failure) => Effect.as(Effect.logDebug("could not look at the WAL", failure), null)

const observe = Effect.fnUntraced(function* (
  options: WalArchiverOptions,
  base: Base,
  counted: Counted | null
): Effect.fn.Return<Observed, Failure> {
  const { admin, durability, layout, limits, pgdata } = options
  const { segmentBytes } = base.current
  const { pgTimeline } = base
  const firstNumber = segmentNumberOf(base.start, segmentBytes)
  const { next, walAt } = yield* Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* connectToCluster(admin, layout, base)
      if (yield* restoreSettings(wire, durability)) yield* flushWal(layout, firstNumber, segmentBytes)
      const [row] = yield* wire.rows(
        `SELECT pg_catalog.pg_current_wal_lsn()::text,
              pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text`,
        "10 seconds"
      )
      return { walAt: Option.getOrElse(parseLsn(row?.[0] ?? ""), () => base.start), next: BigInt(row?.[1] ?? "0") }
    })
  )
  const recorded = BigInt(base.current.transaction)
  const { n } = base.current
  const now: Counted = counted?.n === n ? counted : { n, from: recorded === 0n ? next : recorded }
  const first = printWalFile({ pgTimeline, number: firstNumber }, segmentBytes)
  const due = baseDue(
    {
      baseStart: base.start,
      baseBytes: baseBytes(base),
      walAt,
      transactions: Number(next - now.from),
      databases: (yield* countDatabases(pgdata)) - base.current.databases,
      broken: (yield* statOrNull(`${layout.wal}/${first}`)) === null
    },
    limits
  )
  return { counted: now, due, pace: paceFor(walAt - base.start, baseBytes(base), limits) }
})

// What a start from the storage will not bring back: it is not in the WAL, and PGDATA is thrown away.

const unloggedIn = (pgdata: string) =>
  attemptPromise("list", `${pgdata}/base`, async () => {
    let found = 0
    for await (const database of entriesIn(`${pgdata}/base`)) {
      for await (const { name } of entriesIn(`${pgdata}/base/${database.name}`)) if (/^\d+_init$/.test(name)) found++
    }
    return found
    // A database that was dropped meanwhile: the next look counts again.
  }).pipe(Effect.orElseSucceed(() => 0))

const findLosses = Effect.fnUntraced(function* (pgdata: string, admin: Admin["Service"]) {
  const lines = new Map<string, string>()
  const [row] = yield* Effect.scoped(
    Effect.flatMap(admin.connect("local_storage"), (wire) =>
      wire.rows(
        "SELECT string_agg(slot_name, ', ') FROM pg_catalog.pg_replication_slots WHERE NOT temporary",
        "10 seconds"
      )
    )
  )
  const slots = row?.[0] ?? null
  if (slots !== null) lines.set("slots", `replication slots are lost at the next start: ${slots}`)
  const unlogged = yield* unloggedIn(pgdata)
  if (unlogged > 0) {
    lines.set("unlogged", `unlogged tables and indexes (${unlogged} files) are emptied at the next start`)
  }
  const auto = (yield* textOrNull(`${pgdata}/postgresql.auto.conf`)) ?? ""
  const names = auto
    .split("\n")
    .map((line) => line.replace(/\s*=.*$/, "").trim())
    .filter((name) => name !== "" && !name.startsWith("#"))
  if (names.length > 0) lines.set("auto", `settings by ALTER SYSTEM are lost at the next start: ${names.join(", ")}`)
  return lines
})

/** Logs each kind once per start; a look that fails is not reported. */
const makeLossWarnings = (pgdata: string, admin: Admin["Service"]): Effect.Effect<Effect.Effect<void>> =>
  Effect.sync(() => {
    const logged = new Set<string>()
    return Effect.gen(function* () {
      for (const [kind, line] of yield* findLosses(pgdata, admin)) {
        if (logged.has(kind)) continue
        logged.add(kind)
        yield* Effect.logWarning(line)
      }
    }).pipe(Effect.ignore)
  })

class NoBase extends Data.TaggedError("NoBase")<{ readonly cause: Cause.Cause<Failure> }> {}

/** Between two attempts at a base: 10 s, doubling, at most 10 minutes. */
export const baseRetries = Schedule.exponential("10 seconds").pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.minutes(10))))
)

/** Each failed attempt is the latest word of one condition. */
const shownRetries = (state: ComputeState["Service"]) =>
  baseRetries.pipe(
    Schedule.setInputType<NoBase | Failure>(),
    Schedule.tap(({ attempt, duration, input }) =>
      input._tag !== "NoBase"
        ? Effect.void
        : Effect.andThen(
            Metric.update(counters.basePublicationFailures, 1),
            state.raise({
              code: "base_publication_failed",
              message:
                `no new base (${causesOf(Cause.squash(input.cause)).join(": ")}; attempt ${attempt}, again in ` +
                `${Duration.toSeconds(duration)} s): the last one still starts, and replays more`
            })
          )
    )
  )

/** Of what the last base took: a cluster grows between two, and the next one takes the place of the spare. */
const roomFor = (layout: Layout, base: Base) =>
  Effect.map(statOrNull(layout.spare), (spare) => {
    const share = spare === null ? 1.2 : 0.2
    return Math.ceil(baseBytes(base) * share) + 16 * 1024 * 1024
  })

const makeBase = (options: WalArchiverOptions, base: Base, pace: Pace) =>
  Effect.flatMap(roomFor(options.layout, base), (bytes) =>
    makeRoom(options.layout, `a new base in ${options.layout.root}`, bytes)
  ).pipe(
    Effect.andThen(Effect.timed(copyRunning(options.layout, base, options.pgdata, options.admin, options.known, pace))),
    Effect.tap(([taken, made]) => options.measured(baseBytes(made), taken)),
    Effect.tapError((failure) => (isFull(failure) ? Effect.ignore(giveUpSpare(options.layout)) : Effect.void)),
    Effect.asVoid,
    // Interruption is the end of the archiver and no failure of the base.
    Effect.catchCause((cause): Effect.Effect<never, Failure | NoBase> =>
      Cause.hasInterrupts(cause) ? Effect.failCause(cause) : Effect.fail(new NoBase({ cause }))
    )
  )

/** Bytes of WAL since the base. */
const walSince = Effect.fnUntraced(function* ({ admin, layout }: WalArchiverOptions, base: Base) {
  const [row] = yield* Effect.scoped(
    Effect.flatMap(connectToCluster(admin, layout, base), (wire) =>
      wire.rows("SELECT pg_catalog.pg_current_wal_lsn()::text", "10 seconds")
    )
  )
  return Option.getOrElse(parseLsn(row?.[0] ?? ""), () => base.start) - base.start
})

const overdueWithin = Duration.minutes(2)

/**
 * A base that is overdue is made before users are let in: a compute that dies again and again would never get to it,
 * and replay more each time. Whatever goes wrong is reported, and the start goes on.
 */
export const makeOverdueBase = (options: WalArchiverOptions): Effect.Effect<void, never, Spawn> =>
  Effect.gen(function* () {
    const base = yield* currentBase(options.layout)
    const gathered = yield* walSince(options, base)
    if (!baseOverdue(gathered, baseBytes(base), options.limits)) return
    yield* Effect.logWarning(
      `making a new base before users are let in: ${gathered} bytes of WAL since the last one; earlier ` +
        "starts did not live long enough to make one"
    )
    yield* makeBase(options, base, "urgent")
  }).pipe(
    Effect.timeoutOrElse({
      duration: overdueWithin,
      orElse: () => Effect.logWarning("the new base takes too long; it is made while users are served")
    }),
    Effect.catchTag("NoBase", ({ cause }) =>
      options.state.raise({
        code: "base_publication_failed",
        message:
          `no new base (${causesOf(Cause.squash(cause)).join(": ")}): the last one still starts, and ` + "replays more"
      })
    ),
    // Whoever keeps the storage looks again, and says what lasts.
    Effect.catch((failure) => Effect.logWarning("whether a new base is overdue could not be seen", failure))
  )

/**
 * Makes the spare; why the base must be made anew, or `null`. Making the spare reads and verifies all of the base: one
 * that is damaged would be refused by the next start, and the cluster that runs now is whole.
 */
const makeSpare = ({ layout, pgdata }: WalArchiverOptions, base: Base, pace: Pace) =>
  prepareSpare(layout, base, pgdata, pace).pipe(
    Effect.as(base.current.format === 1 ? "the present one is a tar of an older version" : null),
    Effect.catchTags({
      FileFailed: (failure) =>
        Effect.logWarning("the next start will be slower: no spare could be made", failure).pipe(
          // Half of one is of no use.
          Effect.andThen(isFull(failure) ? Effect.ignore(giveUpSpare(layout)) : Effect.void),
          Effect.as(null)
        ),
      StorageDamaged: (failure) =>
        Effect.as(Effect.logError("the base is damaged; replacing it", failure), "the present one is damaged")
    })
  )

/** One look: prepares the spare and makes a base where they are due. True when a base was made. */
const makeLook = (options: WalArchiverOptions) => {
  const { admin, layout, limits, pgdata } = options
  const logLosses = makeLossWarnings(pgdata, admin)
  let changedAt = -1
  let counted: Counted | null = null
  let spareFor = 0
  let unfit: string | null = null
  return Effect.gen(function* () {
    yield* watchRoom({ state: options.state, folder: layout.wal, keepReserve: keepReserve(layout) })
    const base = yield* currentBase(layout)
    if (spareFor !== base.current.n) {
      spareFor = base.current.n
      const gathered = yield* Effect.orElseSucceed(walSince(options, base), () => 0n)
      unfit = yield* makeSpare(options, base, paceFor(gathered, baseBytes(base), limits))
    }
    const changed = yield* walChangedAt(layout)
    if (changed === changedAt && unfit === null) return false
    const observed: Observed | null = yield* observe(options, base, counted).pipe(
      // A look that did not succeed is repeated; only a broken promise ends the actor.
      Effect.catchTags({ WireFailed: couldNotLook, TimedOut: couldNotLook })
    )
    if (observed === null) return false
    counted = observed.counted
    const due = unfit ?? observed.due
    if (due !== null) {
      yield* Effect.logInfo(`making a new base: ${due}`)
      yield* makeBase(options, base, observed.pace)
      yield* options.state.clear("base_publication_failed")
      yield* logLosses
    }
    changedAt = changed
    return due !== null
  })
}

/** A base of a large database takes its time; an operator may want to know that it does. */
const longestLook = Duration.minutes(10)

/** Never returns; fails only when durability can no longer be had. */
export const runWalArchiver: (options: WalArchiverOptions) => Effect.Effect<never, Failure, Spawn> = Effect.fnUntraced(
  function* (options) {
    const { durability, every, layout, state } = options
    // The WAL writer may have seen `fsync = on` a moment after `secure` looked, and flushes on behalf of others.
    if (durability === "os") {
      const { current, start } = yield* currentBase(layout)
      yield* flushWal(layout, segmentNumberOf(start, current.segmentBytes), current.segmentBytes)
    }
    const look = makeLook(options).pipe(
      turn(state, longestLook),
      Effect.retry({ schedule: shownRetries(state), while: (failure) => failure._tag === "NoBase" }),
      Effect.catchTag("NoBase", ({ cause }) => Effect.failCause(cause))
    )
    return yield* Effect.raceFirst(
      Effect.forever(Effect.flatMap(look, (made) => (made ? Effect.void : Effect.sleep(every)))),
      followWal(layout, followed(options))
    )
  }
)
