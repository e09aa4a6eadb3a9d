/**
 * `compute_ctl check`: all of a storage that a start would rely on, verified while nothing runs. Changes nothing.
 *
 * For each timeline: the record of the base, its manifest, the digest of every file in it, that all WAL since is there
 * and of this cluster, and that its records are whole up to where WAL is known to have been written. A compute that
 * runs meanwhile may replace the base under the check, which then looks again.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import type { Failure, FileFailed, StorageDamaged } from "../../errors/Failure.ts"
import { parseSegmentHeader } from "../../postgres/controlFile.ts"
import { type Lsn, printLsn } from "../../spec/identifiers.ts"
import { readManifest } from "./baseFolder.ts"
import { readStart, statOrNull } from "./disk.ts"
import { type Base, type Layout, layoutOf, readBase, timelinesOf } from "./layout.ts"
import { verifyTree } from "./layTree.ts"
import { totalBytes } from "./manifest.ts"
import { paced } from "./pacing.ts"
import { inspectWal } from "./wal.ts"
import { printWalFile, segmentNumberBefore, segmentNumberOf } from "./walSegments.ts"

interface Found {
  readonly whole: ReadonlyArray<string>
  readonly damaged: ReadonlyArray<string>
}

const checkFiles = Effect.fnUntraced(function* (layout: Layout, base: Base): Effect.fn.Return<Found, FileFailed> {
  const { current } = base
  if (current.format === 1) {
    const stat = yield* statOrNull(`${layout.root}/${current.tar}`)
    return stat?.size === current.tarBytes
      ? { whole: [`${current.tar}: ${current.tarBytes} bytes; one of an older version, without digests`], damaged: [] }
      : { whole: [], damaged: [`${current.tar} is missing or not ${current.tarBytes} bytes long`] }
  }
  const folder = `${layout.root}/${current.folder}`
  const manifest = yield* Effect.result(readManifest(folder, current.manifest, "urgent"))
  if (Result.isFailure(manifest)) {
    return { whole: [], damaged: [`${current.folder}/manifest ${manifest.failure}`] }
  }
  const problems = yield* paced("verify", folder, "urgent", (pacer) =>
    verifyTree(pacer, manifest.success, `${folder}/pgdata`)
  )
  if (problems.length > 0) {
    return { whole: [], damaged: problems.map((problem) => `${current.folder}/pgdata/${problem}`) }
  }
  const count = `${manifest.success.files.size} files, ${totalBytes(manifest.success)} bytes`
  return { whole: [`${current.folder}: ${count}, all as they were written`], damaged: [] }
})

/** Is every segment of the chain one of this cluster? */
const foreignSegment = Effect.fnUntraced(function* (layout: Layout, base: Base, end: Lsn) {
  const { segmentBytes, systemId } = base.current
  const last = segmentNumberBefore(end, segmentBytes)
  for (let number = segmentNumberOf(base.start, segmentBytes); number <= last; number++) {
    const name = printWalFile({ pgTimeline: base.pgTimeline, number }, segmentBytes)
    const parsed = Result.getOrNull(parseSegmentHeader(yield* readStart(`${layout.wal}/${name}`, 64)))
    if (parsed?.systemId !== BigInt(systemId)) return name
  }
  return null
})

const checkWalOf = Effect.fnUntraced(function* (
  layout: Layout,
  base: Base
): Effect.fn.Return<Found, FileFailed | StorageDamaged> {
  const { damage, end, segments } = yield* inspectWal(layout, base)
  if (damage !== null) return { whole: [], damaged: [damage] }
  const foreign = yield* foreignSegment(layout, base, end)
  if (foreign !== null) return { whole: [], damaged: [`wal/${foreign} is of another cluster`] }
  return { whole: [`wal: ${segments} segments, their records whole up to ${printLsn(end)}`], damaged: [] }
})

const checkBaseOf = Effect.fnUntraced(function* (layout: Layout): Effect.fn.Return<Found, Failure> {
  const base = yield* readBase(layout)
  if (base === null) {
    const empty = (yield* statOrNull(layout.first)) !== null
    return empty
      ? { whole: ["its first start has not ended; nothing is in it yet"], damaged: [] }
      : { whole: [], damaged: ["current.json, which says how to start from it, is missing"] }
  }
  const parts = [yield* checkFiles(layout, base), yield* checkWalOf(layout, base)]
  return { whole: parts.flatMap(({ whole }) => whole), damaged: parts.flatMap(({ damaged }) => damaged) }
})

/** How often a base that is replaced meanwhile is looked at again. */
const looks = 5

const checkTimeline = Effect.fnUntraced(function* (root: string): Effect.fn.Return<Found> {
  const layout = layoutOf(root, null)
  const text = () => Result.getOrNull(Result.try(() => fs.readFileSync(layout.current, "utf8")))
  for (let look = 1; ; look++) {
    const before = text()
    const found = yield* Effect.catch(checkBaseOf(layout), (failure) =>
      Effect.succeed<Found>({
        whole: [],
        damaged: [failure._tag === "StorageDamaged" ? failure.detail : failure.message]
      })
    )
    if (found.damaged.length === 0 || look === looks || text() === before) return found
  }
})

export interface Checked {
  readonly lines: ReadonlyArray<string>
  readonly isWhole: boolean
}

/** One line for each thing that is whole or damaged, timeline by timeline. Damaged also when there is no timeline. */
export const checkStorage = Effect.fn("LocalStorage.check")(function* (
  directory: string
): Effect.fn.Return<Checked, FileFailed> {
  const roots = yield* timelinesOf(directory)
  if (roots.length === 0) return { lines: [`${directory}: no timeline of local storage is here`], isWhole: false }
  const lines: Array<string> = []
  let isWhole = true
  for (const root of roots) {
    const { damaged, whole } = yield* checkTimeline(`${directory}/${root}`)
    isWhole &&= damaged.length === 0
    lines.push(`${root}: ${damaged.length === 0 ? "whole" : "DAMAGED"}`)
    lines.push(...damaged.map((line) => `  damaged: ${line}`), ...whole.map((line) => `  whole: ${line}`))
  }
  if (!isWhole) {
    lines.push("Delete nothing. Restore what is damaged, or the whole timeline, from a copy.")
  }
  return { lines, isWhole }
})
