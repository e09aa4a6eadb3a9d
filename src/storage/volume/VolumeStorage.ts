/**
 * Storage for stock Postgres whose data files stay where they are: PGDATA lies on a volume, and nothing is ever copied.
 *
 * A start still is a fresh one for everything that is not data: it is removed and made from the spec. The data files
 * are put right by Postgres's own crash recovery, with fsync on from the first second to the last. Before Postgres is
 * started it is proven that nobody else writes, that the data is this timeline's, and that replay will reach all WAL
 * that is known to have been flushed. What a start costs depends on the WAL since the last checkpoint, not on the size
 * of the database. The lock on the volume is released when the scope of its claim closes.
 *
 * Relies on `postgres/localConf.ts` for its settings; `secure` checks them in the running server.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ComputeState } from "../../compute/ComputeState.ts"
import {
  type ExitStatus,
  type FileFailed,
  type LockUnavailable,
  NotSupported,
  StorageMissing,
  TimelineBusy
} from "../../errors/Failure.ts"
import { within } from "../../errors/within.ts"
import { Admin } from "../../pgwire/Admin.ts"
import { realPath } from "../../platform/files.ts"
import { keepFor } from "../../platform/flock.ts"
import { holdLock, type LockRequest, whileAlone } from "../../platform/lock.ts"
import { readBootId } from "../../platform/processes.ts"
import { Spawn } from "../../platform/Spawn.ts"
import { ensureFolder } from "../../postgres/pgdataFiles.ts"
import { PostgresInstall } from "../../postgres/PostgresInstall.ts"
import type { ParsedSpec } from "../../spec/ParsedSpec.ts"
import { flushFileSystem } from "../local/baseFolder.ts"
import { statOrNull } from "../local/disk.ts"
import { requireSettings, restoreSettings } from "../local/durability.ts"
import { followWal, walChangedAt } from "../local/followWal.ts"
import { damaged } from "../local/layout.ts"
import { connectToCluster } from "../local/publishBase.ts"
import { advanceReached } from "../local/reached.ts"
import { givingUp, hasFree, orNameOwner } from "../local/room.ts"
import { describeRoom } from "../local/roomReport.ts"
import { watchRoom } from "../local/roomWatch.ts"
import { printWalFile, segmentNumberOf } from "../local/walSegments.ts"
import { Storage, type Timeline } from "../Storage.ts"
import { finishFirst, makeFirstCluster } from "./firstStart.ts"
import { removeTransient } from "./freshStart.ts"
import { readRecord, stateOf, type VolumeLayout, volumeLayout, type VolumeRecord, type VolumeState } from "./layout.ts"
import { forgetPostmaster, notePostmaster, notePostmasterToCome, proveAlone } from "./prove.ts"
import { giveUpReserve, keepReserve, partsOf } from "./reserve.ts"
import {
  readControl,
  refuseUnknown,
  replayOf,
  requireOwnFiles,
  requireSameMajor,
  requireSameSystem,
  requireSameTimeline,
  requireTablespaces,
  requireWal
} from "./verify.ts"

export interface VolumeStorageOptions {
  /** Where seed clusters are kept from one new volume to the next; may be a folder that cannot be written to. */
  readonly seedDirectory: string
  /** Fail instead of beginning a new timeline. */
  readonly requireExisting?: boolean
  /** Go on where there is no lock that would keep everybody else out. */
  readonly allowUnfenced?: boolean
  /** Between two looks at the settings; 5 s by default. */
  readonly lookEvery?: Duration.Duration
}

interface Shared {
  readonly state: ComputeState["Service"]
  readonly seedDirectory: string
  readonly requireExisting: boolean
  readonly allowUnfenced: boolean
  readonly every: Duration.Duration
  readonly install: PostgresInstall["Service"]
  readonly admin: Admin["Service"]
  readonly spawn: Spawn["Service"]
}

const secureWithin = Duration.seconds(30)

/** A volume that was not mounted looks like one that nobody has used yet. */
const announceNew = Effect.fnUntraced(function* (
  { requireExisting }: Shared,
  layout: VolumeLayout,
  state: VolumeState
) {
  if (state._tag !== "New") return
  const detail = !state.exists
    ? "there is no such folder"
    : state.began
      ? "its first start has not ended"
      : "there is no cluster in it"
  if (requireExisting) return yield* new StorageMissing({ directory: layout.root, detail })
  yield* Effect.logWarning(
    `a new and empty timeline is begun on the volume at ${layout.root}, because ${detail}; if there should be data, ` +
      "stop this compute: the volume may not be mounted (--require-existing refuses instead)"
  )
})

/** Made when it is missing. One that we may not use is refused before anything is put into it. */
const requirePgdata = Effect.fnUntraced(function* (layout: VolumeLayout) {
  const stat = yield* statOrNull(layout.root)
  const uid = process.geteuid?.()
  if (stat === null || (uid !== 0 && stat.uid !== uid)) yield* ensureFolder(layout.root, layout.owner)
})

