/**
 * What the sums of `pg_stat_database` say of sessions that came and went between two looks
 * (docs/reference/compute_ctl.md#activity-monitor). Pure.
 *
 * They count our own sessions, too, and each at a moment of its own: a process writes what it counted down when it
 * rests, or ends. So the sums are compared with how many sessions of ours Postgres let in; strictly when none of ours
 * can be on its way into them, and else by what ours cannot explain.
 */
import type { OwnSessionCounts } from "../pgwire/ownSessions.ts"

/** Sums over users' databases. */
export interface Statistics {
  readonly activeMillis: number
  readonly sessions: number
  /** Ours, up to the answer. */
  readonly own: Pick<OwnSessionCounts, "begun" | "opened" | "atMost">
  /** None of ours was there during the look, and none of our processes is left. */
  readonly quiet: boolean
}

/** What the sums are compared with. */
interface Known {
  readonly activeMillis: number
  readonly sessions: number
  readonly begun: number
  readonly opened: number
}

export interface StatisticsBaseline {
  /** `null`: not yet, or not any more. */
  readonly known: Known | null
  /** Of the look before. */
  readonly quiet: boolean
}

export const noStatistics: StatisticsBaseline = { known: null, quiet: false }

interface Compared {
  /** Somebody other than us was there. */
  readonly moved: boolean
  readonly baseline: StatisticsBaseline
}

/** The first reading proves nothing. Sums that fell do: Postgres has crashed, or a database was dropped. */
export const compareStatistics = ({ known, quiet }: StatisticsBaseline, now: Statistics): Compared => {
  // A process that left during the look may have been counted behind it; behind the next it has been.
  const settled = quiet && now.quiet
  const { activeMillis, own, sessions } = now
  const next = (moved: boolean, known: Known | null): Compared => ({ moved, baseline: { known, quiet: now.quiet } })
  const fresh = settled ? { activeMillis, sessions, begun: own.begun, opened: own.opened } : null
  if (known === null) return next(false, fresh)
  if (sessions < known.sessions || activeMillis < known.activeMillis) return next(true, fresh)
  const came = sessions - known.sessions
  if (fresh === null) {
    const unexplained = came - (own.atMost - known.opened)
    return unexplained > 0 ? next(true, { ...known, sessions: known.sessions + unexplained }) : next(false, known)
  }
  const worked = own.begun === known.begun && activeMillis !== known.activeMillis
  return next(worked || came > own.opened - known.opened, fresh)
}
