/**
 * Which files of audit records may go, and how much there is of them (reference section 11.4). Pure.
 */
import * as Duration from "effect/Duration"

export interface AuditFile {
  readonly name: string
  readonly bytes: number
  /** Milliseconds since the epoch. */
  readonly modifiedAt: number
}

/** Postgres begins a new file every 5 minutes; what has rested this long was read and sent. */
export const auditAge = Duration.minutes(15)

export const isStale = (file: AuditFile, now: number): boolean =>
  file.name.startsWith("audit") && file.name.endsWith(".log") && now - file.modifiedAt > Duration.toMillis(auditAge)

/** Bytes of everything that is a log there. */
export const logBytes = (files: ReadonlyArray<AuditFile>): number =>
  files.filter(({ name }) => name.endsWith("log")).reduce((sum, { bytes }) => sum + bytes, 0)
