/**
 * `compute_ctl check` of a volume: what a start would refuse, asked while nothing runs. Changes nothing.
 *
 * Whose data it is, pg_control, the major version, who owns the files, tablespaces, and the WAL since the last
 * checkpoint. The pages of tables are not read: their checksums are verified by `pg_checksums --check`.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { Failure } from "../../errors/Failure.ts"
import { causesOf, hintOf } from "../../errors/policy.ts"
import { realPath } from "../../platform/files.ts"
import { readBootId } from "../../platform/processes.ts"
import { printLsn } from "../../spec/identifiers.ts"
import { segmentNumberBefore, segmentNumberOf } from "../local/walSegments.ts"
import { followChain } from "../local/wal.ts"
import { readRecord, stateOf, type VolumeLayout, volumeLayout } from "./layout.ts"
import {
  firstTimeline,
  readControl,
  refuseUnknown,
  replayOf,
  requireSameMajor,
  requireSameSystem,
  requireTablespaces
} from "./verify.ts"

export interface Checked {
  readonly lines: ReadonlyArray<string>
  readonly isWhole: boolean
}

const findings = Effect.fnUntraced(function* (layout: VolumeLayout): Effect.fn.Return<Checked, Failure> {
  yield* refuseUnknown(layout, yield* stateOf(layout))
  const record = yield* readRecord(layout)
  if (record === null) return { lines: ["there is no cluster in it; a start makes a new one"], isWhole: false }
  yield* requireSameMajor(layout, record, record.pgMajor)
  const control = yield* readControl(layout)
  yield* requireSameSystem(layout, record, control)
  yield* requireTablespaces(layout)
  const replay = yield* replayOf(layout, record, control)
  const whose = `tenant ${record.tenant}, timeline ${record.timeline}, Postgres ${record.pgMajor}`
  if (replay.pgTimeline !== firstTimeline) {
    return { lines: [whose, `on Postgres timeline ${replay.pgTimeline}, whose WAL is not looked at`], isWhole: true }
  }
  const { end, loss } = yield* followChain(layout, replay, replay.from, yield* readBootId)
  if (loss !== null) {
    const where = `replay would end at ${printLsn(end.lsn)}, because ${end.reason}`
    return { lines: [whose, `damaged: pg_wal: ${where}; but ${loss}`], isWhole: false }
  }
  const { segmentBytes } = record
  const segments = segmentNumberBefore(end.lsn, segmentBytes) - segmentNumberOf(replay.from, segmentBytes) + 1n
  const stopped = control.shutDown ? "stopped in order" : "not stopped in order; the next start recovers"
  return {
    lines: [whose, stopped, `pg_wal: ${segments} segments, their records whole up to ${printLsn(end.lsn)}`],
    isWhole: true
  }
})

/** One line for each thing found, and the first that a start would refuse, with what to do. */
export const checkVolume = Effect.fn("VolumeStorage.check")(function* (pgdata: string): Effect.fn.Return<Checked> {
  const layout = volumeLayout(realPath(pgdata), null)
  const found = yield* Effect.result(findings(layout))
  const { isWhole, lines } = Result.isSuccess(found)
    ? found.success
    : { isWhole: false, lines: [`damaged: ${causesOf(found.failure).join(": ")}`, hintOf(found.failure)] }
  return { lines: [`${layout.root}: ${isWhole ? "whole" : "DAMAGED"}`, ...lines.map((line) => `  ${line}`)], isWhole }
})
