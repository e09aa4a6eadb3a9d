/**
 * How far a replica is behind its primary, and whether it still follows: by what it has replayed of the WAL that it
 * knows of, and by how long it has heard nothing. Decides only; `lifecycle/replicaWatch.ts` looks.
 *
 * Lag in time is counted by our clock, from the moment at which the replica knew of WAL that it has not replayed yet:
 * the age of the last transaction would grow while an idle primary has nothing to send.
 */
import type { Lsn } from "../spec/identifiers.ts"

/** What one look at a hot standby finds. Times are milliseconds. */
export interface ReplicaSample {
  /** Status of the WAL receiver; `null`: none is connected. */
  readonly receiver: string | null
  /** Since its last message. */
  readonly silentFor: number
  /** The end of the WAL that the replica knows of. */
  readonly end: Lsn
  readonly replayed: Lsn
  /** `wal_receiver_timeout`: after half of it the receiver asks a silent primary for an answer. 0: it never does. */
  readonly receiverTimeout: number
  /** `recovery_min_apply_delay`: a lag that is wanted. */
  readonly applyDelay: number
  /** Where its settings say that WAL comes from. */
  readonly source: "primary" | "archive" | null
}

/** The end of the WAL that was known at a moment. Milliseconds. */
interface KnownEnd {
  readonly at: number
  readonly end: Lsn
}

/** What is remembered from one look to the next. */
export interface Following {
  /** When the primary was last heard of; at first, when the watch began. */
  readonly heardAt: number
  readonly heard: boolean
  /** What was known and is not replayed yet, oldest first. */
  readonly pending: ReadonlyArray<KnownEnd>
}

export const notHeard = (now: number): Following => ({ heardAt: now, heard: false, pending: [] })

/** More of them are thinned out: a lag that has grown so long need not be known to the second. */
export const mostPending = 512

const thinned = (pending: ReadonlyArray<KnownEnd>): ReadonlyArray<KnownEnd> =>
  pending.length <= mostPending ? pending : pending.filter((_, index) => index % 2 === 0)

/** What the outside reads of a replica. */
export interface ReplicaState {
  /** As Postgres calls it, such as `streaming`; `null`: no WAL receiver is connected. */
  readonly receiver: string | null
  readonly replayed: Lsn
  readonly lagBytes: number
  /** Whole seconds. */
  readonly lagSeconds: number
  /** Milliseconds since the epoch, to the second; `null`: never. */
  readonly lastHeard: number | null
  /** 0: none. */
  readonly maxLagSeconds: number
  /** Why users should not be sent here, as the end of a sentence; `null`: it follows. */
  readonly notFollowing: string | null
}

/** An answer takes a while. */
const answerMillis = 1_000

/** For how long a connected receiver may hear nothing: an idle primary says nothing until it is asked. */
const silenceAllowed = (maxLag: number, { receiverTimeout }: ReplicaSample): number =>
  receiverTimeout === 0 ? Infinity : Math.max(maxLag, receiverTimeout / 2 + answerMillis)

const seconds = (millis: number): string => `${Math.round(millis / 1000)} s`

const whyNot = (
  sample: ReplicaSample,
  { lag, maxLag, silence }: { readonly lag: number; readonly silence: number; readonly maxLag: number },
  heard: boolean
): string | null => {
  if (maxLag === 0) return null
  const limit = `${seconds(maxLag)} (--replica-max-lag)`
  const { applyDelay, receiver, source } = sample
  if (source === null) return "its settings have no primary_conninfo and no restore_command, so it follows nobody"
  if (source === "primary" && receiver === null && silence > maxLag)
    return heard
      ? `it has no connection to its primary, and has heard nothing from it for more than ${limit}`
      : `it has never heard from its primary in more than ${limit}`
  const allowed = silenceAllowed(maxLag, sample)
  if (source === "primary" && receiver !== null && silence > allowed)
    return `it is connected to its primary, and has heard nothing from it for more than ${seconds(allowed)}`
  const wanted = maxLag + applyDelay
  return lag > wanted ? `it has not replayed WAL that it has known of for more than ${seconds(wanted)}` : null
}

/** One look. `now` is of a clock that nobody sets, `wall` of the one that people read; both in milliseconds. */
export const follow = (
  before: Following,
  sample: ReplicaSample,
  { maxLag, now, wall }: { readonly now: number; readonly wall: number; readonly maxLag: number }
): { readonly following: Following; readonly state: ReplicaState } => {
  const { end, receiver, replayed, silentFor } = sample
  const heard = before.heard || receiver !== null
  const heardAt = receiver === null ? before.heardAt : Math.max(before.heardAt, now - silentFor)
  const last = before.pending.at(-1)?.end ?? replayed
  const pending = thinned(
    [...before.pending, ...(end > last ? [{ at: now, end }] : [])].filter((known) => known.end > replayed)
  )
  const lag = now - (pending[0]?.at ?? now)
  const silence = now - heardAt
  return {
    following: { heardAt, heard, pending },
    state: {
      receiver,
      replayed,
      lagBytes: end > replayed ? Number(end - replayed) : 0,
      lagSeconds: Math.round(lag / 1000),
      lastHeard: heard ? Math.round((wall - silence) / 1000) * 1000 : null,
      maxLagSeconds: maxLag / 1000,
      notFollowing: whyNot(sample, { lag, silence, maxLag }, heard)
    }
  }
}
