/**
 * Storage for stock Postgres: a folder on this machine that holds a base and all WAL since.
 *
 * PGDATA's pg_wal is a link into that folder, so a commit is durable by Postgres's own flush and PGDATA itself may
 * vanish at any moment. Each start unpacks the base and replays. What it does not keep: settings by ALTER SYSTEM,
 * replication slots, statistics, unlogged tables, tablespaces outside of PGDATA. It does not keep other machines
 * out of a shared folder. The lock on a timeline is released when the scope of its claim closes.
 *
 * Relies on `postgres/localConf.ts` for the settings named in `restoreBase.ts` and `durability.ts`; `secure` checks
 * them in the running server.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as path from "node:path"
import { ComputeState } from "../../compute/ComputeState.ts"
import { type ExitStatus, type Failure, NotSupported, StorageMissing, TimelineBusy } from "../../errors/Failure.ts"
import { within } from "../../errors/within.ts"
import { Admin } from "../../pgwire/Admin.ts"
import { makeFolder, realPath } from "../../platform/files.ts"
import { keepFor } from "../../platform/flock.ts"
import { holdLock, type LockRequest, whileAlone } from "../../platform/lock.ts"
import { readBootId } from "../../platform/processes.ts"
import { Spawn } from "../../platform/Spawn.ts"
import { PostgresInstall } from "../../postgres/PostgresInstall.ts"
import { printLsn } from "../../spec/identifiers.ts"
import type { ParsedSpec } from "../../spec/ParsedSpec.ts"
import { Storage, type Timeline } from "../Storage.ts"
import { coldBackupLabel } from "./backupLabel.ts"
import { type BaseLimits, defaultBaseLimits } from "./basePolicy.ts"
import { branchTimeline } from "./branch.ts"
import type { KnownFiles } from "./copyTree.ts"
import { Lasting, statOrNull } from "./disk.ts"
import { type Durability, requireSettings } from "./durability.ts"
import { fence } from "./fence.ts"
import { type Base, baseBytes, damaged, type Layout, layoutOf, readBase } from "./layout.ts"
import { copyStopped, readShutDown, refuseTablespaces, requireSameCluster } from "./publishBase.ts"
import { advanceReached } from "./reached.ts"
import { restoreBase } from "./restoreBase.ts"
import {
  boundTrash,
  giveUpAll,
  keepLittle,
  keepReserve,
  mayBeDeleted,
  orNameOwner,
  requireOwned,
  withRoom,
  withRoomToClaim
} from "./room.ts"
import { describeRoom, partsIn } from "./roomReport.ts"
import { becomeSpare } from "./spare.ts"
import { flushWal, forgetUnflushed } from "./wal.ts"
import { makeOverdueBase, runWalArchiver } from "./walArchiver.ts"
import { printWalFile, segmentNumberOf } from "./walSegments.ts"

export interface LocalStorageOptions {
  /** Made when missing. The run-as user must be able to reach it. */
  readonly directory: string
  readonly durability: Durability
  /** Where seed clusters are kept, for other storages too; by default each storage has its own. */
  readonly seedDirectory?: string
  /** Fail instead of beginning a new timeline. */
  readonly requireExisting?: boolean
  /** Go on where there is no lock that would keep everybody else out. */
  readonly allowUnfenced?: boolean
  /** What is allowed to gather since the base before a new one is made. */
  readonly limits?: Partial<BaseLimits>
  /** How long a stop may take in all before a base is given up; 8 s by default. */
  readonly stopBudget?: Duration.Duration
  /** Between two looks at the WAL; 5 s by default. */
  readonly lookEvery?: Duration.Duration
}

/** What every timeline of one storage shares. */
interface Shared {
  readonly state: ComputeState["Service"]
  readonly directory: string
  readonly seedDirectory: string
  readonly durability: Durability
  readonly requireExisting: boolean
  readonly allowUnfenced: boolean
  readonly limits: BaseLimits
  readonly every: Duration.Duration
  readonly install: PostgresInstall["Service"]
  readonly admin: Admin["Service"]
  readonly spawn: Spawn["Service"]
  readonly stopBudget: Duration.Duration
  /** Bytes of a base per millisecond, as last measured. */
  readonly pace: Ref.Ref<number>
}

