/**
 * When was Postgres last used, and for how long did it not answer? (docs/reference/compute_ctl.md#activity-monitor).
 * Decides, asks nobody.
 *
 * Times are milliseconds since the epoch by Postgres's own clock, fetched as numbers: no time zone can bend them.
 */
import { type Activity, activityKinds, type Hold } from "../compute/snapshot.ts"

/** One sample of what Postgres is doing. Sessions of our superuser are not in it. */
export interface Sample {
  readonly at: number
  /** Client sessions that are doing something, or are inside a transaction. */
  readonly busy: number
  /** When the client session that became idle last did so; `null`: none is idle. */
  readonly idleSince: number | null
  readonly autovacuum: number
  /** Walsenders other than the walproposer: replicas and subscribers. */
  readonly walsenders: number
  /** Subscriptions of ours that have a worker. */
  readonly subscriptions: number
  /** Sums over user databases, only with the feature `activity_monitor_experimental`. */
  readonly statistics: Statistics | null
}

export interface Statistics {
  readonly activeMillis: number
  readonly sessions: number
}

/** What one sample leaves for the next to be compared with. */
export interface Baseline {
  readonly statistics: Statistics | null
}

export const noBaseline: Baseline = { statistics: null }

export interface ActivityDecision {
  /** The latest moment this sample proves Postgres was used; `null`: it proves nothing. */
  readonly active: number | null
  readonly baseline: Baseline
}

/** Up or down: a crash resets the sums, and that too is activity. The first reading proves nothing. */
const moved = (before: Statistics | null, after: Statistics | null): boolean =>
  before !== null &&
  after !== null &&
  (before.activeMillis !== after.activeMillis || before.sessions !== after.sessions)

const worksNow = ({ autovacuum, busy, walsenders, subscriptions }: Sample): boolean =>
  busy > 0 || walsenders > 0 || subscriptions > 0 || autovacuum > 0

export const decideActivity = (baseline: Baseline, sample: Sample): ActivityDecision => ({
  active:
    worksNow(sample) || moved(baseline.statistics, sample.statistics)
      ? sample.at
      : sample.idleSince === null
        ? null
        : Math.min(sample.idleSince, sample.at),
  baseline: { statistics: sample.statistics ?? baseline.statistics }
})

// -- explained

const later = (before: number | null, after: number | null): number | null =>
  before === null ? after : after === null ? before : Math.max(before, after)

/** `baseline` is what the sample before left. */
export const explainSample = (before: Activity | null, baseline: Baseline, sample: Sample): Activity => {
  const { at, autovacuum, busy, walsenders, idleSince, subscriptions } = sample
  const statisticsMoved = moved(baseline.statistics, sample.statistics)
  const when = (happens: boolean): number | null => (happens ? at : null)
  return {
    at,
    sessions: { client: busy, walsender: walsenders, subscription: subscriptions, autovacuum },
    statisticsMoved,
    last: {
      client: later(before?.last.client ?? null, busy > 0 ? at : idleSince === null ? null : Math.min(idleSince, at)),
      walsender: later(before?.last.walsender ?? null, when(walsenders > 0)),
      subscription: later(before?.last.subscription ?? null, when(subscriptions > 0)),
      autovacuum: later(before?.last.autovacuum ?? null, when(autovacuum > 0)),
      statistics: later(before?.last.statistics ?? null, when(statisticsMoved))
    }
  }
}

/** Does this sample say the same as the one before? Its own time does not count. */
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

// -- downtime

/** Milliseconds of our own clock. `total` grows by the time between two samples that both went unanswered. */
export interface Uptime {
  readonly lastUp: number
  readonly lastChecked: number
  readonly total: number
  /** 0 while Postgres answers. */
  readonly current: number
}

export const upSince = (now: number): Uptime => ({ lastUp: now, lastChecked: now, total: 0, current: 0 })

export const answered = (uptime: Uptime, now: number): Uptime => ({
  ...uptime,
  lastUp: now,
  lastChecked: now,
  current: 0
})

export const unanswered = (uptime: Uptime, now: number): Uptime => ({
  lastUp: uptime.lastUp,
  lastChecked: now,
  total: uptime.total + Math.max(0, now - uptime.lastChecked),
  current: Math.max(0, now - uptime.lastUp)
})

/** After every failed sample the pause is twice as long, between half a second and five. */
export const pauseMillis = (failuresInRow: number): number => Math.min(5_000, 500 * 2 ** Math.max(0, failuresInRow - 1))
