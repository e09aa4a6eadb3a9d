/**
 * Storage for stock Postgres: a folder on this machine that holds a base and all WAL since.
 *
 * PGDATA's pg_wal is a link into that folder, so a commit is durable by Postgres's own flush and PGDATA itself may
 * vanish at any moment. Each start unpacks the base and replays. What it does not keep: settings by ALTER SYSTEM,
 * replication slots, statistics, unlogged tables, tablespaces outside of PGDATA. It does not keep other machines
 * out of a shared folder. The lock on a timeline is released when the scope of its claim closes.
 *
 * Relies on `plan/conf/localSettings.ts` for the settings named in `lay.ts` and `settings.ts`; `secure` checks them.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as path from "node:path"
import { type ExitStatus, NotSupported, TimedOut } from "../../errors/Failure.ts"
import { Admin } from "../../pgwire/Admin.ts"
import { Spawn } from "../../platform/Spawn.ts"
import { PostgresInstall } from "../../postgres/PostgresInstall.ts"
import type { ParsedSpec } from "../../spec/ParsedSpec.ts"
import { Storage, type Timeline } from "../Storage.ts"
import { makeFolder, statOrNull } from "./disk.ts"
import { type Durability, requireSettings } from "./durability.ts"
import { fence, holdLock, realPath } from "./fence.ts"
import { damaged, type Layout, layoutOf, readBase, readBootId, writeReached } from "./layout.ts"
import { coldBackupLabel, copyStopped, flushWal, readShutDown, refuseTablespaces } from "./publishBase.ts"
import { becomeSpare, lay } from "./restoreBase.ts"
import { forgetUnflushed, printWalFile, segmentNumberOf } from "./wal.ts"
import { type BaseLimits, defaultBaseLimits, keepUp } from "./walArchiver.ts"

export interface LocalStorageOptions {
  /** Made when missing. The run-as user must be able to reach it. */
  readonly directory: string
  readonly durability: Durability
  /** What is allowed to gather since the base before a new one is made. */
  readonly limits?: Partial<BaseLimits>
  /** Between two looks at the WAL; 5 s unless told. */
  readonly lookEvery?: Duration.Duration
}

const secureWithin = Duration.seconds(30)
const leaveWithin = Duration.seconds(30)

/** Without a spare, or when it might be lost with the machine, a quarter of the usual limit is worth a cold base. */
const coldBaseShare = 4n

export const layer = (options: LocalStorageOptions): Layer.Layer<Storage, never, Spawn | PostgresInstall | Admin> =>
  Layer.effect(
    Storage,
    Effect.gen(function* () {
      const install = yield* PostgresInstall
      const admin = yield* Admin
      const spawn = yield* Spawn
      const directory = path.resolve(options.directory)
      const limits = { ...defaultBaseLimits, ...options.limits }
      const every = options.lookEvery ?? Duration.seconds(5)
      const { durability } = options
      const wanted = { directory, install, superuser: admin.superuser }

      /** A new session each time: one that is open may not have seen the reload yet. */
      const require = (what: Durability) =>
        Effect.scoped(Effect.flatMap(admin.connect("local_storage"), (wire) => requireSettings(wire, what)))

      const secureWal = Effect.fnUntraced(function* (layout: Layout) {
        // These were written before the start already; what is not so now will not become so.
        yield* require("process")
        if (durability === "process") return
        // The reload was only signalled: for a moment fsync may still be what it was at the start.
        yield* Effect.retry(require("os"), {
          while: (failure) => failure._tag === "NotSupported" || failure._tag === "WireFailed",
          schedule: Schedule.spaced("5 millis").pipe(Schedule.upTo({ duration: "5 seconds" }))
        })
        const base = (yield* readBase(layout)) ?? (yield* damaged(layout, "current.json has vanished"))
        yield* flushWal(layout, segmentNumberOf(base.start, base.current.segmentBytes), base.current.segmentBytes)
        yield* forgetUnflushed(layout)
      })

      const secure = Effect.fn("LocalStorage.secure")(function* (layout: Layout) {
        yield* secureWal(layout).pipe(
          Effect.timeoutOrElse({
            duration: secureWithin,
            orElse: () =>
              Effect.fail(new TimedOut({ what: "making the WAL durable", millis: Duration.toMillis(secureWithin) }))
          })
        )
      })

      const leaveCleanly = Effect.fnUntraced(function* (layout: Layout, pgdata: string) {
        const base = yield* readBase(layout)
        const control = base === null ? null : yield* readShutDown(layout, pgdata)
        // A label that is still there means that recovery did not even begin with it.
        if (base === null || control === null || (yield* statOrNull(`${pgdata}/backup_label`)) !== null) return
        yield* refuseTablespaces(layout, pgdata)
        const { segmentBytes } = base.current
        const last = { pgTimeline: control.pgTimeline, number: segmentNumberOf(control.checkpoint, segmentBytes) }
        yield* writeReached(layout, printWalFile(last, segmentBytes), yield* readBootId)
        const due = (control.redo - base.start) * coldBaseShare > BigInt(limits.walBytes)
        const now = due ? yield* copyStopped(layout, base, pgdata, control) : base
        yield* becomeSpare(layout, now, pgdata, coldBackupLabel(control, segmentBytes))
      })

      /** Everything here only makes the next start faster, so whatever goes wrong is said and let be. */
      const leave = Effect.fn("LocalStorage.leave")(function* (layout: Layout, pgdata: string, exit: ExitStatus) {
        if (exit._tag !== "Code" || exit.code !== 0) return
        yield* leaveCleanly(layout, pgdata).pipe(
          Effect.timeoutOption(leaveWithin),
          Effect.catch((failure) => Effect.logWarning("the next start will be slower", failure))
        )
      })

      const claim = Effect.fn("LocalStorage.claim")(function* (spec: ParsedSpec, pgdata: string) {
        if (spec.mode._tag !== "Primary") {
          return yield* new NotSupported({
            what: `a ${spec.mode._tag.toLowerCase()} compute`,
            because: "local storage keeps one primary and nothing to read from beside it"
          })
        }
        const layout = layoutOf(path.join(directory, spec.tenant, spec.timeline), install.runAs)
        const real = realPath(pgdata)
        yield* makeFolder(layout.root, install.runAs)
        yield* holdLock(layout.lock, install.runAs)
        yield* fence(layout, real)
        const timeline: Timeline = {
          commitLsn: () => Effect.succeed(null),
          source: () => ({
            _tag: "InPlace",
            lay: Effect.fn("LocalStorage.lay")(function* (target: string) {
              // The fence knew where PGDATA would be; a link that has moved since would let two servers write.
              const there = realPath(target)
              if (there !== real) yield* fence(layout, there)
              const laid = yield* lay(layout, there, wanted).pipe(Effect.provideService(Spawn, spawn))
              yield* Effect.annotateCurrentSpan("laid", laid)
            })
          }),
          secure: secure(layout),
          keep: keepUp({ layout, pgdata: real, admin, durability, limits, every }),
          leave: (exit) => leave(layout, real, exit)
        }
        return timeline
      })

      return Storage.of({ kind: "local", claim })
    })
  )

/** The layer under the name the program wires it by. */
export const LocalStorage = { layer }