const secureWithin = Duration.seconds(30)
const leaveWithin = Duration.seconds(30)

/** Without a spare, or when it might be lost with the machine, a quarter of the usual limit is worth a cold base. */
const coldBaseShare = 4n

/** A new session each time: one that is open may not have seen the reload yet. */
const requireDurability = (admin: Admin["Service"], durability: Durability) =>
  Effect.scoped(Effect.flatMap(admin.connect("local_storage"), (wire) => requireSettings(wire, durability)))

const secure = Effect.fn("LocalStorage.secure")(
  function* ({ admin, durability }: Shared, layout: Layout) {
    const required = requireDurability(admin, durability)
    // The reload was only signalled: for a moment fsync may still be what it was at the start. The other settings
    // were written before it; what is not so now will not become so.
    const afterReload = Effect.retry(required, {
      while: (failure) => failure._tag === "NotSupported" || failure._tag === "WireFailed",
      schedule: Schedule.spaced("5 millis").pipe(Schedule.upTo({ duration: "5 seconds" }))
    })
    yield* Effect.catchTag(required, "NotSupported", () =>
      Effect.andThen(requireDurability(admin, "process"), afterReload)
    )
    if (durability === "process") return
    const base = (yield* readBase(layout)) ?? (yield* damaged(layout, "current.json has vanished"))
    yield* flushWal(layout, segmentNumberOf(base.start, base.current.segmentBytes), base.current.segmentBytes)
    yield* forgetUnflushed(layout)
  },
  within("making the WAL durable", secureWithin)
)

/** 60 MB per second, until it was measured: a slow disk. */
const assumedPace = 60_000

/** A base where there is time for it. The one that counts afterwards. */
const copyInTime = Effect.fnUntraced(function* (
  { pace, stopBudget }: Shared,
  layout: Layout,
  base: Base,
  copy: Effect.Effect<Base, Failure, Spawn>,
  spent: Duration.Duration
) {
  const left = Duration.toMillis(stopBudget) - Duration.toMillis(spent)
  const cost = baseBytes(base) / (yield* Ref.get(pace))
  const skipped = (why: string) =>
    Effect.as(
      Effect.logWarning(`no new base at this stop: ${why} (--stop-budget); nothing is lost, a start replays more`),
      base
    )
  if (cost > left) {
    return yield* skipped(`it would take about ${Math.ceil(cost)} ms, and ${Math.max(0, Math.floor(left))} ms are left`)
  }
  const made = yield* Effect.timeoutOption(copy, left)
  if (Option.isSome(made)) return made.value
  yield* skipped(`it was not finished within the ${Math.floor(left)} ms that were left`)
  return (yield* readBase(layout)) ?? base
})

const leaveCleanly = Effect.fnUntraced(function* (
  shared: Shared,
  layout: Layout,
  pgdata: string,
  known: KnownFiles,
  spent: Duration.Duration
) {
  const { durability, limits } = shared
  const base = yield* readBase(layout)
  const control = base === null ? null : yield* readShutDown(layout, pgdata)
  // A label that is still there means that recovery did not even begin with it.
  if (base === null || control === null || (yield* statOrNull(`${pgdata}/backup_label`)) !== null) return
  yield* requireSameCluster(layout, base, String(control.systemId))
  yield* refuseTablespaces(layout, pgdata)
  const { segmentBytes } = base.current
  const last = { pgTimeline: control.pgTimeline, number: segmentNumberOf(control.checkpoint, segmentBytes) }
  yield* advanceReached(layout, yield* readBootId, {
    segment: printWalFile(last, segmentBytes),
    lsn: control.checkpoint + 1n,
    flushed: durability === "os"
  })
  const due = (control.redo - base.start) * coldBaseShare > BigInt(limits.walBytes)
  const copy = copyStopped(layout, base, pgdata, control, known)
  const now = due ? yield* copyInTime(shared, layout, base, copy, spent) : base
  yield* becomeSpare(layout, now, pgdata, coldBackupLabel(control, segmentBytes))
})

