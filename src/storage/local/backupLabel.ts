/**
 * The text of backup_label, which makes Postgres replay from where a base begins, whatever pg_control says. Pure.
 *
 * Without it a base taken from a cleanly stopped cluster starts at once, ignores all later WAL and overwrites it.
 */
import * as Option from "effect/Option"
import type { ControlFile } from "../../postgres/controlFile.ts"
import { type Lsn, parseLsn, printLsn } from "../../spec/identifiers.ts"
import { printWalFile, segmentNumberOf } from "./walSegments.ts"

export interface BackupLabel {
  /** Replay begins here. */
  readonly start: Lsn
  /** The segment that holds `start`. */
  readonly startFile: string
  readonly checkpoint: Lsn
  readonly pgTimeline: number
}

export const parseBackupLabel = (text: string): Option.Option<BackupLabel> => {
  const start = /^START WAL LOCATION: (\S+) \(file ([0-9A-F]{24})\)$/m.exec(text)
  const checkpoint = /^CHECKPOINT LOCATION: (\S+)$/m.exec(text)
  const timeline = /^START TIMELINE: (\d+)$/m.exec(text)
  return Option.gen(function* () {
    return {
      start: yield* parseLsn(start?.[1] ?? ""),
      startFile: yield* Option.fromNullishOr(start?.[2]),
      checkpoint: yield* parseLsn(checkpoint?.[1] ?? ""),
      pgTimeline: Number(yield* Option.fromNullishOr(timeline?.[1]))
    }
  })
}

/**
 * The label of a base taken from a cleanly stopped cluster. Its method is not `streamed`, so Postgres does not look
 * for a record that ends the backup: the base was whole from the start. The time is a constant because nothing
 * reads it.
 */
export const coldBackupLabel = (control: ControlFile, segmentBytes: number): string => {
  const number = segmentNumberOf(control.redo, segmentBytes)
  const file = printWalFile({ pgTimeline: control.pgTimeline, number }, segmentBytes)
  return [
    `START WAL LOCATION: ${printLsn(control.redo)} (file ${file})`,
    `CHECKPOINT LOCATION: ${printLsn(control.checkpoint)}`,
    "BACKUP METHOD: pg_start_backup",
    "BACKUP FROM: primary",
    "START TIME: 2026-01-01 00:00:00 UTC",
    "LABEL: cold",
    `START TIMELINE: ${control.pgTimeline}`,
    ""
  ].join("\n")
}
