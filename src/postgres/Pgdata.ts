/**
 * The data directory: wiped and built anew on each start, never trusted, never kept.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { BasebackupFailed, type Failure, type FileFailed } from "../errors/Failure.ts"
import type { RunAs } from "../platform/Spawn.ts"
import { type Lsn, printLsn } from "../spec/identifiers.ts"
import { unpack } from "./basebackup.ts"
import { appendLine, copyUnlessThere, ensureFolder, link, readText, replaceFile, wipe } from "./pgdataFiles.ts"
import type { PgdataFile, StartPlan } from "./startPlan.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Where a data directory's content comes from: the one thing that `storage` says and `pgdata` understands.
// ---------------------------------------------------------------------------------------------------------------------

/** One attempt at an archive: its bytes, and how long it took to reach who sends it. */
export interface Archive {
  readonly bytes: Stream.Stream<Uint8Array, Failure>
  readonly connectMicros: number
}

export type PgdataSource =
  /** A gzipped tar, asked for anew on every attempt; PGDATA is wiped before each. */
  | {
      readonly _tag: "Archive"
      readonly lsn: Lsn
      readonly open: Effect.Effect<Archive, Failure, Scope.Scope>
    }
  /** The storage arranges the files itself: afterwards PGDATA holds exactly its base, and its inode is the same. */
  | { readonly _tag: "InPlace"; readonly lay: (pgdata: string) => Effect.Effect<void, Failure> }

// ---------------------------------------------------------------------------------------------------------------------
// How often, and after which pauses, the parts of a start are tried again (reference sections 4.6 and 4.7).
//
// A schedule is the list of pauses between attempts: one attempt more than it has pauses.
// ---------------------------------------------------------------------------------------------------------------------

/** `postgres --sync-safekeepers`: six attempts; the first retry is at once, the later ones wait a little longer each. */
export const settlePauses: ReadonlyArray<Duration.Duration> = Array.from({ length: 5 }, (_, retry) =>
  Duration.millis(retry === 0 ? 0 : Math.min(1000 * 1.1 ** retry, 3000))
)

/** The basebackup: eleven attempts, half a second, then half as long again each time: 57 s of pauses in all. */
export const basebackupPauses: ReadonlyArray<Duration.Duration> = Array.from({ length: 10 }, (_, retry) =>
  Duration.millis(500 * 1.5 ** retry)
)

// ---------------------------------------------------------------------------------------------------------------------

export interface Built {
  /** Bytes of the archive as it came (compressed); 0 when the storage laid the files itself. */
  readonly archiveBytes: number
  /** Of the attempt that succeeded. */
  readonly connectMicros: number
}

export interface PgdataOptions {
  /** Absolute. Missing parents are made. */
  readonly directory: string
  /** Whose the files shall be; only root can give files away, so it is not looked at when we are somebody else. */
  readonly runAs: RunAs | null
}

/** What a corridor asked of an imaginary PGDATA. */
export type PgdataCall =
  | { readonly _tag: "Begin"; readonly source: PgdataSource["_tag"]; readonly plan: StartPlan }
  | { readonly _tag: "Build"; readonly source: PgdataSource["_tag"]; readonly plan: StartPlan }
  | { readonly _tag: "Rewrite"; readonly files: ReadonlyArray<PgdataFile> }

export class Pgdata extends Context.Service<
  Pgdata,
  {
    readonly directory: string
    /**
     * Makes the folder (0700, owned by the run-as user). For an archive: empties it and writes the starting files,
     * which `postgres --sync-safekeepers` reads. For files laid in place: leaves the content to the storage.
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

  /** Keeps what it was asked for in `calls`; reads an archive to its end, and unpacks nothing. */
  static readonly layerMemory = (calls: Array<PgdataCall>): Layer.Layer<Pgdata> =>
    Layer.sync(Pgdata, () => Pgdata.of(makeMemory(calls)))
}

