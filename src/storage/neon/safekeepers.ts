/**
 * Asks every safekeeper at once what it knows of a timeline, and stops as soon as the answer cannot change.
 *
 * Never fails: a safekeeper that is silent, broken or badly addressed is a reply like any other. Changes nothing
 * on them.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { parseConnString } from "../../pgwire/ConnString.ts"
import type { TenantId, TimelineId } from "../../spec/identifiers.ts"
import { parseLsn } from "../../spec/Lsn.ts"
import { connect, type StatementResult } from "../../pgwire/Wire.ts"
import { isDecided, type Judgement, judge, type Reply } from "./quorum.ts"
import { NeonDeadlines } from "./deadlines.ts"

export interface Question {
  readonly tenant: TenantId
  readonly timeline: TimelineId
  /** `host:port` each. */
  readonly safekeepers: ReadonlyArray<string>
  readonly token: Redacted.Redacted<string> | null
}

const silent = (safekeeper: string, because: string): Reply => ({ _tag: "Silent", safekeeper, because })

/** One row `flush_lsn, commit_lsn`; no row: the timeline is not known there. */
const read = (safekeeper: string, rows: StatementResult["rows"]): Reply => {
  const [row] = rows
  if (row === undefined) return { _tag: "Unknown", safekeeper }
  const flush = parseLsn(row[0] ?? "")
  const commit = parseLsn(row[1] ?? "")
  return Option.isNone(flush) || Option.isNone(commit)
    ? silent(safekeeper, "it answered something that is not a pair of LSNs")
    : { _tag: "Known", safekeeper, flush: flush.value, commit: commit.value }
}

const ask = (question: Question, safekeeper: string, within: Duration.Duration): Effect.Effect<Reply> => {
  const at = parseConnString(`postgresql://no_user@${safekeeper}`)
  if (Result.isFailure(at)) return Effect.succeed(silent(safekeeper, `its address cannot be used: ${at.failure}`))
  return Effect.gen(function*() {
    const wire = yield* connect({
      host: at.success.host,
      port: at.success.port,
      user: "no_user",
      options: `-c timeline_id=${question.timeline} tenant_id=${question.tenant}`,
      connectWithin: within,
      ...(question.token === null ? {} : { password: question.token })
    })
    return read(safekeeper, yield* wire.rows("TIMELINE_STATUS", within))
  }).pipe(
    Effect.scoped,
    Effect.catch((failure) => Effect.succeed(silent(safekeeper, failure.message))),
    Effect.timeoutOrElse({
      duration: within,
      orElse: () => Effect.succeed(silent(safekeeper, `no answer within ${Duration.toMillis(within)} ms`))
    })
  )
}

/** Reference section 4.6, fast path. */
export const askSafekeepers = Effect.fn("NeonStorage.askSafekeepers")(function*(question: Question) {
  const { ping } = yield* NeonDeadlines
  const total = question.safekeepers.length
  const replies = yield* Stream.fromIterable(question.safekeepers).pipe(
    Stream.mapEffect((safekeeper) => ask(question, safekeeper, ping), { concurrency: "unbounded", unordered: true }),
    Stream.mapAccum((): ReadonlyArray<Reply> => [], (seen, reply) => {
      const now = [...seen, reply]
      return [now, [now]]
    }),
    Stream.takeUntil((seen) => isDecided(total, seen)),
    Stream.runLast
  )
  const judgement: Judgement = judge(total, Option.getOrElse(replies, () => []))
  return judgement
})
