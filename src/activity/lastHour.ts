/**
 * What kept a compute awake, minute by minute, for the last hour. Remembers what the snapshots of the state show; asks
 * nobody. Times are milliseconds since the epoch. Pure.
 */
import { type ActivityKind, activityKinds, type Snapshot } from "../compute/snapshot.ts"
import type { Status } from "../compute/transitions.ts"

export const minutesKept = 60
const minute = 60_000

/** Why a minute counts: somebody used Postgres in one of these ways, or held the compute awake. */
export type Reason = ActivityKind | "hold"

/** By the number of the minute since the epoch. */
export type Marks = ReadonlyMap<number, ReadonlySet<Reason>>

export const noMarks: Marks = new Map()

/** The same marks when there is nothing new. */
const mark = (marks: Marks, at: number, reason: Reason): Marks => {
  const number = Math.floor(at / minute)
  const there = marks.get(number)
  return there?.has(reason) === true ? marks : new Map(marks).set(number, new Set([...(there ?? []), reason]))
}

const forget = (marks: Marks, now: number): Marks => {
  const oldest = Math.floor(now / minute) - minutesKept
  return marks.keys().some((number) => number < oldest)
    ? new Map(marks.entries().filter(([number]) => number >= oldest))
    : marks
}

/** With what a snapshot shows. A moment of the future, by a clock that was set back, counts as now. */
export const remember = (
  marks: Marks,
  { activity, holds }: Pick<Snapshot, "activity" | "holds">,
  now: number
): Marks => {
  const moments = activityKinds.flatMap((kind) => {
    const last = activity?.last[kind] ?? null
    return last === null || last < now - minutesKept * minute ? [] : [[kind, Math.min(last, now)] as const]
  })
  const seen = moments.reduce((sum, [kind, at]) => mark(sum, at, kind), marks)
  return forget(holds.length > 0 ? mark(seen, now, "hold") : seen, now)
}

export interface Minute {
  /** When it began. */
  readonly at: number
  readonly reasons: ReadonlyArray<Reason>
  /** Did the compute serve at some time in it? */
  readonly served: boolean
}

/** Statuses in which Postgres is asked what it does. */
const served: ReadonlySet<Status> = new Set([
  "running",
  "configuration_pending",
  "configuration",
  "refresh_configuration_pending",
  "refresh_configuration"
])

interface Change {
  readonly from: Status
  readonly at: { readonly epochMilliseconds: number }
}

/** When it was in such a status, oldest first. `configuration_pending` before the first start is no service. */
const intervals = ({ history, metrics, startTime, status }: Snapshot, now: number) => {
  const firstRun = history.find(({ to }) => to === "running")?.at.epochMilliseconds ?? null
  const known = firstRun ?? (metrics.total_startup_ms > 0 ? startTime.epochMilliseconds : null)
  if (known === null) return []
  const ends: ReadonlyArray<Change> = [...history, { from: status, at: { epochMilliseconds: now } }]
  return ends.flatMap(({ at, from }, index) => {
    const since = Math.max(known, ends[index - 1]?.at.epochMilliseconds ?? startTime.epochMilliseconds)
    return served.has(from) && at.epochMilliseconds > since ? [[since, at.epochMilliseconds] as const] : []
  })
}

/** The last hour, oldest first, with the minute that is not over yet at its end. */
export const lastHour = (marks: Marks, snapshot: Snapshot, now: number): ReadonlyArray<Minute> => {
  const current = Math.floor(now / minute)
  const times = intervals(snapshot, now)
  return Array.from({ length: minutesKept }, (_, index) => {
    const number = current - minutesKept + 1 + index
    const at = number * minute
    const reasons = marks.get(number) ?? new Set<Reason>()
    return {
      at,
      reasons: [...activityKinds, "hold" as const].filter((reason) => reasons.has(reason)),
      served: times.some(([from, to]) => from < at + minute && to > at)
    }
  })
}
