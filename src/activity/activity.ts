/**
 * When was Postgres last used, and for how long did it not answer? (reference section 8). Decides, asks nobody.
 *
 * Times are milliseconds since the epoch by Postgres's own clock, fetched as numbers: no time zone can bend them.
 */
import { type Activity, activityKinds, type Hold } from "../compute/ComputeState.ts"

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
  before !== null &&
  after !== null &&
  (before.activeMillis !== after.activeMillis || before.sessions !== after.sessions)

const worksNow = ({ autovacuum, busy, followers, subscriptions }: Sample): boolean =>
  busy > 0 || followers > 0 || subscriptions > 0 || autovacuum > 0

export const judge = (seen: Seen, sample: Sample): Judgement => ({
  active:
    worksNow(sample) || moved(seen.statistics, sample.statistics)
      ? sample.at
      : sample.rested === null
        ? null
        : Math.min(sample.rested, sample.at),
  seen: { statistics: sample.statistics ?? seen.statistics }
})

// -- explained -------------------------------------------------------------------------------------------------

const later = (before: number | null, after: number | null): number | null =>
  before === null ? after : after === null ? before : Math.max(before, after)

/** `seen` is what the look before left. */
export const explainSample = (before: Activity | null, seen: Seen, sample: Sample): Activity => {
  const { at, autovacuum, busy, followers, rested, subscriptions } = sample
  const statisticsMoved = moved(seen.statistics, sample.statistics)
  const when = (happens: boolean): number | null => (happens ? at : null)
  return {
    at,
    sessions: { client: busy, walsender: followers, subscription: subscriptions, autovacuum },
    statisticsMoved,
    last: {
      client: later(before?.last.client ?? null, busy > 0 ? at : rested === null ? null : Math.min(rested, at)),
      walsender: later(before?.last.walsender ?? null, when(followers > 0)),
      subscription: later(before?.last.subscription ?? null, when(subscriptions > 0)),
      autovacuum: later(before?.last.autovacuum ?? null, when(autovacuum > 0)),
      statistics: later(before?.last.statistics ?? null, when(statisticsMoved))
    }
  }
}

/** Did this look see something else than the one before? Its own time does not count. */
export const sawTheSame = (before: Activity | null, after: Activity): boolean =>
  before !== null &&
  before.statisticsMoved === after.statisticsMoved &&
  activityKinds.every((kind) => before.last[kind] === after.last[kind]) &&
  (["client", "walsender", "subscription", "autovacuum"] as const).every(
    (kind) => before.sessions[kind] === after.sessions[kind]
  )

export const maxHolds = 32
export const maxHoldSeconds = 86_400

export const livingHolds = (holds: ReadonlyArray<Hold>, now: number): ReadonlyArray<Hold> =>
  holds.filter(({ expiresAt }) => expiresAt > now)

const count = (many: number, one: string, more: string): string => `${many} ${many === 1 ? one : more}`

/** Why it counts as awake at this moment, as sentences; none: it could sleep. */
export const reasonsAwake = (
  activity: Activity | null,
  holds: ReadonlyArray<Hold>,
  now: number
): ReadonlyArray<string> => {
  const { autovacuum = 0, client = 0, subscription = 0, walsender = 0 } = activity?.sessions ?? {}
  return [
    ...(client > 0
      ? [`${count(client, "client session is", "client sessions are")} busy or inside a transaction`]
      : []),
    ...(walsender > 0
      ? [`${count(walsender, "replica or subscriber follows", "replicas or subscribers follow")} us`]
      : []),
    ...(subscription > 0
      ? [`${count(subscription, "subscription of ours has", "subscriptions of ours have")} a worker`]
      : []),
    ...(autovacuum > 0 ? [`${count(autovacuum, "autovacuum worker is", "autovacuum workers are")} at work`] : []),
    ...(activity?.statisticsMoved === true ? ["the statistics of user databases moved"] : []),
    ...livingHolds(holds, now).map(
      ({ expiresAt, reason }) => `a hold says "${reason}", for ${Math.ceil((expiresAt - now) / 1000)} s more`
    )
  ]
}

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

export const answered = (uptime: Uptime, now: number): Uptime => ({
  ...uptime,
  lastUp: now,
  lastChecked: now,
  current: 0
})

export const silent = (uptime: Uptime, now: number): Uptime => ({
  lastUp: uptime.lastUp,
  lastChecked: now,
  total: uptime.total + Math.max(0, now - uptime.lastChecked),
  current: Math.max(0, now - uptime.lastUp)
})

/** Every look that fails waits twice as long for the next, between half a second and five. */
export const pauseMillis = (failuresInRow: number): number => Math.min(5_000, 500 * 2 ** Math.max(0, failuresInRow - 1))
