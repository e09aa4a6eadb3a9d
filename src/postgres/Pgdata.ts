/**
 * The data directory: wiped and built anew on each start, never trusted, never kept, unless the storage says that it is
 * where the data lies. It outlives us, so that what is left of it can be looked at until the next start.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { BasebackupFailed, type Failure, type FileFailed, type LockUnavailable, PgdataBusy } from "../errors/Failure.ts"
import { policyOf } from "../errors/policy.ts"
import { hasCode, makeFolder, realPath } from "../platform/files.ts"
import { holdFlock, keepFor } from "../platform/flock.ts"
import { holdLock } from "../platform/lock.ts"
import type { RunAs } from "../platform/Spawn.ts"
import { type Lsn, printLsn } from "../spec/identifiers.ts"
import { unpack } from "./basebackup.ts"
import { reportCollectedLog } from "./collectedLog.ts"
import { trustLines } from "./hba.ts"
import { endLeftovers, refuseUnseen } from "./leftovers.ts"
import {
  appendLine,
  copyUnlessThere,
  ensureFolder,
  ensureParents,
  link,
  readText,
  replaceFile,
  wipe
} from "./pgdataFiles.ts"
import { makeSocketFolder, removeSocketFolder } from "./socketFolder.ts"
import type { PgdataFile, StartPlan } from "./startPlan.ts"

/** One attempt at an archive: its bytes, and how long it took to reach who sends it. */
export interface Archive {
  readonly bytes: Stream.Stream<Uint8Array, Failure>
  readonly connectMicros: number
}

/** Where a data directory's content comes from: what storage says and `Pgdata` understands. */
export type PgdataSource =
  /** A gzipped tar, asked for anew on every attempt; PGDATA is wiped before each. */
  | {
      readonly _tag: "Archive"
      readonly lsn: Lsn
      readonly open: Effect.Effect<Archive, Failure, Scope.Scope>
    }
  /** The storage arranges the files itself: afterwards PGDATA holds its data, and its inode is the same. */
  | { readonly _tag: "InPlace"; readonly restore: (pgdata: string) => Effect.Effect<void, Failure> }

/** A sender whose archive leads out of PGDATA would send it again. */
const mayBeCured = (failure: Failure): boolean =>
  policyOf(failure).retry && (failure._tag !== "ArchiveInvalid" || failure.kind !== "escapes")

/**
 * Ten more attempts; after half a second, then half as long again each time: 57 s in all
 * (docs/reference/compute_ctl.md#pgdata).
 */
const basebackupRetries = Schedule.exponential("500 millis", 1.5).pipe(
  Schedule.setInputType<Failure>(),
  Schedule.upTo({ times: 10 }),
  // Before the line that promises another attempt.
  Schedule.while(({ input }) => mayBeCured(input)),
  Schedule.tap(({ attempt, duration, input }) =>
    Effect.logWarning(
      `attempt ${attempt} to get the basebackup failed, the next in ${Math.round(Duration.toMillis(duration))} ms: ` +
        input.message
    )
  )
)

export interface Built {
  /** Bytes of the archive as it came (compressed); 0 when the storage restored the files itself. */
  readonly archiveBytes: number
  /** Of the attempt that succeeded. */
  readonly connectMicros: number
}

export interface PgdataOptions {
  /** Absolute. Missing parents are made. */
  readonly directory: string
  /** Whose the files shall be; only root can give files away, so it is not looked at when we are somebody else. */
  readonly runAs: RunAs | null
  /** Go on where there is no lock that would keep everybody else out. */
  readonly allowUnfenced?: boolean
  /** The folder of our own socket, made for the life of the compute; PGDATA by default. */
  readonly sockets?: string
}

export class Pgdata extends Context.Service<
  Pgdata,
  {
    readonly directory: string
    /**
     * Locks the folder for as long as the scope lives; fails when another compute or another Postgres uses it. Touches
     * nothing. After the storage's own claim, which ends what an earlier compute left.
     */
    readonly claim: (
      source: PgdataSource["_tag"]
    ) => Effect.Effect<void, FileFailed | LockUnavailable | PgdataBusy, Scope.Scope>
    /**
     * When both are claimed: makes the folder (0700, owned by the run-as user). For an archive: empties it and writes
     * the starting files, which `postgres --sync-safekeepers` reads. Otherwise the content is the storage's.
     */
    readonly begin: (plan: StartPlan, source: PgdataSource["_tag"]) => Effect.Effect<void, FileFailed>
    /** Fills it: archive with retries and a wipe before each, or in place; then files, lines, links, signal files. */
    readonly build: (plan: StartPlan, source: PgdataSource) => Effect.Effect<Built, Failure>
    /**
     * Replaces files one by one, each at once or not at all. Answers what the changed ones held before (nothing: none
     * changed; a file that was not there: as if empty), so that rewriting with the answer takes it back.
     */
    readonly rewrite: (files: ReadonlyArray<PgdataFile>) => Effect.Effect<ReadonlyArray<PgdataFile>, FileFailed>
  }
>()("compute/pgdata/Pgdata") {
  static readonly layer = (options: PgdataOptions): Layer.Layer<Pgdata> =>
    Layer.sync(Pgdata, () => Pgdata.of(make(options)))
}

