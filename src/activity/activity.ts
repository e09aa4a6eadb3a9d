/**
 * When was Postgres last used, and for how long did it not answer? (docs/reference/compute_ctl.md#activity-monitor).
 * Decides, asks nobody.
 *
 * Times are milliseconds since the epoch by Postgres's own clock, fetched as numbers: no time zone can bend them. How
 * long nobody has used it is counted by a clock that nobody sets.
 */
import { type Activity, type ActivityKind, activityKinds, type Hold } from "../compute/snapshot.ts"
import { compareStatistics, noStatistics, type Statistics, type StatisticsBaseline } from "./statistics.ts"

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
  readonly statistics: Statistics
}

/** What one sample leaves for the next to be compared with. */
export interface Baseline {
  /** `null`: there was none. */
  readonly at: number | null
  readonly idleSince: number | null
  readonly statistics: StatisticsBaseline
}

export const noBaseline: Baseline = { at: null, idleSince: null, statistics: noStatistics }

export interface ActivityDecision {
  /** The latest moment this sample proves Postgres was used; `null`: it proves nothing. */
  readonly active: number | null
  /** May it have been used since the sample before? Of the first, and after a clock was set back, nobody knows. */
  readonly used: boolean
  /** The statistics say that somebody was there. */
  readonly statisticsMoved: boolean
  readonly baseline: Baseline
}

const worksNow = ({ autovacuum, busy, walsenders, subscriptions }: Sample): boolean =>
  busy > 0 || walsenders > 0 || subscriptions > 0 || autovacuum > 0

export const decideActivity = (before: Baseline, sample: Sample): ActivityDecision => {
  const { at, idleSince } = sample
  const { baseline: statistics, moved } = compareStatistics(before.statistics, sample.statistics)
  const now = worksNow(sample) || moved
  const cameToRest = idleSince !== null && (before.idleSince === null || idleSince > before.idleSince)
  return {
    active: now ? at : idleSince === null ? null : Math.min(idleSince, at),
    used: now || cameToRest || before.at === null || at < before.at,
    statisticsMoved: moved,
    baseline: { at, idleSince, statistics }
  }
}

// -- idle for too long

/** As Neon's documentation has it: what 0, and no word about it, mean. */
const defaultIdleSeconds = 300

/** After how many seconds without use the spec lets the compute be suspended; `null`: never. */
export const idleTimeoutOf = (suspendTimeoutSeconds: number): number | null =>
  suspendTimeoutSeconds < 0 ? null : suspendTimeoutSeconds === 0 ? defaultIdleSeconds : suspendTimeoutSeconds

/** By a clock that only goes forward. */
export interface IdleClock {
  readonly usedAt: number
  /** When the last sample was taken. */
  readonly lookedAt: number
}

/** Time that nobody looked into is not known to be idle: Postgres did not answer, or we were not running. */
const longestGap = 5_000

export const idleClock = (before: IdleClock | null, used: boolean, now: number): IdleClock => ({
  usedAt: used || before === null || now - before.lookedAt > longestGap ? now : before.usedAt,
  lookedAt: now
})

// -- explained

const later = (before: number | null, after: number | null): number | null =>
  before === null ? after : after === null ? before : Math.max(before, after)

/** A moment that was seen by a clock which has been set back since counts as now. */
export const explainSample = (before: Activity | null, sample: Sample, statisticsMoved: boolean): Activity => {
  const { at, autovacuum, busy, walsenders, idleSince, subscriptions } = sample
  const last = (kind: ActivityKind): number | null => {
    const known = before?.last[kind] ?? null
    return known === null ? null : Math.min(known, at)
  }
  const when = (happens: boolean): number | null => (happens ? at : null)
  return {
    at,
    sessions: { client: busy, walsender: walsenders, subscription: subscriptions, autovacuum },
    statisticsMoved,
    last: {
      client: later(last("client"), busy > 0 ? at : idleSince === null ? null : Math.min(idleSince, at)),
      walsender: later(last("walsender"), when(walsenders > 0)),
      subscription: later(last("subscription"), when(subscriptions > 0)),
      autovacuum: later(last("autovacuum"), when(autovacuum > 0)),
      statistics: later(last("statistics"), when(statisticsMoved))
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

const count = (many: number, one: string, more: string): string => `${many} ${many === 1 ? one : more}`

/** Why it counts as awake at this moment, as sentences; none: it could sleep. `now` by the clock of `endsAt`. */
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
    ...holds.map(
      ({ endsAt, reason }) => `a hold says "${reason}", for ${Math.max(0, Math.ceil((endsAt - now) / 1000))} s more`
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
