/**
 * What postmaster.pid says: whose it is and how far that Postgres has come.
 *
 * Postgres rewrites the file in place, so a reader may see any beginning of it; a line counts only once its end is
 * there. Never throws.
 */

/** `standby` is a replica that does not accept connections yet; one that does says `ready`. */
export type PidFileStatus = "starting" | "ready" | "standby" | "stopping"

export interface PidFile {
  readonly pid: number
  readonly status: PidFileStatus
}

const statuses: ReadonlyArray<string> = ["starting", "ready", "standby", "stopping"] satisfies ReadonlyArray<PidFileStatus>
const isStatus = (text: string): text is PidFileStatus => statuses.includes(text)

/** Line 1 is the pid, line 8 the status, padded with spaces. `null`: not all of it is there (yet). */
export const parsePidFile = (text: string): PidFile | null => {
  const lines = text.split("\n")
  const whole = lines.slice(0, -1)
  const [pid, status] = [whole[0]?.trim() ?? "", whole[7]?.trim() ?? ""]
  return /^\d+$/.test(pid) && isStatus(status) ? { pid: Number(pid), status } : null
}
