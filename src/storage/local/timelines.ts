/**
 * The timelines of a local storage: which are there, which is a branch of which, what each takes on the disk, and how
 * one is removed. What a branch shares with another it has under names of its own, so whichever is removed, the others
 * stay whole; only one that is in use is refused.
 */
import * as Effect from "effect/Effect"
import * as path from "node:path"
import * as fs from "node:fs"
import { type Failure, type FileFailed, StorageMissing, TimelineBusy } from "../../errors/Failure.ts"
import { attemptPromise } from "../../platform/files.ts"
import { holdLock, liveHolder } from "../../platform/lock.ts"
import type { TenantId, TimelineId } from "../../spec/identifiers.ts"
import { ownerOf, readAncestor } from "./branch.ts"
import { flush, removeTree, rename, statOrNull } from "./disk.ts"
import { draftPath, removeDrafts } from "./drafts.ts"
import { failpoint } from "./failpoint.ts"
import { fence } from "./fence.ts"
import { walChangedAt } from "./followWal.ts"
import { layoutOf, timelinesOf } from "./layout.ts"
import { entriesIn } from "./treeFiles.ts"

export interface TimelineInfo {
  readonly tenant: TenantId
  readonly timeline: TimelineId
  /** Of what it is a branch, from which LSN and since when; `null`: of nothing. */
  readonly ancestor: { readonly timeline: string; readonly lsn: string; readonly made: string } | null
  /** On the disk, with what it shares. */
  readonly bytes: number
  /** Of them those that removing it gives back: nobody shares them. */
  readonly ownBytes: number
  /** Milliseconds since 1970, or `null`: never. */
  readonly usedAt: number | null
  /** The compute that runs on it. */
  readonly holder: string | null
}

interface Usage {
  readonly bytes: number
  readonly ownBytes: number
}

/** Whoever runs on it may remove files meanwhile. */
const usageOf = (root: string): Effect.Effect<Usage, FileFailed> =>
  attemptPromise("look at", root, async () => {
    /** Names within the timeline of the files that have more than one. */
    const shared = new Map<number, { names: number; readonly links: number; readonly bytes: number }>()
    let ownBytes = (fs.lstatSync(root, { throwIfNoEntry: false })?.blocks ?? 0) * 512
    const visit = async (folder: string): Promise<void> => {
      for await (const { name } of entriesIn(folder)) {
        const stat = fs.lstatSync(`${folder}/${name}`, { throwIfNoEntry: false })
        if (stat === undefined) continue
        const bytes = stat.blocks * 512
        if (stat.isFile() && stat.nlink > 1) {
          const known = shared.get(stat.ino)
          if (known === undefined) shared.set(stat.ino, { names: 1, links: stat.nlink, bytes })
          else known.names++
        } else ownBytes += bytes
        if (stat.isDirectory()) await visit(`${folder}/${name}`).catch(unlessGone)
      }
    }
    await visit(root).catch(unlessGone)
    let others = 0
    for (const { bytes, links, names } of shared.values()) {
      if (names === links) ownBytes += bytes
      else others += bytes
    }
    return { bytes: ownBytes + others, ownBytes }
  })

const unlessGone = (cause: unknown): void => {
  if ((cause as { readonly code?: unknown }).code !== "ENOENT") throw cause
}

const infoOf = Effect.fnUntraced(function* (
  directory: string,
  tenant: string,
  timeline: string
): Effect.fn.Return<TimelineInfo, FileFailed> {
  const layout = layoutOf(path.join(directory, tenant, timeline), null)
  const usedAt = yield* walChangedAt(layout)
  return {
    tenant: tenant as TenantId,
    timeline: timeline as TimelineId,
    ancestor: yield* readAncestor(layout.root),
    ...(yield* usageOf(layout.root)),
    usedAt: usedAt === 0 ? null : usedAt,
    holder: (yield* statOrNull(layout.lock)) === null ? null : yield* liveHolder(layout.lock)
  }
})

/** By tenant and id. What killed programs left is removed. */
export const listTimelines: (directory: string) => Effect.Effect<ReadonlyArray<TimelineInfo>, FileFailed> = Effect.fn(
  "LocalStorage.timelines"
)(function* (directory) {
  const found: Array<TimelineInfo> = []
  for (const name of yield* timelinesOf(directory)) {
    const [tenant = "", timeline = ""] = name.split("/")
    if (found.at(-1)?.tenant !== tenant) yield* Effect.ignore(removeDrafts(path.join(directory, tenant)))
    found.push(yield* infoOf(directory, tenant, timeline))
  }
  return found
})

export interface RemoveRequest {
  /** The folder of local storage. */
  readonly storage: string
  readonly tenantId: TenantId
  readonly timelineId: TimelineId
}

/**
 * Removes a timeline that nobody uses, with all it holds; what a killed compute left running there is ended. Its name
 * goes first and at once.
 */
export const removeTimeline = Effect.fn("LocalStorage.removeTimeline")(function* ({
  storage,
  tenantId,
  timelineId
}: RemoveRequest): Effect.fn.Return<void, Failure> {
  const tenant = path.join(path.resolve(storage), tenantId)
  const root = path.join(tenant, timelineId)
  if ((yield* statOrNull(root)) === null) {
    const detail = `there is no timeline in ${root}`
    return yield* new StorageMissing({
      directory: storage,
      detail,
      hint: "compute_ctl timelines says which there are"
    })
  }
  yield* removeDrafts(tenant)
  const owner = yield* ownerOf(root)
  const layout = layoutOf(root, owner)
  const removed = draftPath(tenant, "removed")
  yield* Effect.scoped(
    Effect.gen(function* () {
      yield* holdLock({
        lock: layout.lock,
        owner,
        user: owner,
        allowUnfenced: false,
        busy: (holder, hint) => new TimelineBusy({ directory: root, holder, ...(hint === undefined ? {} : { hint }) }),
        // No data directory is ever there.
        prove: ({ fenced, leftBehind }) => fence(layout, root, fenced || !leftBehind)
      })
      yield* rename(root, removed)
      yield* flush(tenant)
      yield* failpoint("timeline-unnamed")
    })
  )
  yield* removeTree(removed)
})