const make = (options: PgdataOptions): Pgdata["Service"] => {
  const { allowUnfenced = false, directory, runAs, sockets = directory } = options
  const owner = process.getuid?.() === 0 ? runAs : null

  const write = (files: ReadonlyArray<PgdataFile>) =>
    Effect.forEach(files, ({ content, name }) => replaceFile(directory, name, content, owner), { discard: true })

  const fetch = Effect.fn("Pgdata.fetch")(function* (open: Effect.Effect<Archive, Failure, Scope.Scope>) {
    yield* wipe(directory)
    const { bytes, connectMicros } = yield* open
    return { archiveBytes: yield* unpack(bytes, directory, owner), connectMicros } satisfies Built
  }, Effect.scoped)

  /** An archive may fail at its last byte, so only a whole one counts, and each attempt begins with an empty folder. */
  const fetchWithRetries = (lsn: Lsn, open: Effect.Effect<Archive, Failure, Scope.Scope>) =>
    Effect.suspend(() => {
      let attempts = 0
      return Effect.suspend(() => {
        attempts += 1
        return fetch(open)
      }).pipe(
        Effect.retry(basebackupRetries),
        Effect.mapError((cause) => {
          const hint = cause._tag === "PageserverRefused" ? { hint: cause.hint } : {}
          return isSendersFault(cause) ? new BasebackupFailed({ lsn: printLsn(lsn), attempts, cause, ...hint }) : cause
        })
      )
    })

  const fill = (source: PgdataSource): Effect.Effect<Built, Failure> =>
    source._tag === "Archive"
      ? fetchWithRetries(source.lsn, source.open)
      : Effect.as(source.restore(directory), { archiveBytes: 0, connectMicros: 0 })

  return {
    directory,
    claim: Effect.fn("Pgdata.claim")(function* (source: PgdataSource["_tag"]) {
      yield* ensureParents(directory)
      yield* keepFor(directory, yield* lock({ directory, owner, runAs, allowUnfenced, source }))
      if (sockets !== directory) yield* Effect.addFinalizer(() => removeSocketFolder(sockets))
    }),
    begin: Effect.fn("Pgdata.begin")(function* (plan: StartPlan, source: PgdataSource["_tag"]) {
      yield* reportCollectedLog(directory)
      yield* ensureFolder(directory, owner)
      if (sockets !== directory) yield* makeSocketFolder(sockets, owner)
      if (source === "InPlace") return
      yield* wipe(directory)
      yield* write(plan.starting)
    }),
    build: Effect.fn("Pgdata.build")(function* (plan: StartPlan, source: PgdataSource) {
      const built = yield* fill(source)
      yield* write(plan.starting)
      yield* completeBasebackup(directory, plan, owner)
      if (plan.linkDynshmem) yield* link(directory, "pg_dynshmem", "/dev/shm/", owner)
      for (const name of plan.signalFiles) yield* replaceFile(directory, name, "", owner)
      // Archives of older timelines bring Neon's signal file under its older name.
      yield* copyUnlessThere(directory, "zenith.signal", "neon.signal", owner)
      return built
    }),
    rewrite: rewriter(directory, owner)
  }
}

const rewriter = (directory: string, owner: RunAs | null) =>
  Effect.fn("Pgdata.rewrite")(function* (files: ReadonlyArray<PgdataFile>) {
    const before: Array<PgdataFile> = []
    for (const { content, name } of files) {
      const old = yield* readText(directory, name)
      if (yield* replaceFile(directory, name, content, owner)) before.push({ name, content: old })
    }
    return before
  })

/** Its pg_hba.conf is the pageserver's; where it is open shall be no surprise. */
const completeBasebackup = Effect.fnUntraced(function* (directory: string, plan: StartPlan, owner: RunAs | null) {
  if (plan.appended.length === 0) return
  for (const { line, name } of plan.appended) yield* appendLine(directory, name, line, owner)
  const lines = trustLines(yield* readText(directory, "pg_hba.conf"))
  if (lines.length === 0) return
  yield* Effect.logInfo(
    `pg_hba.conf of the basebackup lets these log in without a password: ${lines.join("; ")}. ` +
      "Every account that can connect so may be the superuser"
  )
})

/** Folders in which we may make nothing: PGDATA is a mount, for example, and we are not root. */
const unwritable = ["EACCES", "EPERM", "EROFS"] as const

interface LockOf {
  readonly directory: string
  readonly owner: RunAs | null
  readonly runAs: RunAs | null
  readonly allowUnfenced: boolean
  readonly source: PgdataSource["_tag"]
}

/**
 * The lock lies beside PGDATA, because PGDATA is emptied. Where nothing can be made there (PGDATA is a mount, and we
 * are not root) PGDATA itself is locked; then nobody knows whether what lives there was left behind.
 */
const lock = Effect.fnUntraced(function* ({ allowUnfenced, directory, owner, runAs, source }: LockOf) {
  const real = realPath(directory)
  const busy = (holder: string, hint?: string) =>
    new PgdataBusy({
      directory: real,
      holder: `another compute (${holder})`,
      ...(hint === undefined ? {} : { hint })
    })
  const common = { owner, user: runAs, allowUnfenced, busy }
  // Local storage has ended what belongs to its timeline, wherever that was.
  const prove = (leftBehind: boolean) => (source === "Archive" ? endLeftovers(real, leftBehind) : refuseUnseen(real))
  const beside = yield* makeFolder(`${real}.lock`, owner).pipe(
    Effect.as(true),
    Effect.catchIf(
      (failure) => hasCode(failure, ...unwritable),
      () => Effect.succeed(false)
    )
  )
  if (beside) {
    return yield* holdLock({ ...common, lock: `${real}.lock`, prove: ({ leftBehind }) => prove(leftBehind) })
  }
  const descriptor = yield* holdFlock({ ...common, file: real, leftoversOnly: false })
  yield* prove(false)
  return descriptor
})

/** A failure of the archive or of who sends it; all others are the spec's or this machine's. */
const isSendersFault = (failure: Failure): boolean =>
  failure._tag === "WireFailed" ||
  failure._tag === "TimedOut" ||
  failure._tag === "ArchiveInvalid" ||
  failure._tag === "PageserverRefused"
