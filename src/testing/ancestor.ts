/**
 * A cluster that is filled once, of which every test has its own branch.
 *
 * It is a compute that has ended and left a base with all its data, so that a branch replays nothing: it shares the
 * base's files, and writes into the data directory of a branch before it, which is kept beside the ancestor for as long
 * as that is there, what that one changed. All of it is in one folder, which goes with the process that made it.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { randomBytes } from "node:crypto"
import * as path from "node:path"
import { type Failure, SpecInvalid, StorageDamaged } from "../errors/Failure.ts"
import { makeFolder } from "../platform/files.ts"
import { Spawn } from "../platform/Spawn.ts"
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../spec/identifiers.ts"
import { branchTimeline } from "../storage/local/branch.ts"
import { Lasting, rename } from "../storage/local/disk.ts"
import { layoutOf, readBase } from "../storage/local/layout.ts"
import { copyStopped, readShutDown } from "../storage/local/publishBase.ts"
import type { StartedCompute } from "./computeProgram.ts"
import type { Ancestor } from "./options.ts"
import { keepUsed } from "./usedFolders.ts"

/** A timeline's folder is named by its ids, in the folder of the storage. */
interface Place {
  readonly storage: string
  readonly tenant: TenantId
  readonly timeline: TimelineId
}

const placeOf = ({ storage: root }: Ancestor): Result.Result<Place, SpecInvalid> => {
  const tenant = Option.getOrNull(parseTenantId(path.basename(path.dirname(root))))
  const timeline = Option.getOrNull(parseTimelineId(path.basename(root)))
  if (tenant !== null && timeline !== null)
    return Result.succeed({ storage: path.dirname(path.dirname(root)), tenant, timeline })
  const message = `${root} is no timeline's folder; give what makeAncestor made`
  return Result.fail(new SpecInvalid({ source: "branchOf", problems: [{ path: "storage", message }] }))
}

/** Where data directories of ended branches are kept. */
export const branchesOf = ({ storage }: Ancestor): string => path.join(storage, "../../..")

/** Ends the compute, and leaves in its folder a base with all that is in it; the folder of its timeline. */
export const leaveAncestor = Effect.fnUntraced(function* ({ options, runAs, spec, terminate }: StartedCompute) {
  const { pgdata, storage } = options
  const ended = yield* terminate
  if (ended.failure !== null) return yield* ended.failure
  const root = path.join(storage._tag === "Local" ? storage.directory : "", spec.tenant, spec.timeline)
  const layout = layoutOf(root, runAs)
  const base = yield* readBase(layout)
  const control = yield* readShutDown(layout, pgdata)
  if (base === null || control === null) {
    const hint = "look for why in its log"
    return yield* new StorageDamaged({ directory: root, detail: "its Postgres did not end in order", hint })
  }
  yield* copyStopped(layout, base, pgdata, control, new Map()).pipe(
    Effect.provide(Spawn.layer),
    Effect.provideService(Lasting, false)
  )
  const unknown = { before: new Map(), now: new Map() }
  yield* keepUsed(path.join(root, "../../.."), pgdata, runAs, unknown, true)
  return root
})

/** Makes a branch in `storage`, a folder that is not there yet; its ids. */
export const branchInto = Effect.fnUntraced(function* (
  ancestor: Ancestor,
  storage: string,
  runAs: StartedCompute["runAs"]
): Effect.fn.Return<{ readonly tenant: TenantId; readonly timeline: TimelineId }, Failure> {
  const { storage: from, tenant, timeline } = yield* Effect.fromResult(placeOf(ancestor))
  const to = Option.getOrThrow(parseTimelineId(randomBytes(16).toString("hex")))
  yield* branchTimeline({ storage: from, tenantId: tenant, from: timeline, to }).pipe(
    Effect.provide(Spawn.layer),
    Effect.provideService(Lasting, false)
  )
  yield* makeFolder(path.join(storage, tenant), runAs)
  yield* rename(path.join(from, tenant, to), path.join(storage, tenant, to))
  return { tenant, timeline: to }
})
