/**
 * Asks every safekeeper at once what it knows of a timeline, and decides whether they already agree.
 *
 * "No" is always a safe answer: then Postgres makes them agree. Never fails: a safekeeper that is silent, broken or
 * badly addressed is a reply like any other. Changes nothing on them.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { printHostPort } from "../../pgwire/address.ts"
import { connect, type StatementResult } from "../../pgwire/Wire.ts"
import { type Lsn, parseLsn, printLsn, type TenantId, type TimelineId } from "../../spec/identifiers.ts"
import { parseSafekeeper, safekeeperName } from "../../spec/parseStorage.ts"
import { NeonDeadlines } from "./deadlines.ts"
import { refusesToken } from "./refusals.ts"

/** What one safekeeper knows about the timeline, or why it did not answer. */
export type TimelineStatus =
  | { readonly _tag: "Known"; readonly safekeeper: string; readonly flush: Lsn; readonly commit: Lsn }
  | { readonly _tag: "Unknown"; readonly safekeeper: string }
  /** `refused`: it does not take our token, and will not take the walproposer's, which is the same. */
  | { readonly _tag: "Silent"; readonly safekeeper: string; readonly because: string; readonly refused?: boolean }

export type SyncStatus =
  | { readonly _tag: "Synced"; readonly lsn: Lsn }
  | { readonly _tag: "NotSynced"; readonly reason: string }
  /** There will never be a quorum: so many do not take the token. */
  | { readonly _tag: "Refused"; readonly reason: string }

export const quorumOf = (safekeepers: number): number => Math.floor(safekeepers / 2) + 1

/** Nothing that is still to come can change the decision: a quorum has answered, or a quorum has not. */
export const isDecided = (safekeepers: number, replies: ReadonlyArray<TimelineStatus>): boolean => {
  const silent = replies.filter((reply) => reply._tag === "Silent").length
  const quorum = quorumOf(safekeepers)
  return silent >= quorum || replies.length - silent >= quorum || replies.length >= safekeepers
}

const notSynced = (reason: string): SyncStatus => ({ _tag: "NotSynced", reason })

const describe = (reply: TimelineStatus): string =>
  reply._tag === "Known"
    ? `${reply.safekeeper} flushed ${printLsn(reply.flush)} and committed ${printLsn(reply.commit)}`
    : reply._tag === "Unknown"
      ? `${reply.safekeeper} does not know the timeline`
      : `${reply.safekeeper}: ${reply.because}`

/** `replies` are those collected until `isDecided`. The LSN may be 0/0: a timeline that exists and is empty. */
export const syncStatusOf = (safekeepers: number, replies: ReadonlyArray<TimelineStatus>): SyncStatus => {
  const answers = replies.filter((reply) => reply._tag !== "Silent")
  const quorum = quorumOf(safekeepers)
  if (safekeepers === 0) return notSynced("there are no safekeepers")
  if (answers.length < quorum) {
    const all = replies.map(describe).join("; ")
    const reason = `${answers.length} of ${safekeepers} safekeepers answered, ${quorum} are needed: ${all}`
    const refused = replies.filter((reply) => reply._tag === "Silent" && reply.refused === true).length
    return { _tag: safekeepers - refused < quorum ? "Refused" : "NotSynced", reason }
  }
  const known = answers.filter((reply) => reply._tag === "Known")
  const [first] = known
  if (first === undefined || known.length < answers.length) return notSynced(answers.map(describe).join("; "))
  const agreed = known.every((reply) => reply.flush === first.flush && reply.commit === first.flush)
  return agreed ? { _tag: "Synced", lsn: first.flush } : notSynced(known.map(describe).join("; "))
}

export interface TimelineQuery {
  readonly tenant: TenantId
  readonly timeline: TimelineId
  /** `host:port` or a URL each, as the spec has them. */
  readonly safekeepers: ReadonlyArray<string>
  readonly token: Redacted.Redacted<string> | null
}

const silent = (safekeeper: string, because: string, refused = false): TimelineStatus => ({
  _tag: "Silent",
  safekeeper,
  because,
  refused
})

/** One row `flush_lsn, commit_lsn`; no row: the timeline is not known there. */
const readStatus = (safekeeper: string, rows: StatementResult["rows"]): TimelineStatus => {
  const [row] = rows
  if (row === undefined) return { _tag: "Unknown", safekeeper }
  const flush = parseLsn(row[0] ?? "")
  const commit = parseLsn(row[1] ?? "")
  return Option.isNone(flush) || Option.isNone(commit)
    ? silent(safekeeper, "it answered something that is not a pair of LSNs")
    : { _tag: "Known", safekeeper, flush: flush.value, commit: commit.value }
}

const askOne = (query: TimelineQuery, address: string, within: Duration.Duration): Effect.Effect<TimelineStatus> => {
  const at = parseSafekeeper(address)
  if (Result.isFailure(at))
    return Effect.succeed(silent(safekeeperName(address), `its address cannot be used: ${at.failure}`))
  const safekeeper = printHostPort(at.success)
  const password = query.token ?? at.success.password
  return Effect.gen(function* () {
    const wire = yield* connect({
      host: at.success.host,
      port: at.success.port,
      user: at.success.user ?? "no_user",
      options: `-c timeline_id=${query.timeline} tenant_id=${query.tenant}`,
      connectWithin: within,
      ...(password === null ? {} : { password })
    })
    return readStatus(safekeeper, yield* wire.rows("TIMELINE_STATUS", within))
  }).pipe(
    Effect.scoped,
    Effect.catch((failure) => Effect.succeed(silent(safekeeper, failure.message, refusesToken(failure)))),
    Effect.timeoutOrElse({
      duration: within,
      orElse: () => Effect.succeed(silent(safekeeper, `no answer within ${Duration.toMillis(within)} ms`))
    })
  )
}

/** A safekeeper that is named twice, in whatever spelling, has one voice in the quorum. */
const distinct = (safekeepers: ReadonlyArray<string>): ReadonlyArray<string> => [
  ...new Map(safekeepers.map((one) => [safekeeperName(one), one])).values()
]

/** What every one of them answers at this moment, for whoever reads why a sync failed. */
export const surveySafekeepers = Effect.fn("NeonStorage.surveySafekeepers")(function* (query: TimelineQuery) {
  const { ping } = yield* NeonDeadlines
  const replies = yield* Effect.forEach(distinct(query.safekeepers), (one) => askOne(query, one, ping), {
    concurrency: "unbounded"
  })
  return replies.map(describe)
})

/** Stops asking as soon as the answer cannot change. docs/reference/compute_ctl.md#safekeeper-sync, fast path. */
export const checkSynced = Effect.fn("NeonStorage.askSafekeepers")(function* (query: TimelineQuery) {
  const { ping } = yield* NeonDeadlines
  const safekeepers = distinct(query.safekeepers)
  const total = safekeepers.length
  const replies = yield* Stream.fromIterable(safekeepers).pipe(
    Stream.mapEffect((safekeeper) => askOne(query, safekeeper, ping), { concurrency: "unbounded", unordered: true }),
    Stream.mapAccum(
      (): ReadonlyArray<TimelineStatus> => [],
      (seen, reply) => {
        const now = [...seen, reply]
        return [now, [now]]
      }
    ),
    Stream.takeUntil((seen) => isDecided(total, seen)),
    Stream.runLast
  )
  return syncStatusOf(
    total,
    Option.getOrElse(replies, () => [])
  )
})