const nothingToDelete = "nothing in it may be deleted by hand; WAL least of all: without it there is no recovery"

const fullHint = (layout: VolumeLayout): string =>
  `make room on the file system of ${layout.root} (bytes or inodes), or make it larger; ${nothingToDelete}`

/** Because there is no room. */
const spendReserve = Effect.fnUntraced(function* (layout: VolumeLayout) {
  if (!(yield* giveUpReserve(layout))) return
  yield* Effect.logWarning(
    `the disk is full: gave up the reserve in ${layout.ours}, so that Postgres can recover; make room on the file ` +
      "system, or make it larger, before Postgres uses that up, too"
  )
})

/** The lock, and with it the proof that nobody else writes; Postgres inherits it. */
const keepOthersOut = Effect.fnUntraced(function* (shared: Shared, layout: VolumeLayout, target: string) {
  const { allowUnfenced, install } = shared
  const request: Omit<LockRequest<TimelineBusy, never, never>, "prove"> = {
    lock: layout.lock,
    owner: install.runAs,
    user: install.runAs,
    allowUnfenced,
    busy: (holder, hint) =>
      new TimelineBusy({ directory: layout.root, holder, ...(hint === undefined ? {} : { hint }) })
  }
  const descriptor = yield* requirePgdata(layout).pipe(
    Effect.andThen(holdLock({ ...request, prove: (before) => proveAlone(layout, before, allowUnfenced) })),
    // Where there is no room to claim anything, the flock alone is proof enough.
    givingUp<FileFailed | LockUnavailable | TimelineBusy, never>(fullHint(layout), [
      whileAlone(request, spendReserve(layout))
    ])
  )
  yield* keepFor(target, descriptor)
})

/** The record of what lies here, a new cluster's on the first start. */
const findCluster = Effect.fnUntraced(function* (shared: Shared, layout: VolumeLayout, spec: ParsedSpec) {
  const { admin, install, seedDirectory } = shared
  // Another compute may have come first since the claim looked, and gone again.
  const state = yield* stateOf(layout)
  yield* refuseUnknown(layout, state)
  if (state._tag === "New") {
    const wanted = { directory: seedDirectory, install, superuser: admin.superuser, checksums: true }
    yield* Effect.provideService(makeFirstCluster(layout, spec, wanted), Spawn, shared.spawn)
  }
  yield* finishFirst(layout)
  return (yield* readRecord(layout)) ?? (yield* damaged(layout, "the record of the first start has vanished"))
})

const restore = Effect.fn("VolumeStorage.restore")(function* (
  shared: Shared,
  layout: VolumeLayout,
  spec: ParsedSpec,
  target: string
) {
  if (realPath(target) !== layout.root) {
    return yield* new TimelineBusy({ directory: layout.root, holder: `whoever moved ${target} during the start` })
  }
  const record = yield* findCluster(shared, layout, spec)
  yield* requireSameTimeline(layout, record, spec)
  yield* requireSameMajor(layout, record, shared.install.major)
  const control = yield* readControl(layout)
  yield* requireSameSystem(layout, record, control)
  yield* requireOwnFiles(layout)
  yield* requireTablespaces(layout)
  yield* requireWal(layout, yield* replayOf(layout, record, control))
  if (!(yield* hasFree(layout))) yield* spendReserve(layout)
  // Also where there seems to be room: what a quota leaves is seen by nobody, and the reserve is soon there again.
  else if (!control.shutDown) yield* giveUpReserve(layout)
  // Until here nothing of the cluster has been changed.
  yield* removeTransient(layout)
  yield* notePostmasterToCome(layout)
})

const requireRecord = Effect.fnUntraced(function* (layout: VolumeLayout) {
  return (yield* readRecord(layout)) ?? (yield* damaged(layout, "volume.json has vanished while Postgres runs"))
})

/** A session with the cluster on this volume. */
const connect = Effect.fnUntraced(function* ({ admin }: Shared, layout: VolumeLayout, { systemId }: VolumeRecord) {
  return yield* connectToCluster(admin, layout, { current: { systemId } })
})

const secure = Effect.fn("VolumeStorage.secure")(
  function* (shared: Shared, layout: VolumeLayout) {
    const record = yield* requireRecord(layout)
    const wire = yield* connect(shared, layout, record)
    yield* requireSettings(wire, "volume")
    yield* notePostmaster(layout)
  },
  Effect.scoped,
  within("securing the volume", secureWithin)
)

/**
 * What somebody changed so that commits could be lost is taken back, and what was written meanwhile is flushed. The
 * disk is looked at on the same round.
 */