const make = ({ directory, runAs }: PgdataOptions): Pgdata["Service"] => {
  const owner = process.getuid?.() === 0 ? runAs : null

  const write = (files: ReadonlyArray<PgdataFile>) =>
    Effect.forEach(files, ({ content, name }) => replaceFile(directory, name, content, owner), { discard: true })

  const rewrite = Effect.fn("Pgdata.rewrite")(function* (files: ReadonlyArray<PgdataFile>) {
    const before: Array<PgdataFile> = []
    for (const { content, name } of files) {
      const old = yield* readText(directory, name)
      if (yield* replaceFile(directory, name, content, owner)) before.push({ name, content: old })
    }
    return before
  })

  const fetch = Effect.fn("Pgdata.fetch")(function* (open: Effect.Effect<Archive, Failure, Scope.Scope>) {
    yield* wipe(directory)
    const { bytes, connectMicros } = yield* open
    return { archiveBytes: yield* unpack(bytes, directory, owner), connectMicros } satisfies Built
  }, Effect.scoped)

  /** An archive may fail at its last byte, so only a whole one counts, and each attempt begins with an empty folder. */
  const fetchWithRetries = Effect.fnUntraced(function* (lsn: Lsn, open: Effect.Effect<Archive, Failure, Scope.Scope>) {
    for (let attempts = 1; ; attempts++) {
      const result = yield* Effect.result(fetch(open))
      if (result._tag === "Success") return result.success
      const cause = result.failure
      if (!isSendersFault(cause)) return yield* Effect.fail(cause)
      const pause = basebackupPauses[attempts - 1]
      if (pause === undefined || !mayBeCured(cause))
        return yield* new BasebackupFailed({ lsn: printLsn(lsn), attempts, cause })
      yield* Effect.logWarning(
        `attempt ${attempts} to get the basebackup failed, the next in ${Math.round(Duration.toMillis(pause))} ms: ${cause.message}`
      )
      yield* Effect.sleep(pause)
    }
  })

  const fill = (source: PgdataSource): Effect.Effect<Built, Failure> =>
    source._tag === "Archive"
      ? fetchWithRetries(source.lsn, source.open)
      : Effect.as(source.lay(directory), { archiveBytes: 0, connectMicros: 0 })

  return {
    directory,
    begin: Effect.fn("Pgdata.begin")(function* (plan: StartPlan, source: PgdataSource["_tag"]) {
      yield* ensureFolder(directory, owner)
      if (source === "InPlace") return
      yield* wipe(directory)
      yield* write(plan.starting)
    }),
    build: Effect.fn("Pgdata.build")(function* (plan: StartPlan, source: PgdataSource) {
      const built = yield* fill(source)
      yield* write(plan.starting)
      for (const { line, name } of plan.appended) yield* appendLine(directory, name, line, owner)
      if (plan.linkDynshmem) yield* link(directory, "pg_dynshmem", "/dev/shm/", owner)
      for (const name of plan.signalFiles) yield* replaceFile(directory, name, "", owner)
      // Archives of older timelines bring Neon's signal file under its older name.
      yield* copyUnlessThere(directory, "zenith.signal", "neon.signal", owner)
      return built
    }),
    rewrite
  }
}

/** A failure of the archive or of who sends it; all others are the spec's or this machine's. */
const isSendersFault = (failure: Failure): boolean =>
  failure._tag === "WireFailed" || failure._tag === "TimedOut" || failure._tag === "ArchiveInvalid"

/** What a gRPC service goes on saying. */
const final: ReadonlyArray<string | undefined> = ["UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"]

/** A sender that tries to leave PGDATA would try again; one that refuses our token (SQLSTATE class 28) will go on refusing. */
const mayBeCured = (failure: Failure): boolean =>
  failure._tag === "ArchiveInvalid"
    ? failure.kind !== "escapes"
    : failure._tag !== "WireFailed" ||
      (failure.sqlState?.startsWith("28") !== true && !final.includes(failure.grpcStatus))

const makeMemory = (calls: Array<PgdataCall>): Pgdata["Service"] => {
  const content = new Map<string, string>()
  const write = (files: ReadonlyArray<PgdataFile>): ReadonlyArray<PgdataFile> => {
    const before = files
      .filter((file) => content.get(file.name) !== file.content)
      .map(({ name }) => ({ name, content: content.get(name) ?? "" }))
    for (const file of files) content.set(file.name, file.content)
    return before
  }
  const directory = "/memory/pgdata"
  return {
    directory,
    begin: (plan, source) => Effect.sync(() => void calls.push({ _tag: "Begin", source, plan })),
    build: Effect.fnUntraced(function* (plan: StartPlan, source: PgdataSource) {
      calls.push({ _tag: "Build", source: source._tag, plan })
      write(plan.starting)
      if (source._tag === "InPlace") {
        yield* source.lay(directory)
        return { archiveBytes: 0, connectMicros: 0 }
      }
      const { bytes, connectMicros } = yield* source.open
      const archiveBytes = yield* Stream.runFold(
        bytes,
        () => 0,
        (sum, piece) => sum + piece.length
      )
      return { archiveBytes, connectMicros }
    }, Effect.scoped),
    rewrite: (files) =>
      Effect.sync(() => {
        calls.push({ _tag: "Rewrite", files })
        return write(files)
      })
  }
}