/** Everything here only makes the next start faster, so whatever goes wrong is logged and nothing else. */
const leave = Effect.fn("LocalStorage.leave")(function* (
  shared: Shared,
  layout: Layout,
  pgdata: string,
  known: KnownFiles,
  exit: ExitStatus,
  spent: Duration.Duration
) {
  if (exit._tag !== "Code" || exit.code !== 0 || !(yield* Lasting)) return
  yield* leaveCleanly(shared, layout, pgdata, known, spent).pipe(
    within("leaving the storage", leaveWithin),
    Effect.catch((failure) => Effect.logWarning("the next start will be slower", failure))
  )
})

/** `claimed` is PGDATA's real path at the time of the claim. */
const restore = Effect.fn("LocalStorage.restore")(function* (
  { admin, directory, install, seedDirectory, spawn }: Shared,
  layout: Layout,
  claimed: string,
  target: string,
  scope: Scope.Scope
) {
  // The fence knew where PGDATA would be; a link that has moved since would let two servers write.
  const pgdata = realPath(target)
  if (pgdata !== claimed) yield* fence(layout, pgdata, true)
  const wanted = { directory: seedDirectory, install, superuser: admin.superuser }
  yield* requireOwned(layout, directory)
  yield* keepLittle(layout, "trash")
  const restored = yield* restoreBase(layout, pgdata, wanted).pipe(
    withRoom(layout),
    Effect.provideService(Spawn, spawn)
  )
  // What PGDATA held before is trash by now.
  yield* keepLittle(layout, "trash and spare")
  yield* Effect.ignore(keepReserve(layout))
  yield* boundTrash(layout).pipe(Effect.ignore, Effect.forkIn(scope))
  yield* Effect.annotateCurrentSpan("restored", restored)
})

/** A volume that was not mounted looks like a storage that nobody has used yet. */
const announceNew = Effect.fnUntraced(function* ({ directory, requireExisting }: Shared, layout: Layout) {
  if ((yield* statOrNull(layout.current)) !== null) return
  const missing = (yield* statOrNull(directory)) === null
  const detail = missing ? "there is no such folder" : `there is no timeline in ${layout.root}`
  if (requireExisting) return yield* new StorageMissing({ directory, detail })
  yield* Effect.logWarning(
    `a new and empty timeline is begun in the local storage ${directory}, because ${detail}; if there should be ` +
      "data, stop this compute: a volume may not be mounted (--require-existing refuses instead)"
  )
})

/** A timeline that is not there yet, and that the spec wants as a branch, is made of the other one. */
const beginBranch = Effect.fnUntraced(function* ({ directory, spawn }: Shared, layout: Layout, spec: ParsedSpec) {
  const { ancestor, tenant: tenantId, timeline: to } = spec
  const isThere = Effect.map(statOrNull(layout.current), (stat) => stat !== null)
  if (ancestor === null || (yield* isThere)) return
  const at = ancestor.lsn === null ? {} : { at: ancestor.lsn }
  const { lsn } = yield* branchTimeline({ storage: directory, tenantId, from: ancestor.timeline, to, ...at }).pipe(
    Effect.provideService(Spawn, spawn),
    // Two starts of it at once: the lock is between them.
    Effect.catchTag("BranchRefused", (refused) =>
      Effect.flatMap(isThere, (made) => (made ? Effect.succeed({ lsn: null }) : Effect.fail(refused)))
    )
  )
  if (lsn !== null)
    yield* Effect.logInfo(`timeline ${to} begins as a branch of ${ancestor.timeline} at ${printLsn(lsn)}`)
})

/**
 * The lock, and with it the proof that nobody else writes; Postgres inherits it. Where there is no room to claim it,
 * the flock alone proves that enough for trash and spare to go.
 */
