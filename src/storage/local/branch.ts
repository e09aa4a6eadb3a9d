/**
 * A branch: a new timeline that begins with what another one holds, up to its end or to an LSN, while that one runs or
 * not (docs/branches.md).
 *
 * It shares the other's base and its complete segments of WAL by second names, because nobody writes to them: who would
 * write to a file of a base replaces one that has two names, and `ownWal` does the same for WAL before each start. What
 * Postgres may be writing to now is copied. The other timeline is only read. That what was shared is the base that
 * counts, and WAL that is complete, is seen afterwards: then nothing of it had been written to before it had its second
 * name.
 *
 * Everything is made and flushed in a folder whose name no start looks for, and gets its name last.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as path from "node:path"
import { BranchRefused, type Failure, type FileFailed, StorageMissing } from "../../errors/Failure.ts"
import { within } from "../../errors/within.ts"
import { hasCode, makeFolder, namesIn, textOrNull } from "../../platform/files.ts"
import { readBootId } from "../../platform/processes.ts"
import type { RunAs, Spawn } from "../../platform/Spawn.ts"
import { type Lsn, printLsn, type TenantId, type TimelineId } from "../../spec/identifiers.ts"
import { flushCopy, readManifest } from "./baseFolder.ts"
import { flush, Lasting, removeTree, rename, replaceUnflushed, statOrNull } from "./disk.ts"
import { draftPath, draftWithin, removeDrafts } from "./drafts.ts"
import { failpoint } from "./failpoint.ts"
import { type Base, damaged, type Layout, layoutOf, readBase } from "./layout.ts"
import type { Manifest } from "./manifest.ts"
import { paced } from "./pacing.ts"
import { type Reached, readReached, writeReached } from "./reached.ts"
import { shareFiles } from "./secondNames.ts"
import { putFolders } from "./treeFiles.ts"
import { flushWal, followChain } from "./wal.ts"
import { recordBefore, walkChain } from "./walChain.ts"
import { printWalFile, segmentNumberBefore, segmentNumberOf } from "./walSegments.ts"
import { cutWal, takeWal } from "./walSnapshot.ts"

export interface BranchRequest {
  /** The folder of local storage. */
  readonly storage: string
  readonly tenantId: TenantId
  readonly from: TimelineId
  /** Must not be there yet. */
  readonly to: TimelineId
  /** Every record that ends at or before it. Without it everything that was acknowledged, and maybe a little more. */
  readonly at?: Lsn
}

export interface Branch {
  /** Where its history leaves that of the other: the end of the last record of both. */
  readonly lsn: Lsn
}

/** What `ancestor.json` says: which timeline it is a branch of, from which LSN, and since when. */
const Ancestor = Schema.Struct({ timeline: Schema.String, lsn: Schema.String, made: Schema.String })
const decodeAncestor = Schema.decodeUnknownOption(Schema.fromJsonString(Ancestor))

/** `null` of one that is no branch. One that cannot be read is as good as none: nothing depends on it. */
export const readAncestor = (root: string): Effect.Effect<typeof Ancestor.Type | null, FileFailed> =>
  Effect.map(textOrNull(`${root}/ancestor.json`), (text) =>
    text === null ? null : Option.getOrNull(decodeAncestor(text))
  )

/** Made once in so many ways: a base that is replaced meanwhile, a start meanwhile. */
const looks = 5
/** Of an LSN that Postgres says of itself at the beginning of a page it has not written: the page's header. */
const headerBytes = 40n

const refuse = (detail: string, hint: string) => Effect.fail(new BranchRefused({ detail, hint }))

/** What was there when the branch was begun, and must still be so when it has taken what it shares. */
interface Seen {
  readonly current: string | null
  readonly reached: Reached | null
}

const look = (from: Layout): Effect.Effect<Seen, Failure> =>
  Effect.all({ current: textOrNull(from.current), reached: readReached(from) })

/** A start that gave up the end of its WAL goes on before where it was. */
const isStill = (before: Seen, after: Seen): boolean =>
  before.current === after.current &&
  (before.reached?.written ?? 0n) <= (after.reached?.written ?? 0n) &&
  before.reached?.stale === after.reached?.stale

/** Folders of the base in the draft, and what they hold. */
const shareBase = Effect.fnUntraced(function* (
  from: Layout,
  base: Base,
  draft: Layout
): Effect.fn.Return<Manifest | null, Failure> {
  const { current } = base
  if (current.format === 1) {
    yield* paced("share", `${from.root}/${current.tar}`, "urgent", (pacer) =>
      shareFiles(pacer, from.root, draft.root, [current.tar], draft.owner)
    )
    return null
  }
  const folder = `${from.root}/${current.folder}`
  const target = `${draft.root}/${current.folder}`
  const manifest = yield* Effect.mapError(readManifest(folder, current.manifest, "urgent"), (how) =>
    damaged(from, `${current.folder}/manifest ${how}`)
  )
  yield* makeFolder(`${target}/pgdata`, draft.owner)
  yield* paced("share", folder, "urgent", async (pacer) => {
    await putFolders(pacer, `${target}/pgdata`, manifest.folders, draft.owner)
    await shareFiles(pacer, `${folder}/pgdata`, `${target}/pgdata`, manifest.files.keys(), draft.owner)
    await shareFiles(pacer, folder, target, ["manifest"], draft.owner)
  })
  return manifest
})

