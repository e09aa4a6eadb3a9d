/**
 * When was Postgres last used, and for how long did it not answer? (reference section 8). Decides, asks nobody.
 *
 * Times are milliseconds since the epoch by Postgres's own clock, fetched as numbers: no time zone can bend them.
 */

/** One look at Postgres. Sessions of our superuser are not in it. */
export interface Sample {
  readonly at: number
  /** Client sessions that are doing something, or are inside a transaction. */
  readonly busy: number
  /** When the client session that rested last began to rest; `null`: none rests. */
  readonly rested: number | null
  readonly autovacuum: number
  /** Walsenders other than the walproposer: somebody follows us. */
  readonly followers: number
  /** Subscriptions of ours that have a worker. */
  readonly subscriptions: number
  /** Sums over user databases, only with the feature `activity_monitor_experimental`. */
  readonly statistics: Statistics | null
}

export interface Statistics {
  readonly activeMillis: number
  readonly sessions: number
}

/** What one look leaves for the next. */
export interface Seen {
  readonly statistics: Statistics | null
}

export const nothingSeen: Seen = { statistics: null }

export interface Judgement {
  /** The latest moment this sample proves Postgres was used; `null`: it proves nothing. */
  readonly active: number | null
  readonly seen: Seen
}

/** Up or down: a crash resets the sums, and that too is activity. The first reading proves nothing. */
const moved = (before: Statistics | null, after: Statistics | null): boolean =>
  before !== null && after !== null && (before.activeMillis !== after.activeMillis || before.sessions !== after.sessions)

const worksNow = ({ autovacuum, busy, followers, subscriptions }: Sample): boolean =>
  busy > 0 || followers > 0 || subscriptions > 0 || autovacuum > 0

export const judge = (seen: Seen, sample: Sample): Judgement => ({
  active: worksNow(sample) || moved(seen.statistics, sample.statistics)
    ? sample.at
    : sample.rested === null
    ? null
    : Math.min(sample.rested, sample.at),
  seen: { statistics: sample.statistics ?? seen.statistics }
})

// -- downtime --------------------------------------------------------------------------------------------------

/** Milliseconds of our own clock. `total` grows by the time between two looks that both ended without an answer's proof. */
export interface Uptime {
  readonly lastUp: number
  readonly lastChecked: number
  readonly total: number
  /** 0 while Postgres answers. */
  readonly current: number
}

export const bornUp = (now: number): Uptime => ({ lastUp: now, lastChecked: now, total: 0, current: 0 })

export const answered = (uptime: Uptime, now: number): Uptime => ({ ...uptime, lastUp: now, lastChecked: now, current: 0 })

export const silent = (uptime: Uptime, now: number): Uptime => ({
  lastUp: uptime.lastUp,
  lastChecked: now,
  total: uptime.total + Math.max(0, now - uptime.lastChecked),
  current: Math.max(0, now - uptime.lastUp)
})

/** Every look that fails waits twice as long for the next, between half a second and five. */
export const pauseMillis = (failuresInRow: number): number => Math.min(5_000, 500 * 2 ** Math.max(0, failuresInRow - 1))