const keepOthersOut = Effect.fnUntraced(function* (shared: Shared, layout: Layout, target: string, pgdata: string) {
  const { allowUnfenced, install } = shared
  const request: Omit<LockRequest<TimelineBusy, never, never>, "prove"> = {
    lock: layout.lock,
    owner: install.runAs,
    user: install.runAs,
    allowUnfenced,
    busy: (holder, hint) =>
      new TimelineBusy({ directory: layout.root, holder, ...(hint === undefined ? {} : { hint }) })
  }
  const descriptor = yield* makeFolder(layout.root, install.runAs).pipe(
    Effect.andThen(
      holdLock({
        ...request,
        prove: ({ fenced, leftBehind }) => fence(layout, pgdata, fenced || !leftBehind || allowUnfenced)
      })
    ),
    withRoomToClaim(layout, (work) => whileAlone(request, work))
  )
  yield* keepFor(target, descriptor)
})

const claim = Effect.fn("LocalStorage.claim")(function* (shared: Shared, spec: ParsedSpec, target: string) {
  if (spec.mode._tag !== "Primary") {
    return yield* new NotSupported({
      what: `a ${spec.mode._tag.toLowerCase()} compute`,
      because: "local storage keeps one primary and nothing to read from beside it"
    })
  }
  const { admin, directory, durability, every, install, limits, pace, state } = shared
  const layout = layoutOf(path.join(directory, spec.tenant, spec.timeline), install.runAs)
  const pgdata = realPath(target)
  yield* beginBranch(shared, layout, spec)
  const scope = yield* Effect.scope
  yield* announceNew(shared, layout).pipe(
    Effect.andThen(keepOthersOut(shared, layout, target, pgdata)),
    orNameOwner(layout, directory, [directory, path.dirname(layout.root), layout.root, layout.lock])
  )
  const known: KnownFiles = new Map()
  const upkeep = {
    state,
    layout,
    pgdata,
    admin,
    durability,
    limits,
    every,
    known,
    measured: (bytes: number, taken: Duration.Duration) =>
      Ref.set(pace, Math.max(1, bytes / Math.max(1, Duration.toMillis(taken))))
  }
  const withSpawn = Effect.provideService(Spawn, shared.spawn)
  return {
    notes: { folder: layout.root, owner: layout.owner },
    room: {
      make: withRoom(layout),
      giveUp: Effect.ignore(giveUpAll(layout)),
      hint: describeRoom([layout.wal, pgdata], partsIn(layout.root, pgdata), mayBeDeleted(layout))
    },
    commitLsn: () => Effect.succeed(null),
    source: () => ({ _tag: "InPlace", restore: (at) => restore(shared, layout, pgdata, at, scope) }),
    secure: Effect.andThen(secure(shared, layout), withSpawn(makeOverdueBase(upkeep))),
    keep: withSpawn(runWalArchiver(upkeep)),
    leave: (exit, spent) => withSpawn(leave(shared, layout, pgdata, known, exit, spent))
  } satisfies Timeline
})

const layer = (
  options: LocalStorageOptions
): Layer.Layer<Storage, never, ComputeState | Spawn | PostgresInstall | Admin> =>
  Layer.effect(
    Storage,
    Effect.gen(function* () {
      const shared: Shared = {
        state: yield* ComputeState,
        directory: path.resolve(options.directory),
        seedDirectory: path.resolve(options.seedDirectory ?? options.directory),
        durability: options.durability,
        requireExisting: options.requireExisting ?? false,
        allowUnfenced: options.allowUnfenced ?? false,
        limits: { ...defaultBaseLimits, ...options.limits },
        every: options.lookEvery ?? Duration.seconds(5),
        install: yield* PostgresInstall,
        admin: yield* Admin,
        spawn: yield* Spawn,
        stopBudget: options.stopBudget ?? Duration.seconds(8),
        pace: yield* Ref.make(assumedPace)
      }
      return Storage.of({ kind: "local", claim: (spec, pgdata) => claim(shared, spec, pgdata) })
    })
  )

export const LocalStorage = { layer }