const noLongerHeld = (base: Base, at: Lsn) =>
  refuse(
    `${printLsn(at)} is no longer held: the base needs WAL up to ${printLsn(base.stop)}`,
    "give a later LSN; what a base has taken the place of does not come back"
  )

/** Replay in the branch would write to the files that the other timeline has there. */
const refuseTablespace = () =>
  refuse(
    "a tablespace outside of the data directory was made since the last base, and both would write to its files",
    "drop the tablespace, and let the next base be made; or give an LSN from before it"
  )

/** Is it known, without reading its WAL, that it has no tablespace now? */
const hasNoTablespace = Effect.fnUntraced(function* (from: Layout) {
  const pgdata = (yield* textOrNull(from.starts))?.trim() ?? ""
  if ((yield* statOrNull(`${pgdata}/pg_tblspc`))?.isDirectory() !== true) return false
  return (yield* namesIn(`${pgdata}/pg_tblspc`)).length === 0
})

/**
 * Where to begin to look for the end. All of the WAL is read at each start, at some 400 MB a second; a branch of what
 * Postgres has written in this boot needs the last of it only, and is refused at its start if something before that is
 * damaged.
 */
const lookFrom = Effect.fnUntraced(function* (from: Layout, base: Base, wal: string, reached: Reached | null) {
  const { segmentBytes } = base.current
  if (reached === null || reached.bootId === null || reached.bootId !== (yield* readBootId)) return base.start
  if (!(yield* hasNoTablespace(from))) return base.start
  const folder = { folder: wal, segmentBytes, pgTimeline: base.pgTimeline }
  const found = reached.written <= base.stop ? null : yield* recordBefore(folder, reached.written)
  return found === null || found < base.stop ? base.start : found
})

/** Where the branch ends: the chain in `wal`, a copy that nobody writes to, is followed as replay will follow it. */
const findEnd = Effect.fnUntraced(function* (
  from: Layout,
  { base, seen: { reached } }: Taken,
  wal: string,
  at: Lsn | undefined
): Effect.fn.Return<Lsn, Failure> {
  if (at === undefined) {
    const begin = yield* lookFrom(from, base, wal, reached)
    const { end, loss } = yield* followChain({ ...from, wal }, base, begin, yield* readBootId, reached)
    if (end.hasTablespace) return yield* refuseTablespace()
    if (loss === null) return end.lsn
    return yield* damaged(from, `replay would end at ${printLsn(end.lsn)}, because ${end.reason}; but ${loss}`)
  }
  const { segmentBytes } = base.current
  const end = yield* walkChain({ folder: wal, segmentBytes, pgTimeline: base.pgTimeline }, base.start, at)
  if (end.hasTablespace) return yield* refuseTablespace()
  if (end.lsn < base.stop) return yield* noLongerHeld(base, at)
  if (end.isLimit || end.lsn + headerBytes >= at) return end.lsn
  return yield* refuse(
    `its WAL ends at ${printLsn(end.lsn)} (${end.reason}), before ${printLsn(at)}`,
    "give an LSN up to which WAL was written, or none for the latest"
  )
})

interface Taken {
  readonly base: Base
  readonly manifest: Manifest | null
  readonly seen: Seen
}

/** Into the draft, which is empty: what the other timeline holds. `null`: it was changed meanwhile. */
const take = Effect.fnUntraced(function* (
  from: Layout,
  draft: Layout,
  at: Lsn | undefined
): Effect.fn.Return<Taken | null, Failure> {
  const seen = yield* look(from)
  const base = yield* readBase(from)
  if (base === null || seen.current === null) {
    return yield* refuse(`nothing is in ${from.root} yet`, "let its first start come to its end")
  }
  if (at !== undefined && at < base.stop) return yield* noLongerHeld(base, at)
  yield* failpoint("branch-begun")
  const taken = Effect.gen(function* () {
    const manifest = yield* shareBase(from, base, draft)
    yield* failpoint("branch-base-shared")
    yield* takeWal(from, base, seen.reached, draft.wal)
    yield* failpoint("branch-wal-taken")
    return { base, manifest, seen }
  })
  const isSame = Effect.map(look(from), (now) => isStill(seen, now))
  return yield* taken.pipe(
    Effect.flatMap((whole) => Effect.map(isSame, (same) => (same ? whole : null))),
    // A file that has gone is missed only if it should still be there.
    Effect.catch((failure) => Effect.flatMap(isSame, (same) => (same ? Effect.fail(failure) : Effect.succeed(null))))
  )
})