const keepSettings = Effect.fnUntraced(function* (shared: Shared, layout: VolumeLayout, record: VolumeRecord) {
  const look = Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* connect(shared, layout, record)
      // Not only WAL: without fsync, checkpoints do not flush data files either, wherever these are.
      if (yield* restoreSettings(wire, "volume")) yield* flushFileSystem([])
    })
  )
  let changedAt = -1
  const reserve = keepReserve(layout, record)
  return yield* Effect.forever(
    Effect.gen(function* () {
      yield* watchRoom({ state: shared.state, folder: layout.wal, keepReserve: reserve })
      const changed = yield* walChangedAt(layout)
      if (changed === changedAt) return
      yield* look
      changedAt = changed
    }).pipe(
      // A look that did not succeed is repeated; only a broken promise ends the actor.
      Effect.catchTags({
        WireFailed: (failure) => Effect.logDebug("could not look at the settings", failure),
        TimedOut: (failure) => Effect.logDebug("could not look at the settings", failure)
      }),
      Effect.andThen(Effect.sleep(shared.every))
    )
  )
})

/** Never returns; fails only when durability can no longer be had. */
const keep = Effect.fnUntraced(function* (shared: Shared, layout: VolumeLayout) {
  const record = yield* requireRecord(layout)
  const { pgTimeline } = yield* readControl(layout)
  const followed = Effect.map(connect(shared, layout, record), (wire) => ({
    wire,
    segmentBytes: record.segmentBytes,
    pgTimeline,
    isFlushed: true
  }))
  return yield* Effect.raceFirst(keepSettings(shared, layout, record), followWal(layout, followed))
})

/** Nothing has to be published; that all WAL is there is noted for the next start. */
const leave = Effect.fn("VolumeStorage.leave")(function* (layout: VolumeLayout, exit: ExitStatus) {
  if (exit._tag !== "Code" || exit.code !== 0) return
  const record = yield* requireRecord(layout)
  const { checkpoint, pgTimeline, shutDown } = yield* readControl(layout)
  if (!shutDown) return
  const { segmentBytes } = record
  const segment = printWalFile({ pgTimeline, number: segmentNumberOf(checkpoint, segmentBytes) }, segmentBytes)
  yield* advanceReached(layout, yield* readBootId, { segment, lsn: checkpoint + 1n, flushed: true })
  yield* forgetPostmaster(layout)
})

/** Refuses what is not this timeline's, or not there, before the lock. */
const begin = Effect.fnUntraced(function* (shared: Shared, layout: VolumeLayout, spec: ParsedSpec, target: string) {
  const state = yield* stateOf(layout)
  yield* refuseUnknown(layout, state)
  yield* announceNew(shared, layout, state)
  // It never changes once it is there, so it is asked before the lock of somebody else's volume is even tried.
  const record = yield* readRecord(layout)
  if (record !== null) yield* requireSameTimeline(layout, record, spec)
  yield* keepOthersOut(shared, layout, target)
})

const claim = Effect.fn("VolumeStorage.claim")(function* (shared: Shared, spec: ParsedSpec, target: string) {
  if (spec.mode._tag !== "Primary") {
    return yield* new NotSupported({
      what: `a ${spec.mode._tag.toLowerCase()} compute`,
      because: "a volume keeps one primary and nothing to read from beside it"
    })
  }
  if (spec.ancestor !== null) {
    return yield* new NotSupported({
      what: "ancestor_timeline_id",
      because: "a volume has one copy of the data, and nothing to branch from"
    })
  }
  const layout = volumeLayout(realPath(target), shared.install.runAs)
  yield* begin(shared, layout, spec, target).pipe(
    orNameOwner(layout, layout.root, [layout.root, layout.ours, layout.lock])
  )
  const withSpawn = Effect.provideService(Spawn, shared.spawn)
  return {
    room: {
      make: givingUp(fullHint(layout), [spendReserve(layout)]),
      // A start that recovers does, and has more of it when nobody writes meanwhile.
      giveUp: Effect.void,
      hint: describeRoom([layout.root], partsOf(layout), nothingToDelete)
    },
    commitLsn: () => Effect.succeed(null),
    source: () => ({ _tag: "InPlace", restore: (at) => restore(shared, layout, spec, at) }),
    secure: secure(shared, layout),
    keep: withSpawn(keep(shared, layout)),
    leave: (exit) => leave(layout, exit)
  } satisfies Timeline
})

const layer = (
  options: VolumeStorageOptions
): Layer.Layer<Storage, never, ComputeState | Spawn | PostgresInstall | Admin> =>
  Layer.effect(
    Storage,
    Effect.gen(function* () {
      const shared: Shared = {
        state: yield* ComputeState,
        seedDirectory: options.seedDirectory,
        requireExisting: options.requireExisting ?? false,
        allowUnfenced: options.allowUnfenced ?? false,
        every: options.lookEvery ?? Duration.seconds(5),
        install: yield* PostgresInstall,
        admin: yield* Admin,
        spawn: yield* Spawn
      }
      return Storage.of({ kind: "volume", claim: (spec, pgdata) => claim(shared, spec, pgdata) })
    })
  )

export const VolumeStorage = { layer }
