/**
 * The first cluster on an empty volume: laid out beside its place from a seed cluster, made durable, and only then
 * moved into PGDATA and recorded.
 *
 * A marker is there from before the first file to after the record. A start that finds the marker and no record finds
 * nothing that is anybody's data, because Postgres has never run there, and begins anew.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import type { Failure } from "../../errors/Failure.ts"
import { hasCode, makeFolder, namesIn, removeFile } from "../../platform/files.ts"
import type { Spawn } from "../../platform/Spawn.ts"
import { ensureParents } from "../../postgres/pgdataFiles.ts"
import type { ParsedSpec } from "../../spec/ParsedSpec.ts"
import { flushCopy } from "../local/baseFolder.ts"
import { putFile } from "../local/copyTree.ts"
import { flush, removeTree, rename, replaceUnflushed } from "../local/disk.ts"
import { failpoint } from "../local/failpoint.ts"
import { layTree } from "../local/layTree.ts"
import { paced } from "../local/pacing.ts"
import {
  type ClusterRequest,
  controlPath,
  controlWith,
  copySeedWal,
  findSeedCluster,
  freshSystemId
} from "../local/seedCluster.ts"
import { ourFolder, type VolumeLayout, writeRecord } from "./layout.ts"

const workFolder = (layout: VolumeLayout): string => `${layout.ours}/new`

/** Also removes what a first start that was cut short has left. */
const mark = Effect.fnUntraced(function* (layout: VolumeLayout) {
  yield* replaceUnflushed(layout.first, "the first cluster is being made\n", layout.owner)
  yield* flush(layout.first)
  yield* flush(layout.ours)
  yield* flush(layout.root)
  yield* failpoint("first-marked")
  const names = (yield* namesIn(layout.root)).filter((name) => name !== "lost+found" && name !== ourFolder)
  yield* Effect.forEach(names, (name) => removeTree(`${layout.root}/${name}`), { discard: true })
})

/** Where seed clusters cannot be kept for the next volume, this one has its own for a while. */
const unwritable = ["EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR"] as const

const seedFor = (layout: VolumeLayout, wanted: ClusterRequest) => {
  // initdb runs as Postgres's user, and another compute's may be another one, who may not enter this folder.
  const directory = `${wanted.directory}/seeds-of-${layout.owner?.uid ?? process.geteuid?.()}`
  return ensureParents(`${directory}/templates`).pipe(
    Effect.andThen(findSeedCluster({ ...wanted, directory })),
    Effect.catchIf(
      (failure) => failure._tag === "FileFailed" && hasCode(failure, ...unwritable),
      () => findSeedCluster({ ...wanted, directory: layout.ours })
    )
  )
}

const layOut = Effect.fnUntraced(function* (layout: VolumeLayout, wanted: ClusterRequest, work: string) {
  const seed = yield* seedFor(layout, wanted)
  const systemId = yield* freshSystemId
  const pgdata = `${work}/pgdata`
  yield* makeFolder(pgdata, layout.owner)
  yield* paced("write", pgdata, "urgent", (pacer) =>
    layTree(pacer, seed.manifest, `${seed.folder}/pgdata`, pgdata, layout.owner)
  )
  yield* copySeedWal(seed, `${pgdata}/pg_wal`, layout.owner, systemId)
  yield* failpoint("first-wal")
  const control = yield* controlWith(seed, systemId)
  yield* paced("write", pgdata, "urgent", (pacer) =>
    putFile(pacer, pgdata, controlPath, Buffer.from(control), layout.owner)
  )
  yield* failpoint("first-copied")
  const wal = ["pg_wal/archive_status", ...seed.record.segments.map((name) => `pg_wal/${name}`)]
  yield* flushCopy({ folder: work, manifest: seed.manifest }, [...seed.manifest.files.keys(), ...wal])
  return { systemId, segmentBytes: seed.record.segmentBytes }
})

/** Returns when the cluster, and whose it is, would survive a power cut. */
export const makeFirstCluster: (
  layout: VolumeLayout,
  spec: Pick<ParsedSpec, "tenant" | "timeline">,
  wanted: ClusterRequest
) => Effect.Effect<void, Failure, Spawn> = Effect.fnUntraced(function* (layout, { tenant, timeline }, wanted) {
  yield* mark(layout)
  const work = workFolder(layout)
  yield* removeTree(work)
  const { segmentBytes, systemId } = yield* layOut(layout, wanted, work)
  const names = yield* namesIn(`${work}/pgdata`)
  for (const [index, name] of names.entries()) {
    if (index === Math.floor(names.length / 2)) yield* failpoint("first-moved-half")
    yield* rename(`${work}/pgdata/${name}`, `${layout.root}/${name}`)
  }
  yield* flush(layout.root)
  yield* failpoint("first-moved")
  const record = { format: 1, tenant, timeline, systemId: systemId.toString(), pgMajor: wanted.install.major } as const
  yield* writeRecord(layout, { ...record, segmentBytes })
  yield* failpoint("first-recorded")
  yield* flush(layout.root)
  // The way to the volume may be a folder we cannot read, and then it is not new.
  yield* Effect.ignore(flush(path.dirname(layout.root)))
  yield* finishFirst(layout)
})

/** Away with what a first start needed, the marker last; for one that got as far as the record. */
export const finishFirst = Effect.fnUntraced(function* (layout: VolumeLayout) {
  if (!fs.existsSync(layout.first)) return
  yield* removeTree(workFolder(layout))
  yield* removeTree(`${layout.ours}/templates`)
  yield* removeFile(layout.first)
  yield* flush(layout.ours)
})