const emptyDraft = (draft: Layout) =>
  removeTree(draft.root).pipe(
    Effect.andThen(makeFolder(draft.root, draft.owner)),
    Effect.andThen(makeFolder(`${draft.wal}/archive_status`, draft.owner))
  )

const takeWhole = Effect.fnUntraced(function* (from: Layout, draft: Layout, at: Lsn | undefined) {
  for (let n = 0; n < looks; n++) {
    yield* emptyDraft(draft)
    const taken = yield* take(from, draft, at)
    if (taken !== null) return taken
  }
  return yield* refuse(`${from.root} got a new base each of ${looks} times`, "try again")
})

/** After this the draft is a whole timeline, on the disk. */
const finish = Effect.fnUntraced(function* (
  request: BranchRequest,
  draft: Layout,
  { base, manifest, seen }: Taken,
  lsn: Lsn
): Effect.fn.Return<void, Failure, Spawn> {
  const { current, pgTimeline, start } = base
  const { segmentBytes } = current
  yield* cutWal(draft.wal, base, lsn, draft.owner)
  const segment = printWalFile({ pgTimeline, number: segmentNumberBefore(lsn, segmentBytes) }, segmentBytes)
  const flushed = (yield* Lasting) ? lsn : 0n
  yield* writeReached(draft, { bootId: yield* readBootId, segment, written: lsn, flushed, stale: 0n })
  const made = DateTime.formatIso(DateTime.makeUnsafe(yield* Clock.currentTimeMillis))
  const ancestor = `${JSON.stringify({ timeline: request.from, lsn: printLsn(lsn), made }, null, 2)}\n`
  yield* replaceUnflushed(`${draft.root}/ancestor.json`, ancestor, draft.owner)
  yield* replaceUnflushed(draft.current, seen.current ?? "", draft.owner)
  const folder = current.format === 2 ? `${draft.root}/${current.folder}` : draft.root
  const names = [draft.current, `${draft.root}/ancestor.json`, folder, draft.root]
  const flushes: ReadonlyArray<Effect.Effect<void, FileFailed, Spawn>> = [
    manifest === null ? Effect.void : flushCopy({ folder, manifest }, []),
    // All of it: what the other timeline wrote may be in memory only.
    flushWal(draft, segmentNumberOf(start, segmentBytes), segmentBytes),
    ...names.map(flush)
  ]
  yield* Effect.all(flushes, { concurrency: "unbounded", discard: true })
  yield* failpoint("branch-flushed")
})

const taken = (root: string) =>
  refuse(
    `there is something in ${root} already`,
    "choose another timeline; or remove this one first: compute_ctl timelines rm"
  )

/** Whose the files are that are made: those of the timeline itself, where we may give them away. */
export const ownerOf = Effect.fnUntraced(function* (root: string): Effect.fn.Return<RunAs | null, FileFailed> {
  const stat = (yield* statOrNull(`${root}/current.json`)) ?? (yield* statOrNull(root))
  if (stat === null || process.geteuid?.() !== 0 || stat.uid === 0) return null
  return { name: String(stat.uid), uid: stat.uid, gid: stat.gid }
})

/**
 * Makes the branch, or changes nothing. What was acknowledged on the other timeline before the call is in it; with `at`
 * what ended at or before that LSN. Transactions that were open then are not.
 */
export const branchTimeline = Effect.fn("LocalStorage.branch")(
  function* (request: BranchRequest): Effect.fn.Return<Branch, Failure, Spawn> {
    const { at, from, storage, tenantId, to } = request
    const tenant = path.join(path.resolve(storage), tenantId)
    const root = path.join(tenant, from)
    const target = path.join(tenant, to)
    if ((yield* statOrNull(root)) === null) {
      const hint = "compute_ctl timelines says which there are; where there should be more, a volume may not be mounted"
      return yield* new StorageMissing({
        directory: storage,
        detail: `there is no timeline in ${root} to branch`,
        hint
      })
    }
    if ((yield* namesIn(target)).length > 0) return yield* taken(target)
    const owner = yield* ownerOf(root)
    yield* removeDrafts(tenant)
    const draft = layoutOf(draftPath(tenant, "branch"), owner)
    return yield* Effect.gen(function* () {
      const layout = layoutOf(root, owner)
      const whole = yield* takeWhole(layout, draft, at)
      const lsn = yield* findEnd(layout, whole, draft.wal, at)
      yield* finish(request, draft, whole, lsn)
      yield* rename(draft.root, target).pipe(
        Effect.catchTag("FileFailed", (failure): Effect.Effect<never, Failure> =>
          hasCode(failure, "ENOTEMPTY", "EEXIST") ? taken(target) : Effect.fail(failure)
        )
      )
      yield* flush(tenant)
      yield* failpoint("branch-named")
      return { lsn }
    }).pipe(Effect.ensuring(Effect.ignore(removeTree(draft.root))))
  },
  within("making a branch", draftWithin)
)
